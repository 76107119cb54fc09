package socket

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestProbeProvesAcceptanceOnASlotThatReceivesNothing(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			serving, newcomer := serve(t, l, 0), serve(t, l, 2)
			probe(t, l, 2)
			if newcomer.accepted() != 1 || serving.accepted() != 0 {
				t.Fatalf("newcomer accepted %d, the serving worker %d", newcomer.accepted(), serving.accepted())
			}
			if got := mustAsk(t, target(l, c.client)); got != 0 {
				t.Fatalf("after the probe slot %d answered", got)
			}
		})
	}
}

func TestProbeEndsWithItsContextWhenNobodyAccepts(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	accepting(t, l, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Probe(ctx, 1, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("nobody accepts: %v", err)
	}
}

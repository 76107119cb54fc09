package logs

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestALogThatNobodyReadsKeepsNobodyWaiting(t *testing.T) {
	defer goleak.VerifyNone(t)
	out := &gate{open: make(chan struct{})}
	q := NewQueue(slog.NewTextHandler(out, nil))
	log := slog.New(q).With("a", 1)
	const extra = 500
	log.Info("line", "n", 0)
	for len(q.lines) > 0 { // until the writer is stuck with the first
		<-time.After(time.Millisecond)
	}
	for n := range queueLines + extra {
		log.Info("line", "n", n+1)
	}
	close(out.open)
	q.Close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != queueLines+2 {
		t.Fatalf("%d lines, want %d", len(lines), queueLines+2)
	}
	for n, l := range lines[:queueLines+1] {
		if !strings.HasSuffix(l, fmt.Sprintf(`msg=line a=1 n=%d`, n)) {
			t.Fatalf("line %d is %q", n, l)
		}
	}
	if last := lines[queueLines+1]; !strings.Contains(last, "level=WARN") || !strings.HasSuffix(last, fmt.Sprintf(" lines=%d", extra)) {
		t.Errorf("the last line is %q", last)
	}
}

func TestDroppedLinesAreCountedOnceThereIsRoom(t *testing.T) {
	defer goleak.VerifyNone(t)
	out := &gate{open: make(chan struct{})}
	q := NewQueue(slog.NewTextHandler(out, nil))
	log := slog.New(q)
	for range queueLines + 100 {
		log.Info("line")
	}
	close(out.open)
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(out.String(), "level=WARN") {
		if time.Now().After(deadline) {
			t.Fatal("nobody said that lines were dropped")
		}
		<-time.After(time.Millisecond)
	}
	log.Info("again")
	q.Close()
	if n := strings.Count(out.String(), "level=WARN"); n != 1 {
		t.Errorf("said %d times", n)
	}
	if !strings.HasSuffix(out.String(), "msg=again\n") {
		t.Error("the line after it is missing")
	}
}

func TestClosingALogThatNobodyReadsEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	out := &gate{open: make(chan struct{})}
	q := NewQueue(slog.NewTextHandler(out, nil))
	slog.New(q).Info("stuck")
	q.Close()
	close(out.open)
	<-q.ended
	if !strings.Contains(out.String(), "msg=stuck") {
		t.Errorf("written was %q", out.String())
	}
}

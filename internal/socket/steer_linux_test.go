package socket

import (
	"testing"
)

func TestSteerChoosesTheSlot(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			for slot := range 3 {
				serve(t, l, slot)
			}
			for _, slot := range []int{0, 2, 1, 0, 1} {
				must(t, l.Steer([]Share{{Slot: slot, Weight: 1}}))
				for range 5 {
					if got := mustAsk(t, target(l, c.client)); got != slot {
						t.Fatalf("steered to %d, slot %d answered", slot, got)
					}
				}
			}
		})
	}
}

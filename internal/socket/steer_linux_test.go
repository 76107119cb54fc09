package socket

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
)

func to(slots ...int) []Share {
	var table []Share
	for _, s := range slots {
		table = append(table, Share{Slot: s, Weight: 1})
	}
	return table
}

func TestSteerChoosesTheSlot(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			for slot := range 3 {
				serve(t, l, slot)
			}
			for _, slot := range []int{0, 2, 1, 0, 1} {
				must(t, l.Steer(to(slot)))
				for range 5 {
					if got := mustAsk(t, target(l, c.client)); got != slot {
						t.Fatalf("steered to %d, slot %d answered", slot, got)
					}
				}
			}
		})
	}
}

func TestSlotZeroReceivesEverythingBeforeTheFirstSteer(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 4)
	for slot := range 4 {
		serve(t, l, slot)
	}
	for range 50 {
		if got := mustAsk(t, target(l, "127.0.0.1")); got != 0 {
			t.Fatalf("slot %d answered", got)
		}
	}
}

// A client that begins to connect after Steer has returned reaches the slot
// then steered to, or one steered to later, and never an earlier one.
func TestSteerIsExactUnderLoad(t *testing.T) {
	const slots, steps = 4, 120
	l := steeredAt(t, ":0", slots)
	for slot := range slots {
		serve(t, l, slot)
	}
	var begun, done atomic.Int64 // the step Steer was last called for, and last returned from
	var stop atomic.Bool
	var clients sync.WaitGroup
	var asked atomic.Int64
	for range 4 {
		clients.Go(func() { // ends with stop
			for !stop.Load() {
				first := done.Load()
				got, err := ask(target(l, "127.0.0.1"))
				last := begun.Load()
				if err != nil {
					t.Error(err)
					return
				}
				asked.Add(1)
				ok := last-first >= slots-1 // too long to tell
				for step := first; step <= last; step++ {
					ok = ok || got == int(step%slots)
				}
				if !ok {
					t.Errorf("slot %d answered between steps %d and %d", got, first, last)
				}
			}
		})
	}
	for step := int64(1); step <= steps; step++ {
		begun.Store(step)
		must(t, l.Steer(to(int(step%slots))))
		done.Store(step)
		before := asked.Load()
		eventually(t, "clients connect", func() bool { return asked.Load() > before+20 || t.Failed() })
	}
	stop.Store(true)
	clients.Wait()
}

func TestSeveralSharesSpreadEvenly(t *testing.T) {
	const draws = 2000
	// Chi-squared for 1, 2 and 6 degrees of freedom, exceeded by chance once in
	// 100,000 times.
	limit := map[int]float64{2: 19.5, 3: 23.0, 7: 33.1}
	for _, n := range []int{2, 3, 7} {
		l := steeredAt(t, "[::1]:0", n)
		var table []Share
		for slot := range n {
			serve(t, l, slot)
			table = append(table, Share{Slot: slot, Weight: 1})
		}
		must(t, l.Steer(table))
		got := draw(t, l, "::1", draws)
		chi, want := 0.0, float64(draws)/float64(n)
		for slot := range n {
			chi += math.Pow(float64(got[slot])-want, 2) / want
		}
		t.Logf("%d slots: %v, chi-squared %.1f", n, got, chi)
		if chi > limit[n] {
			t.Errorf("%d slots are not uniform: %v", n, got)
		}
	}
}

func TestWeightsAreKept(t *testing.T) {
	const draws = 2000
	l := steeredAt(t, "127.0.0.1:0", 2)
	serve(t, l, 0)
	serve(t, l, 1)
	must(t, l.Steer([]Share{{Slot: 0, Weight: 95}, {Slot: 1, Weight: 5}}))
	got := draw(t, l, "127.0.0.1", draws)
	// 5 % of 2000 is 100, with a standard deviation below 10.
	if got[1] < 50 || got[1] > 150 || got[0]+got[1] != draws {
		t.Errorf("95 to 5 became %v", got)
	}
}

func draw(t *testing.T, l Listener, host string, n int) map[int]int {
	t.Helper()
	got := make(map[int]int)
	for range n {
		got[mustAsk(t, target(l, host))]++
	}
	return got
}

func TestSteerRefusesWhatHasNoMeaning(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 1)
	serve(t, l, 0)
	if err := l.Steer(nil); err == nil {
		t.Error("an empty table was taken")
	}
	if err := l.Steer(to(5)); !errors.Is(err, ErrNoSlot) {
		t.Errorf("an unknown slot: %v", err)
	}
	if err := l.Steer([]Share{{Slot: 0}}); err == nil {
		t.Error("a weight of 0 was taken")
	}
	if got := mustAsk(t, target(l, "127.0.0.1")); got != 0 {
		t.Errorf("slot %d answered", got)
	}
}

func TestSlotsComeInAnyOrderAndGuardsStayAhead(t *testing.T) {
	l := steeredAt(t, ":0", 0)
	for _, slot := range []int{7, 3, 3, 12} {
		must(t, l.Reserve(slot))
	}
	for _, slot := range []int{0, 3, 7, 12} {
		serve(t, l, slot)
		must(t, l.Steer(to(slot)))
		if got := mustAsk(t, target(l, "::1")); got != slot {
			t.Errorf("steered to %d, slot %d answered", slot, got)
		}
	}
	guards := 0
	for _, m := range l.order {
		if m.guard() {
			guards++
		}
	}
	last := l.order[len(l.order)-1]
	if guards != 1+4+1 || !last.guard() || !l.order[0].guard() {
		t.Errorf("%d guards for 4 slots, an anchor included; last is one: %t", guards, last.guard())
	}
	if err := l.Reserve(-1); !errors.Is(err, ErrNoSlot) {
		t.Errorf("slot -1: %v", err)
	}
}

// A client that comes before any worker waits in slot 0's queue.
func TestPendingCountsWhatNobodyAccepted(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() { // ends when it is served
			if got, err := ask(target(l, "127.0.0.1")); err != nil || got != 0 {
				t.Errorf("slot %d answered: %v", got, err)
			}
		})
	}
	queued := func(slot int) int {
		p, err := l.Pending(slot)
		must(t, err)
		return p.Queued
	}
	eventually(t, "three connections wait", func() bool { return queued(0) == 3 })
	if n := queued(1); n != 0 {
		t.Errorf("slot 1 has %d", n)
	}
	serve(t, l, 0)
	clients.Wait()
	if n := queued(0); n != 0 {
		t.Errorf("slot 0 still has %d", n)
	}
}

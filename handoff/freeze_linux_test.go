package handoff_test

import (
	"errors"
	"testing"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/keep"
	"baton/internal/testkit"
)

type take = func() (handoff.State, *keep.Files)

var errNoExec = errors.New("exec format error")

// frozen calls Freeze, and returns its answer when there is one.
func (e *engine) frozen(do func(take) error) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- e.Freeze(do) }() // ends with Run at the latest
	return answer
}

// An upgrade that fails has changed nothing: not a message is lost, and all goes on.
func TestAFreezeThatLeadsToNothingChangesNothing(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, several(2, false), "ready=notify")
	before := e.ready(1, 2)
	for n := 2; n < 6; n++ {
		err := <-e.frozen(func(take take) error {
			s, f := take()
			if len(s.Workers) != 2 || f.Len() == 0 {
				t.Errorf("%d workers, %d descriptors", len(s.Workers), f.Len())
			}
			return errNoExec
		})
		if !errors.Is(err, errNoExec) {
			t.Fatalf("got %v", err)
		}
		if v := e.reload(); v.Outcome != machine.Swapped { // its workers' words are heard
			t.Fatalf("%+v", v)
		}
		if now := e.ready(n, 2); now[0].PID == before[0].PID {
			t.Errorf("the same worker in another generation: %d", now[0].PID)
		}
		e.wait(event.Gone, n-1)
	}
	e.stop()
}

// What is being started is waited for: its process is not known yet.
func TestAFreezeWaitsForWhatIsBeingResolved(t *testing.T) {
	testkit.Leaks(t)
	e := start(t)
	e.wait(event.Serving, 1)
	hang := make(chan struct{})
	e.mu.Lock()
	e.hang = hang
	e.mu.Unlock()
	verdict := make(chan handoff.Verdict, 1)
	e.Reload(func(v handoff.Verdict) { verdict <- v })
	e.Report() // what was posted before is done
	answers := make(chan error, 2)
	var s handoff.State // of the one that waits
	for range 2 {
		go func() { // ends with Run at the latest
			answers <- e.Freeze(func(take take) error { s, _ = take(); return nil })
		}()
	}
	if err := <-answers; err == nil || err.Error() != "another upgrade is under way" {
		t.Fatalf("one of two: %v", err)
	}
	select {
	case err := <-answers:
		t.Fatalf("the other one did not wait: %v", err)
	default:
	}
	e.mu.Lock()
	e.hang = nil
	e.mu.Unlock()
	close(hang)
	if err := <-answers; err != nil {
		t.Fatal(err)
	}
	if s.Preparing != 0 {
		t.Errorf("generation %d is being prepared", s.Preparing)
	}
	for _, w := range s.Workers {
		if !w.Running {
			t.Errorf("worker %d is being started", w.ID)
		}
	}
	if v := <-verdict; v.Outcome != machine.Swapped {
		t.Errorf("%+v", v)
	}
	e.stop()
}

// Who waits for a moment of calm is not left waiting by an end.
func TestAFreezeEndsWithTheApplication(t *testing.T) {
	testkit.Leaks(t)
	e := start(t, "term=slow:500ms")
	e.wait(event.Serving, 1)
	hang := make(chan struct{})
	e.mu.Lock()
	e.hang = hang
	e.mu.Unlock()
	e.Reload(nil)
	e.Report()
	waits := e.frozen(func(take) error { t.Error("frozen in the midst of it"); return nil })
	e.Stop()
	if err := <-waits; err == nil || err.Error() != "the launcher is stopping" {
		t.Errorf("got %v", err)
	}
	close(hang)
	if err := <-e.ended; err != nil {
		t.Error(err)
	}
	if err := e.Freeze(func(take) error { return nil }); err == nil {
		t.Error("frozen after the end")
	}
}

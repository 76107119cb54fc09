package handoff_test

import (
	"testing"
	"time"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/testkit"
)

// scale asks for so many workers and waits until the generation that serves has them.
func (e *engine) scale(n int) {
	e.t.Helper()
	said := make(chan error, 1)
	e.Scale(n, false, func(_ int, err error) { said <- err })
	if err := <-said; err != nil {
		e.t.Fatal(err)
	}
	e.crew(n)
}

// crew waits until the generation that serves is to have so many workers, and has them.
func (e *engine) crew(n int) {
	e.t.Helper()
	testkit.Wait(e.t, func() bool {
		g := e.Report().Shown()
		return g != nil && g.Phase == string(machine.Serving) && g.Wanted == n && g.Ready() == n
	}, "the right number of workers")
}

// configure is the number of workers that later generations have in their configuration.
func (e *engine) configure(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.plan.Policy.Workers = n
}

func (e *engine) rollback() {
	e.t.Helper()
	verdict := make(chan handoff.Verdict, 1)
	e.Rollback(func(v handoff.Verdict) { verdict <- v })
	if v := <-verdict; v.Outcome != machine.Swapped {
		e.t.Fatalf("%+v", v)
	}
}

func baking(p *handoff.Plan) { p.Policy.Bake = time.Hour }

// What an operator asked for in a bake holds for who serves again after it.
func TestARollbackKeepsTheNumberThatWasAskedForInTheBake(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, baking, "ready=notify")
	e.wait(event.Serving, 1)
	e.reload()
	e.scale(3)
	e.rollback()
	e.crew(3)
	if n := e.Report().Shown().Number; n != 1 {
		t.Errorf("generation %d serves", n)
	}
	e.reload()
	e.crew(3)
	e.stop()
}

// A rollback undoes what another number in the file has done: the newcomer's goes, and
// what the operator had asked for before holds again.
func TestARollbackBringsBackTheNumberFromBefore(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, baking, "ready=notify")
	e.wait(event.Serving, 1)
	e.scale(3)
	e.configure(2)
	e.reload()
	e.crew(2)
	e.rollback()
	e.crew(3)
	e.configure(1) // as it was
	e.reload()
	e.crew(3)
	e.stop()
}

// Once nothing stands by, what was asked for before another number was configured is
// over, also when the first number is configured again.
func TestAnotherNumberInTheFileEndsWhatWasAskedFor(t *testing.T) {
	testkit.Leaks(t)
	e := start(t, "ready=notify")
	e.wait(event.Serving, 1)
	e.scale(3)
	e.reload()
	e.crew(3)
	e.configure(2)
	e.reload()
	e.crew(2)
	e.configure(1)
	e.reload()
	e.crew(1)
	e.stop()
}

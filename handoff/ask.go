package handoff

import (
	"errors"
	"fmt"

	"baton/handoff/machine"
)

// What an operator may ask for besides a reload and the end.

// ReloadIf is Reload, but superseded unless the generation with this number serves and
// nobody is about to take its place, so that of two who deploy at the same time one
// learns of the other.
func (s *Supervisor) ReloadIf(serving int, done func(Verdict)) {
	s.post(func() {
		why := ""
		newcomer := phaseOf(s.rules.Look(), machine.Preparing, machine.Starting, machine.Canary)
		if sv := s.serving(); sv == nil || int(sv.number) != serving {
			why = fmt.Sprintf("generation %d does not serve%s", serving, s.butAnother())
		} else if newcomer != nil {
			why = fmt.Sprintf("generation %d is about to take the place of generation %d", newcomer.Number, serving)
		}
		switch {
		case why == "":
			s.reload(done)
		case done != nil:
			done(Verdict{Outcome: machine.Superseded, Reason: why})
		}
	})
}

func (s *Supervisor) butAnother() string {
	if sv := s.serving(); sv != nil {
		return fmt.Sprintf(", but %d", sv.number)
	}
	return ""
}

// Rollback asks to serve the previous release again. done, which may be nil, gets
// the verdict as that of Reload does.
func (s *Supervisor) Rollback(done func(Verdict)) {
	s.post(func() { s.step(machine.Rollback{Request: s.request(done)}) })
}

// Errors of Promote, Abort and Scale.
var (
	errStopping   = errors.New("the launcher is stopping")
	errNoCanary   = errors.New("no canary and no bake is going on")
	errNothingNew = errors.New("no newcomer is under way, and no bake is going on")
	errNotServing = errors.New("nothing serves yet")
	errRolling    = errors.New("it takes over worker by worker: that goes on by itself")
	errInSwap     = errors.New("a swap is under way; promote or abort it, or wait for its verdict")
	errTooFew     = errors.New("at least one worker is needed; baton stop ends an application")
	errTooMany    = fmt.Errorf("more than %d workers", maxWorkers)
)

// maxWorkers bounds the slots that a number mistyped would ask for: each is a socket
// of every listener, and the steering program has a limit of 4096 instructions.
const maxWorkers = 1024

// Promote ends a canary or a bake in favour of the newcomer; step: only the canary's
// present step. answer gets nil, or why there was nothing to promote.
func (s *Supervisor) Promote(step bool, answer func(error)) {
	s.post(func() {
		v := s.rules.Look()
		newcomer, canary := phaseOf(v, machine.Preparing, machine.Starting), phaseOf(v, machine.Canary)
		switch {
		case v.Stopping:
			answer(errStopping)
		case canary != nil && canary.Steps == 0:
			answer(errRolling)
		case canary == nil && (newcomer != nil || phaseOf(v, machine.Standby) == nil):
			answer(errNoCanary)
		default:
			s.step(machine.Promote{Step: step})
			answer(nil)
		}
	})
}

// Abort ends a newcomer, or a canary or a bake against it.
func (s *Supervisor) Abort(answer func(error)) {
	s.post(func() {
		switch v := s.rules.Look(); {
		case v.Stopping:
			answer(errStopping)
		case phaseOf(v, machine.Preparing, machine.Starting, machine.Canary, machine.Standby) == nil:
			answer(errNothingNew)
		default:
			s.step(machine.Abort{})
			answer(nil)
		}
	})
}

func phaseOf(v machine.View, phases ...machine.Phase) *machine.GenerationView {
	for i := range v.Generations {
		for _, p := range phases {
			if v.Generations[i].Phase == p {
				return &v.Generations[i]
			}
		}
	}
	return nil
}

// Scale gives the generation that serves n workers, or n more (fewer) when relative.
// Later generations get as many, until another number is configured. answer gets
// how many there are to be, or why nothing was changed.
func (s *Supervisor) Scale(n int, relative bool, answer func(int, error)) {
	s.post(func() {
		v := s.rules.Look()
		g := phaseOf(v, machine.Serving)
		if g != nil && relative {
			n += g.Wanted
		}
		switch {
		case v.Stopping:
			answer(0, errStopping)
		case g == nil:
			answer(0, errNotServing)
		case phaseOf(v, machine.Preparing, machine.Starting, machine.Canary) != nil:
			answer(g.Wanted, errInSwap)
		case n < 1:
			answer(g.Wanted, errTooFew)
		case n > maxWorkers:
			answer(g.Wanted, errTooMany)
		default:
			s.scaled = scaled{to: n, configured: s.gens[g.Number].plan.Policy.Workers}
			s.step(machine.Scale{Workers: n})
			answer(n, nil)
		}
	})
}

// scaled is a number of workers that an operator asked for.
type scaled struct {
	to         int // 0: nobody has
	configured int // the number that it took the place of
}

// workers is how many a new generation gets: a number that was configured anew wins.
func (c scaled) workers(configured int) int {
	if c.to > 0 && c.configured == configured {
		return c.to
	}
	return configured
}

// rescale sees to it that a generation which comes to serve has the number that was asked
// for. With another number in its configuration than an operator's took the place of,
// what he asked for is over; one that serves again, after a bake, has what he had asked
// for before.
func (s *Supervisor) rescale(g *generation) {
	configured := g.plan.Policy.Workers
	if s.scaled.configured != configured {
		s.scaled = g.scaled
	}
	// The first time it was prepared with it. Whom it left stopped is not asked for.
	n, now := s.scaled.workers(configured), phaseOf(s.rules.Look(), machine.Serving)
	if g.served && now != nil && now.Wanted != n {
		s.step(machine.Scale{Workers: n})
	}
}

package handoff

import (
	"math/rand/v2"
	"time"

	"baton/handoff/machine"
)

type timer struct {
	t   *time.Timer
	due time.Time
}

func (s *Supervisor) setTimer(id machine.Timer, after time.Duration) {
	if id.Kind == machine.TimerRestart {
		// Up to a fifth longer, so that workers which fell together do not all
		// come back in the same instant.
		after += time.Duration(rand.Int64N(int64(after)/5 + 1))
	}
	s.timers[id] = &timer{
		due: time.Now().Add(after),
		t:   time.AfterFunc(after, func() { s.post(func() { s.timeUp(id) }) }),
	}
}

// extendTimer makes a running timer fire not before after from now.
func (s *Supervisor) extendTimer(id machine.Timer, after time.Duration) {
	t := s.timers[id]
	if t == nil || time.Until(t.due) >= after {
		return
	}
	t.due = time.Now().Add(after)
	t.t.Reset(after) // a firing that is already on its way finds due in the future
}

func (s *Supervisor) stopTimer(id machine.Timer) {
	if t := s.timers[id]; t != nil {
		t.t.Stop()
		delete(s.timers, id)
	}
}

func (s *Supervisor) timeUp(id machine.Timer) {
	t := s.timers[id]
	if t == nil || time.Now().Before(t.due) {
		return // stopped, or extended while it fired
	}
	delete(s.timers, id)
	s.step(machine.Fired{Timer: id})
}

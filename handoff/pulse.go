package handoff

import (
	"time"

	"baton/handoff/machine"
	"baton/internal/event"
)

// Pulse is how it goes, told by the goroutine of Run.
type Pulse struct {
	Report *event.Report // without what workers use
	// Asked is how many swaps were asked for, the first start included; Open how many
	// of those have no verdict yet.
	Asked, Open int
	// Due is by when what goes on will have ended or failed, by the times configured;
	// zero: nothing goes on that is bounded by one.
	Due time.Time
}

func (s *Supervisor) beat() time.Duration {
	if s.opts.Beat > 0 {
		return s.opts.Beat
	}
	return time.Second
}

// pulse tells how it goes, if there is news or a beat was due.
func (s *Supervisor) pulse() {
	if s.opts.Pulse == nil || !s.news {
		return
	}
	s.news = false
	s.opts.Pulse(Pulse{Report: s.report(nil), Asked: int(s.lastReq), Open: s.open, Due: s.due()})
}

// due is when the last of the timers ends that bound a start, a canary or a drain. What
// has none (a file system that hangs, a canary until it is promoted) is not waited for.
func (s *Supervisor) due() (last time.Time) {
	for id, t := range s.timers {
		switch id.Kind {
		case machine.TimerReady, machine.TimerCanary, machine.TimerDelay, machine.TimerQueue, machine.TimerIdle,
			machine.TimerSignal, machine.TimerKill:
			if t.due.After(last) {
				last = t.due
			}
		}
	}
	return last
}

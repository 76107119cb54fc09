package launcher

import (
	"fmt"
	"log/slog"
	"maps"
	"syscall"
	"time"

	"baton/internal/process"
)

// senders tells workers from those whom the launcher obeys. Some programs, when
// they were started on sockets of somebody's, send TERM to their parent once they
// serve, since they take it for the generation before (facebookgo/grace, Gitea,
// endless), or USR1 (overseer); an operator never means a worker to decide when the
// launcher ends. So a signal whose sender is a process of a worker is told to the
// engine and not obeyed, but for HUP: a worker may ask for its own replacement.
//
// A sender that had ended, and been waited for, when its signal was read counts as an
// operator, whose kill(1) is just as short-lived, if it was not a worker's main process
// and nothing was heard of it while it lived: a worker's child that sends a signal and is
// gone within some microseconds can end the launcher. So can a program that means to, by KILL, or with the pid of another
// (sigqueue(3)). And of two equal signals at once the kernel keeps the first alone: one
// of an operator's may have to be sent again while a worker sends without end. Only the
// kernel keeps those out (process.Command, Confine).
type senders struct {
	engine  supervisor
	started func(pid int) bool // as a worker, recently
	log     *slog.Logger
	done    <-chan struct{}

	heard map[process.Caught]heard
	known map[int]time.Time // when a process was last found to be of a worker, by its pid
	lines int               // told since
	since time.Time         // a second ago at most
}

// heard is when a worker's signal was last passed on, and told.
type heard struct{ asked, told time.Time }

const (
	// A worker that sends without end keeps neither the engine busy nor the log:
	// once in askAgain and tellAgain for each process and signal, and so many lines
	// in a second for all of them.
	askAgain    = 100 * time.Millisecond
	tellAgain   = time.Minute
	linesASec   = 10
	rememberMax = 1024
	// A target may be faster than the note that it was started: of a child the engine
	// is asked again so long, and of one that has ended so long.
	startLag = time.Second
	endedLag = 100 * time.Millisecond
	lookOver = 20 * time.Millisecond
	// So long after its start a worker's pid is its own also when it has ended, and so long
	// after it was heard that of any other process of a worker.
	recently = 10 * time.Second
)

// worker says whether a process of a worker sent the signal. It has been dealt with
// then, as far as workers' signals are.
func (s *senders) worker(c process.Caught) bool {
	if c.PID == 0 {
		return false
	}
	h := s.heard[c]
	if !h.asked.IsZero() && time.Since(h.asked) < askAgain {
		return true
	}
	if !s.ask(c) {
		delete(s.heard, c) // the number is another's by now
		return false
	}
	if h.asked = time.Now(); h.told.IsZero() || time.Since(h.told) > tellAgain {
		if s.tell(c) {
			h.told = h.asked
		}
	}
	if s.heard == nil || len(s.heard) >= rememberMax {
		s.heard = make(map[process.Caught]heard)
	}
	s.heard[c] = h
	return true
}

// ask asks the engine, and again as long as the sender may be of a worker that it
// does not know yet.
func (s *senders) ask(c process.Caught) bool {
	for begin := time.Now(); ; {
		if s.engine.Signalled(c.PID, c.Signal) || c.Child != 0 && s.engine.Signalled(c.Child, c.Signal) {
			s.know(c.PID)
			return true
		}
		lag := startLag
		if c.Child == 0 {
			if !process.Ended(c.PID) {
				return false // somebody who is there, and no child of ours
			}
			lag = endedLag
		}
		if s.started(c.PID) || s.started(c.Child) || s.knew(c) {
			return true
		}
		if c.Signal == syscall.SIGHUP {
			return false
		}
		if time.Since(begin) > lag {
			return c.Child != 0 // no worker, but baton's own: an operator is not
		}
		select {
		case <-s.done:
			return false
		case <-time.After(lookOver):
		}
	}
}

// know notes a process of a worker. One that sends without end until it is killed has a
// last signal, which is read when it is gone.
func (s *senders) know(pid int) {
	if len(s.known) >= rememberMax {
		maps.DeleteFunc(s.known, func(_ int, at time.Time) bool { return time.Since(at) > recently })
	}
	if s.known == nil || len(s.known) >= rememberMax {
		s.known = make(map[int]time.Time)
	}
	s.known[pid] = time.Now()
}

// knew says whether a sender that has ended was of a worker.
func (s *senders) knew(c process.Caught) bool {
	at, ok := s.known[c.PID]
	return ok && time.Since(at) <= recently && process.Ended(c.PID)
}

func (s *senders) tell(c process.Caught) bool {
	if now := time.Now(); now.Sub(s.since) > time.Second {
		s.since, s.lines = now, 0
	}
	if s.lines++; s.lines > linesASec {
		return false
	}
	name, what := process.SignalName(c.Signal), "not obeyed"
	if c.Signal == syscall.SIGHUP {
		what = "a reload"
	}
	s.log.Info(fmt.Sprintf("worker pid %d sent %s to baton: %s", c.PID, name, what), "pid", c.PID, "signal", name)
	return true
}

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
// gone within some microseconds can end the launcher. So can a program that means to, by
// KILL, or with the pid of another (sigqueue(3)). And of two equal signals at once the
// kernel keeps the first alone: one of an operator's may have to be sent again while a
// worker sends without end. Only the kernel keeps those out (process.Command, Confine).
type senders struct {
	engine supervisor
	// recent: a worker of that pid was started, or has ended, a short while ago.
	recent func(pid int) bool
	log    *slog.Logger
	done   <-chan struct{}

	heard map[process.Caught]heard
	known map[int]known // who was found to be a process of a worker, by pid
	lines int           // told since
	since time.Time     // a second ago at most
}

// heard is when a worker's signal was last passed on, and told.
type heard struct{ asked, told time.Time }

// known is a process of a worker: when it was found to be, and by what it is told from
// another of its number (process.Mark; 0: it ended as it was looked at).
type known struct {
	at    time.Time
	start uint64
}

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
	// So long after its start and its end a worker's pid is its own and its group's, and so
	// long after it was heard that of any other process of a worker.
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
		if s.engine.Signalled(c.PID, c.Signal) || c.Child != 0 && s.engine.Signalled(c.Child, c.Signal) || s.was(c) {
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

// was says whether the sender is of a worker that the engine does not know yet, or not
// any more: one that sends until it is killed, with what its worker has left, has a last
// signal, which may be read when the worker is gone.
func (s *senders) was(c process.Caught) bool {
	group, _ := syscall.Getpgid(c.PID) // 0: it is gone, and whose it was is known or not
	if s.recent(c.PID) || s.recent(c.Child) || s.recent(group) {
		return true
	}
	k, ok := s.known[c.PID]
	if !ok {
		return false
	}
	if now, there, err := process.MarkOf(c.PID); there || err != nil {
		return err == nil && now.Start == k.start
	}
	return time.Since(k.at) <= recently
}

// know notes a process of a worker.
func (s *senders) know(pid int) {
	if len(s.known) >= rememberMax {
		maps.DeleteFunc(s.known, func(_ int, k known) bool { return time.Since(k.at) > recently })
	}
	if s.known == nil || len(s.known) >= rememberMax {
		s.known = make(map[int]known)
	}
	k := known{at: time.Now(), start: s.known[pid].start}
	if now, there, err := process.MarkOf(pid); there && err == nil {
		k.start = now.Start
	}
	s.known[pid] = k
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

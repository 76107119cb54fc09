package launcher

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"baton/handoff"
	"baton/internal/process"
)

// supervisor is what signals are passed on to: the engine.
type supervisor interface {
	Reload(func(handoff.Verdict))
	Stop()
	End()
	Scale(n int, relative bool, answer func(workers int, err error))
	Signalled(pid int, sig syscall.Signal) bool
}

// signals are those that came to the launcher and were not acted on yet. However
// many come, and however busy the engine is, they are few: an equal one, that would
// change nothing, is not kept.
type signals struct {
	mu      sync.Mutex
	waiting []process.Caught // in the order in which they came
	some    chan struct{}    // of one: holds something when waiting may

	workers map[int]time.Time // when a worker was started, or has ended, by its pid; the recent ones
	now     *process.Caught   // is being acted on
}

// How many are kept that wait. Senders are told apart, so that what a worker sends
// never stands in the way of what an operator does.
const (
	// Two requests to end are as good as more: the second ends everything now.
	equalEnds = 2
	equalRest = 16
	// One reload is remembered while another is being handed over; it will read
	// what the later ones were sent for.
	equalReloads = 1
	// Of one signal, whoever sent it.
	crowd = 256
)

// ends are the signals that ask the launcher to end, rest those whose default action
// would end or stop it.
var (
	ends = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}
	rest = []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU}
)

// broken receives SIGPIPE and is never read: the signal only must not do what it
// does by default, since who reads the log may go away and the launcher may not.
// It is not ignored, because a worker would inherit that.
var broken = make(chan os.Signal, 1)

// catch takes over the signals until the process ends: one that comes after the
// engine has ended must not change the exit code.
func catch() (*signals, error) {
	s := newSignals()
	signal.Notify(broken, syscall.SIGPIPE)
	all := []syscall.Signal{syscall.SIGHUP}
	for _, sig := range append(append([]os.Signal{}, ends...), rest...) {
		all = append(all, sig.(syscall.Signal))
	}
	err := process.Catch(s.take, all...)
	if errors.Is(err, errors.ErrUnsupported) {
		s.notify() // until the process ends
		return s, nil
	}
	return s, err
}

func newSignals() *signals {
	return &signals{some: make(chan struct{}, 1), workers: make(map[int]time.Time)}
}

// notify takes the signals as os/signal gives them, without their senders, until
// stop. The package drops what finds its channel full: each kind has a channel that
// may be full without loss.
func (s *signals) notify() (stop func()) {
	end, reload, other := make(chan os.Signal, equalEnds), make(chan os.Signal, equalReloads), make(chan os.Signal, equalRest)
	signal.Notify(end, ends...)
	signal.Notify(reload, syscall.SIGHUP)
	signal.Notify(other, rest...)
	stopped := make(chan struct{})
	go func() { // ends with stop
		for {
			var sig os.Signal
			select {
			case sig = <-end:
			case sig = <-reload:
			case sig = <-other:
			case <-stopped:
				return
			}
			s.take(process.Caught{Signal: sig.(syscall.Signal)})
		}
	}()
	return func() {
		for _, c := range []chan os.Signal{end, reload, other} {
			signal.Stop(c)
		}
		close(stopped)
	}
}

// take keeps a signal until next. It waits for nobody.
func (s *signals) take(c process.Caught) {
	s.mu.Lock()
	defer s.mu.Unlock()
	equal, all := 0, 0
	for _, w := range s.waiting {
		if w.Signal == c.Signal {
			all++
			if w.PID == c.PID {
				equal++
			}
		}
	}
	switch c.Signal {
	case syscall.SIGHUP:
		if all >= equalReloads {
			return
		}
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
		if equal >= equalEnds || all >= crowd {
			return
		}
	default:
		if equal >= equalRest || all >= crowd {
			return
		}
	}
	s.waiting = append(s.waiting, c)
	select {
	case s.some <- struct{}{}:
	default: // told already
	}
}

// ending reports whether one waits that asks the launcher to end.
func (s *signals) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.waiting, func(c process.Caught) bool { return slices.Contains(ends, os.Signal(c.Signal)) })
}

// next is the oldest signal that waits.
func (s *signals) next() (process.Caught, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return process.Caught{}, false
	}
	c := s.waiting[0]
	s.waiting = s.waiting[1:]
	s.now = &c
	return c, true
}

// acted says that what next gave is done.
func (s *signals) acted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = nil
}

// waits are those that were not acted on yet.
func (s *signals) waits() (all []process.Caught) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		all = append(all, *s.now)
	}
	return append(all, s.waiting...)
}

// worker notes the pid of a worker that was started, or has ended. It waits for nobody.
func (s *signals) worker(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.workers, func(_ int, at time.Time) bool { return time.Since(at) > recently })
	s.workers[pid] = time.Now()
}

func (s *signals) recent(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.workers[pid]
	return ok && time.Since(at) <= recently
}

// signalName is the word for a signal that people send by it.
func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGTTIN:
		return "TTIN"
	case syscall.SIGTTOU:
		return "TTOU"
	case syscall.SIGUSR1:
		return "USR1"
	case syscall.SIGUSR2:
		return "USR2"
	}
	return s.String()
}

// obeyed is what signals ask for besides the engine.
type obeyed struct {
	reopen  func() // has the workers' output written to files opened afresh; nil: there are none
	upgrade func() // begins to replace the launcher
}

// obey does what signals ask for until done is closed. It waits for nobody but the
// engine.
func (s *signals) obey(done <-chan struct{}, engine supervisor, o obeyed, log *slog.Logger) {
	from := &senders{engine: engine, recent: s.recent, log: log, done: done}
	stops := 0
	for {
		select {
		case <-done:
			return
		case <-s.some:
		}
		for c, ok := s.next(); ok; c, ok = s.next() {
			if from.worker(c) && c.Signal != syscall.SIGHUP {
				s.acted()
				continue
			}
			switch c.Signal {
			case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
				if stops++; stops > 1 || c.Signal == syscall.SIGQUIT {
					engine.End()
				} else {
					engine.Stop()
				}
			default:
				s.does(c, engine, o, log)
			}
			s.acted()
		}
	}
}

// does what a signal asks for that is none to end.
func (s *signals) does(c process.Caught, engine supervisor, o obeyed, log *slog.Logger) {
	switch c.Signal {
	case syscall.SIGHUP:
		engine.Reload(nil)
	case syscall.SIGTTIN, syscall.SIGTTOU:
		by := 1
		if c.Signal == syscall.SIGTTOU {
			by = -1
		}
		engine.Scale(by, true, func(_ int, err error) {
			s.acted() // while the engine stands: an upgrade does not find it not done
			if err != nil {
				log.Warn("the number of workers stays", "signal", signalName(c.Signal), "error", err)
			}
		})
	case syscall.SIGUSR1:
		if o.reopen != nil {
			o.reopen()
		} else {
			log.Info("there are no files to open again: no output is captured", "signal", c.Signal.String())
		}
	case syscall.SIGUSR2:
		o.upgrade()
	default:
		log.Warn("signal not acted on", "signal", signalName(c.Signal))
	}
}

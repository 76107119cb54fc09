package launcher

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"baton/handoff"
	"baton/internal/event"
	"baton/internal/process"
)

// first is what is different where the launcher is PID 1, as in a container: whoever
// runs it sees its exit code and nothing else, and restarts it or not by that. So the
// launcher ends when its application has ended to stay, and with the code of that.
type first struct {
	engine *handoff.Supervisor
	log    *slog.Logger
	over   atomic.Bool // the application has ended to stay
}

// newFirst is nil, of which every method does nothing, where the launcher is not PID 1.
func newFirst(engine *handoff.Supervisor, log *slog.Logger) *first {
	if os.Getpid() != 1 {
		return nil
	}
	return &first{engine: engine, log: log}
}

// observe waits for nobody.
func (f *first) observe(e event.Event) {
	if f == nil {
		return
	}
	switch e.Kind {
	case event.LeftStopped, event.RolledBack, event.Refused:
		go f.look() // ends with the engine's answer
	}
}

// look ends the launcher when every worker was left stopped, and no newcomer is on its
// way. Elsewhere it would wait for somebody who scales or reloads; a container that does
// nothing is only in the way.
func (f *first) look() {
	r := f.engine.Glance()
	if r == nil || r.State != event.StateStopped {
		return
	}
	for _, g := range r.Generations {
		if g.Phase == "preparing" || g.Phase == "starting" || g.Phase == "canary" {
			return
		}
	}
	if f.over.Swap(true) {
		return
	}
	f.log.Info("every worker has ended to stay, and baton is PID 1: it ends too")
	f.engine.Stop()
}

// end is what Run returns: err, as what the application ended with.
func (f *first) end(err error) error {
	if f == nil {
		return err
	}
	lost := f.engine.Lost()
	switch {
	case lost == nil:
		return err
	case f.over.Load() && err == nil:
		err = fmt.Errorf("every worker has ended: %v", lost)
		if lost.Shell() == 0 {
			return nil
		}
	case !errors.Is(err, handoff.ErrNeverServed), lost.Shell() == 0:
		return err // it was to serve, and did not: that is never 0
	}
	return &EndedError{Err: err, Status: *lost}
}

// EndedError is returned by Run where the launcher is PID 1 and its application has
// ended.
type EndedError struct {
	Err    error
	Status process.Status
}

func (e *EndedError) Error() string { return e.Err.Error() }
func (e *EndedError) Unwrap() error { return e.Err }

// ExitCode is the application's, as a shell would have it.
func (e *EndedError) ExitCode() int { return e.Status.Shell() }

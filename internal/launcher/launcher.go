// Package launcher wires the parts of a launcher together: configuration,
// engine, workers' output, signals and the log. It is wiring and only wiring;
// what is decided is decided in handoff/machine.
//
// The invariant: nobody outside keeps the engine waiting, whether they do not read
// the log or send signals without end. It never parses a flag and never prints but
// through the log.
package launcher

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/event"
)

// Options are what Run needs.
type Options struct {
	// Load reads the configuration; it is called at the start and at each
	// reload.
	Load func() (*config.Config, error)
	// Applied, which may be nil, is told the configuration of each generation
	// that begins to serve. One that was refused or rolled back is never heard
	// of. It must not block.
	Applied func(*config.Config)
	// Observe, which may be nil, is told each event. It must not block.
	Observe func(event.Event)
	// Home, which may be nil, says where the control socket and the lock of the
	// application's name lie. Without it, or when it cannot be used, there is
	// neither: Run says so and goes on.
	Home func() (string, error)
	// Logs, which may be nil, says where the applications' logs lie, with a directory
	// for each. Without it, or when that cannot be used, nothing is captured.
	Logs func() (string, error)
	// Stdout and Stderr receive what workers write.
	Stdout, Stderr *os.File
	// Log is the launcher's own. Run writes to it from a goroutine of its own.
	Log *slog.Logger
	// Kept has these lines go to the workers' log alone, once that is open: for a
	// launcher in the background, whose Log is a file that nobody else bounds.
	Kept bool
}

// ConfigError is returned by Run when the first configuration cannot be used.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// ExitCode is that of an invalid configuration.
func (e *ConfigError) ExitCode() int { return 5 }

// Run runs one application until a signal ends it: nil then, a *ConfigError
// when it cannot begin, a *control.TakenError when its name has a launcher
// already, handoff.ErrNeverServed when its first generation failed. It is the last thing that a program does: the signals stay its own.
func Run(ctx context.Context, o Options) (err error) {
	caught, err := catch() // first of all, so that no signal that comes early is missed
	if err != nil {
		return err
	}
	first, err := o.Load()
	if err != nil {
		return &ConfigError{err}
	}
	if _, err := plan(first); err != nil {
		return &ConfigError{err}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	out := newOutputs(o)
	defer func() { out.close(err) }()
	log := slog.New(out.queue)
	name, err := take(o, first.Name, log) // before anything is bound or written to
	if err != nil {
		return err
	}
	defer name.leave(log)
	name.clear(o, first, caught, log)
	out.open(first)
	return engine(ctx, o, log, caught, newConfigs(first, o.Load), out, name)
}

// engine runs it and what it needs until it ends.
func engine(ctx context.Context, o Options, log *slog.Logger, caught *signals, c *configs, out *outputs, name *claim) error {
	var adapter *controlled
	var serves *config.Config // of a generation that is about to be said to serve
	events := &control.Feed{}
	beside := newBeside(c.first, log)
	crew := newCrew(name.list(), log)
	defer crew.close()
	s := handoff.New(handoff.Options{
		Name:   c.first.Name,
		Load:   c.load,
		Output: out.worker,
		Observe: func(e event.Event) {
			record(log, e)
			if serves != nil { // its log level is for what comes after this event
				if o.Applied != nil {
					o.Applied(serves)
				}
				serves = nil
			}
			events.Add(e)
			adapter.observe(e)
			beside.hooks.Observe(e)
			if o.Observe != nil {
				o.Observe(e)
			}
			if e.Kind == event.Started {
				caught.started(e.PID)
				crew.started(e.PID)
			}
			if e.Kind == event.Gone || e.Kind == event.Serving {
				go tidy() // ends by itself, in some milliseconds
			}
		},
		Applied: func(p *handoff.Plan) {
			applied := p.Origin.(*config.Config)
			c.warn(log, applied)
			beside.apply(applied)
			name.wanted.Store(applied)
			go name.admit(log) // ends when the group was looked up
			serves = applied
		},
		Log: log,
	})
	ends := hurried{s, beside.hooks}
	adapter = newControlled(ends)
	defer adapter.end()
	name.serve(adapter, control.Options{Log: log, Events: events, Reopen: out.reopen(), Flush: out.flush()})
	name.wanted.Store(c.first)
	name.admit(log)
	log.Info("baton starts "+c.first.Name, "pid", os.Getpid())
	done := make(chan struct{})
	defer close(done)
	go caught.obey(done, ends, out.reopenSoon(), log) // ends when Run returns
	beside.watch(c.first, s)
	defer beside.close()
	if err := s.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// gcPercent trades a little time, of which a launcher has plenty, for memory
// that a machine with many applications would miss: the Go default lets a heap
// of half a megabyte grow to four before it is looked at.
const gcPercent = 25

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
	"baton/internal/cgroup"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/systemd"
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
	// Before is what a launcher before this one has left; nil: nothing was looked for.
	Before *Inheritance
	// Version is the program's, for the state and the log.
	Version string
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
// already, handoff.ErrNeverServed when its first generation failed, an *EndedError when
// it is PID 1 and its application has ended. It is the last thing that a program does:
// the signals stay its own.
func Run(ctx context.Context, o Options) (err error) {
	caught, err := catch() // first of all, so that no signal that comes early is missed
	if err != nil {
		return err
	}
	if o.Before == nil {
		o.Before = &Inheritance{files: &keep.Files{}}
	}
	first, err := o.Load()
	if err != nil {
		return &ConfigError{err}
	}
	sockets := newGiven(o.Before.given)
	if o.Before.state == nil { // else workers run by it
		p, err := plan(first)
		if err == nil {
			err = sockets.check(p.Listeners)
		}
		if err != nil {
			return &ConfigError{err}
		}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	r := &parts{o: o, first: first, caught: caught, given: sockets, out: newOutputs(o), unit: cgroup.Own()}
	defer func() { r.out.close(err) }()
	r.log = slog.New(r.out.queue)
	to, err := systemd.New(r.log)
	if err != nil {
		r.log.Warn(err.Error())
	}
	r.manager = newManager(to)
	defer func() { r.manager.close(err) }()
	if r.claim, err = take(o, first.Name, r.log); err != nil { // before anything is bound or written to
		return err
	}
	defer r.claim.leave(r.log)
	if o.Before.trouble != nil {
		r.log.Error(o.Before.trouble.Error())
	}
	o.Before.find(r.claim.Claim, first.Name, r.log)
	o.Before.renamed(r.claim.Claim, first.Name, r.log)
	r.clear(o.Before.living())
	r.out.open(first)
	return r.engine(ctx)
}

// parts are those of one Run that are there before the engine.
type parts struct {
	o       Options
	first   *config.Config // that it began with
	caught  *signals
	given   *given
	out     *outputs
	manager *manager
	claim   *claim
	unit    *cgroup.Unit // whose main process this one is; nil: none's
	log     *slog.Logger
}

// engine runs it and what it needs until it ends.
func (r *parts) engine(ctx context.Context) error {
	o, log, before := r.o, r.log, r.o.Before
	whole := false // the engine has ended; false in a panic
	c := newConfigs(r.first, o.Load, before.state != nil)
	events := &control.Feed{}
	crew := newCrew(r.claim.list(), before.living(), log)
	defer crew.close()
	keeper := newKeeper(r.first, o.Version, r.claim.state(), before, r.given, events, r.manager.store(), log)
	defer func() {
		if whole { // else whoever comes next goes on with what there is
			keeper.close()
		}
	}()
	h := &hearers{parts: r, events: events, configs: c, beside: newBeside(r.first, log)}
	s := before.supervisor(r.manager.wire(handoff.Options{
		Name: r.first.Name, Version: o.Version,
		Load: c.load, Given: r.given.give, Output: r.out.worker,
		Keep: keeper.keep, ResumeOutput: r.out.resume, Origin: originOf,
		Listed: crew.list, Observe: h.observe, Applied: h.applied, Unit: r.unit, Log: log,
	}), events, func() { r.clear(nil) })
	if before.state != nil { // else it begins anew, and counts from 1
		r.manager.asked = int(before.state.Engine.LastRequest) // these were told
	}
	before.settle(r.given, log)
	process.Reap() // whom another launcher has left to this one is known by now
	ends := hurried{s, h.beside.hooks}
	h.adapter = newControlled(ends)
	defer h.adapter.end()
	h.pidOne = newFirst(s, log)
	up := &upgrader{engine: s, keeper: keeper, claim: r.claim, out: r.out, caught: r.caught, log: log}
	r.claim.serve(h.adapter, control.Options{Log: log, Events: events, Reopen: r.out.reopen(), Flush: r.out.flush(), Upgrade: up.begin})
	r.claim.wanted.Store(r.first)
	r.claim.admit(log)
	log.Info("baton starts "+r.first.Name, "pid", os.Getpid())
	done := make(chan struct{})
	defer close(done)
	before.resend(r.caught)
	go r.caught.obey(done, ends, obeyed{r.out.reopenSoon(), up.bySignal}, log) // ends when Run returns
	h.beside.watch(r.first, s)
	defer h.beside.close()
	err := s.Run(ctx)
	whole = true
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return h.pidOne.end(err)
}

// hearers are all who are told what the engine does. They belong to its goroutine, and
// none of them waits.
type hearers struct {
	*parts
	events  *control.Feed
	adapter *controlled
	configs *configs
	beside  *beside
	pidOne  *first
	serves  *config.Config // of a generation that is about to be said to serve; nil: of none
}

// observe is handoff.Options.Observe.
func (h *hearers) observe(e event.Event) {
	record(h.log, e)
	if h.serves != nil { // its log level is for what comes after this event
		if h.o.Applied != nil {
			h.o.Applied(h.serves)
		}
		h.serves = nil
	}
	h.events.Add(e)
	h.adapter.observe(e)
	h.beside.hooks.Observe(e)
	h.pidOne.observe(e)
	if h.o.Observe != nil {
		h.o.Observe(e)
	}
	switch e.Kind {
	case event.Started:
		h.caught.worker(e.PID)
	case event.Exited:
		h.caught.worker(e.PID)
	}
	if e.Kind == event.Gone || e.Kind == event.Serving {
		go tidy() // ends by itself, in some milliseconds
	}
}

// applied is handoff.Options.Applied.
func (h *hearers) applied(p *handoff.Plan) {
	applied := (*config.Config)(p.Origin.(*kept))
	h.configs.warn(h.log, applied)
	h.beside.apply(applied)
	h.given.warn(h.log, p.Listeners)
	h.claim.wanted.Store(applied)
	go h.claim.admit(h.log) // ends when the group was looked up
	h.serves = applied
}

// gcPercent trades a little time, of which a launcher has plenty, for memory
// that a machine with many applications would miss: the Go default lets a heap
// of half a megabyte grow to four before it is looked at.
const gcPercent = 25

// Package hooks runs commands of the operator on events: a mail when a worker
// crashes, a line in a chat when a generation serves. What a command is told is
// docs/hooks.md.
//
// The invariant: nothing that a command does, or fails to do, keeps the engine or
// its end waiting. Observe returns at once; a command has a time, after which its
// process group is killed; only so many run, and only so many events wait for
// one, and what is dropped beyond that is counted and said.
//
// It never decides what an event means, never runs a command twice for one event or
// again after it failed, and gives a command nothing of the launcher's but what is
// documented: no socket, no descriptor, no variable of a protocol.
package hooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"baton/internal/event"
	"baton/internal/process"
)

const (
	atOnce  = 4  // commands that run
	waiting = 64 // events that wait for one
	// defaultTimeout is a command's time where none is configured.
	defaultTimeout = 10 * time.Second
	// grace is how long Close waits for killed commands to be gone: one in the
	// middle of a system call that cannot be broken off (NFS) is left to itself.
	grace = time.Second
)

// Config says which command runs on what, as program and arguments; an empty one
// is none.
type Config struct {
	Ready    []string // a worker is ready
	Swap     []string // a generation serves: the first, the next, the old one again
	Rollback []string // a newcomer failed, or a release that served before is started again
	Crash    []string // a worker was lost without being asked to end
	Stuck    []string // a worker that lives does not serve
	// Timeout is how long each command may take; 0: 10 s.
	Timeout time.Duration
}

// on tells which hook an event belongs to, "" for none, and its command.
func (c Config) on(k event.Kind) (hook string, argv []string) {
	switch k {
	case event.Ready:
		return "ready", c.Ready
	case event.Serving:
		return "swap", c.Swap
	case event.RolledBack, event.Reverting:
		return "rollback", c.Rollback
	case event.Crashed, event.CrashLoop:
		return "crash", c.Crash
	case event.Stuck, event.Unhealthy:
		return "stuck", c.Stuck
	}
	return "", nil
}

func (c Config) timeout() time.Duration {
	if c.Timeout <= 0 {
		return defaultTimeout
	}
	return c.Timeout
}

// Options are what New needs.
type Options struct {
	Name   string // of the application
	Config Config
	// Env is the environment that commands begin with: the launcher's, without what
	// was meant for the launcher alone (protocol.Scrub). nil: an empty one.
	Env []string
	// Log is told what commands say, and why they failed. It must not block for
	// long: commands wait for it.
	Log *slog.Logger
}

// Hooks runs the commands. Safe for concurrent use.
type Hooks struct {
	o      Options
	ctx    context.Context // of all commands; ends with their time in Close
	cancel context.CancelCauseFunc
	crew   sync.WaitGroup // the goroutines that run commands

	hurry   func()          // once
	hurried <-chan struct{} // closed by it

	mu      sync.Mutex // never held while anything is waited for
	config  Config
	queue   []call
	running int
	dropped map[string]int // by hook, since it was last said
	closed  bool
}

// call is one command to be run for one event.
type call struct {
	hook    string
	argv    []string
	timeout time.Duration
	event   event.Event
}

// New has nothing running: the first event begins.
func New(o Options) *Hooks {
	hurried := make(chan struct{})
	h := &Hooks{o: o, config: o.Config, dropped: map[string]int{}, hurried: hurried, hurry: sync.OnceFunc(func() { close(hurried) })}
	h.o.Env = append([]string{}, o.Env...) // never nil, which would be everything
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	return h
}

// Set gives the commands for the events from now on.
func (h *Hooks) Set(c Config) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.config = c
}

// Observe has the event's command run, if there is one. It never blocks.
func (h *Hooks) Observe(e event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hook, argv := h.config.on(e.Kind)
	switch {
	case len(argv) == 0 || h.closed:
		return
	case len(h.queue) >= waiting:
		h.dropped[hook]++
		return
	}
	h.queue = append(h.queue, call{hook, argv, h.config.timeout(), e})
	if h.running < atOnce {
		h.running++
		h.crew.Go(h.work) // ends when no event waits any more
	}
}

// Close ends it. Events that come later are not heard. Commands that run, and those
// that wait, have one more timeout in all; what still runs then, or at Hurry, is killed.
func (h *Hooks) Close() {
	h.mu.Lock()
	h.closed = true
	timeout := h.config.timeout()
	h.mu.Unlock()
	done := make(chan struct{})
	go func() { // ends with the last command
		h.crew.Wait()
		close(done)
	}()
	defer h.cancel(nil)
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	select {
	case <-done:
		return
	case <-h.hurried:
		h.cancel(errors.New("baton ends now"))
	case <-limit.C:
		h.cancel(fmt.Errorf("baton ends, and waited %v for it", timeout))
	}
	if !within(done, grace) {
		h.o.Log.Warn("a hook's command was killed and is not gone", "waited", grace)
	}
}

// Hurry ends the waiting of Close, now or later.
func (h *Hooks) Hurry() { h.hurry() }

func within(done <-chan struct{}, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// work runs commands until none waits.
func (h *Hooks) work() {
	for {
		c, ok := h.next()
		if !ok {
			return
		}
		begin := time.Now()
		said, err := h.run(c)
		h.record(c, said, err, time.Since(begin))
	}
}

// next takes the oldest call. Without one, the caller's work is over, and what was
// dropped is said.
func (h *Hooks) next() (call, bool) {
	h.mu.Lock()
	if h.ctx.Err() != nil {
		for _, c := range h.queue {
			h.dropped[c.hook]++
		}
		h.queue = nil
	}
	if len(h.queue) > 0 {
		c := h.queue[0]
		h.queue = slices.Delete(h.queue, 0, 1)
		h.mu.Unlock()
		return c, true
	}
	h.running--
	dropped := h.dropped
	h.dropped = map[string]int{}
	h.mu.Unlock()
	h.sayDropped(dropped)
	return call{}, false
}

// sayDropped writes one line for all that was not run.
func (h *Hooks) sayDropped(dropped map[string]int) {
	sum := 0
	var attrs []any
	for _, hook := range []string{"ready", "swap", "rollback", "crash", "stuck"} {
		if n := dropped[hook]; n > 0 {
			sum += n
			attrs = append(attrs, hook, n)
		}
	}
	if sum > 0 {
		h.o.Log.Warn(fmt.Sprintf("hooks were not run for %d events: their commands took too long", sum), attrs...)
	}
}

// run runs one command. Its program is looked up each time: what an operator has
// mended since is found.
func (h *Hooks) run(c call) (said string, err error) {
	input, err := h.input(c)
	if err != nil {
		return "", err
	}
	r, err := process.Resolve(process.Command{Exec: c.argv, Base: h.o.Env, Env: h.variables(c)})
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // only read from
	ctx, cancel := context.WithTimeoutCause(h.ctx, c.timeout, fmt.Errorf("not done within %v", c.timeout))
	defer cancel()
	return process.Run(ctx, process.Job{Release: r, Env: r.Env(), Input: input})
}

// record says what came of a command.
func (h *Hooks) record(c call, said string, err error, took time.Duration) {
	attrs := []any{"on", string(c.event.Kind), "command", c.argv[0], "took", took.Round(time.Millisecond)}
	if said != "" && (err == nil || !strings.HasSuffix(err.Error(), said)) {
		attrs = append(attrs, "output", said)
	}
	if err != nil {
		h.o.Log.Warn("hook "+c.hook+" failed: "+err.Error(), attrs...)
		return
	}
	h.o.Log.Debug("hook "+c.hook+" is done", attrs...)
}

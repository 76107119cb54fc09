package handoff

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"baton/handoff/machine"
	"baton/health"
	"baton/internal/event"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// awaitReady begins to look for the sign that the worker's mode of readiness
// asks for. A message comes by itself.
func (s *Supervisor) awaitReady(g *generation, w *worker) {
	switch {
	case w.readiness.Mode == health.Delay:
		s.spawn(func() { // ends with the worker, or after the delay
			select {
			case <-w.ctx.Done():
			case <-time.After(g.plan.ReadyDelay):
				s.post(func() { s.sign(w, health.Elapsed, "it has run for "+g.plan.ReadyDelay.String()) })
			}
		})
	case w.readiness.WantsProbe():
		s.awaitProbe(g, w)
	case w.readiness.WantsProof():
		listeners := provable(g.listeners)
		if len(listeners) == 0 {
			return // only a message can tell
		}
		ctx, cancel := context.WithCancel(w.ctx)
		w.proved = cancel
		s.spawn(func() { // ends with the worker, or when it is ready: a connection that nobody takes would wait in its queue
			defer cancel()
			if err := prove(ctx, listeners, w); err == nil {
				s.post(func() { s.sign(w, health.Accepted, "it accepts connections") })
			}
		})
	}
}

// provable returns the listeners on which an acceptance can be proved.
func provable(all []*listener) []*listener {
	var p []*listener
	for _, l := range all {
		switch l.Address().Network {
		case "udp", "udp4", "udp6":
		default:
			p = append(p, l)
		}
	}
	return p
}

// prove returns nil once the worker has accepted a connection on every
// listener, each proved in a goroutine of its own, and the context's error when
// it did not in time.
func prove(ctx context.Context, listeners []*listener, w *worker) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { results <- proveWorker(ctx, l, w) }() // ends with ctx
	}
	var errs []error
	for range listeners {
		if err := <-results; err != nil {
			errs = append(errs, err)
			cancel()
		}
	}
	return errors.Join(errs...)
}

// proveWorker is proveOne, but content with less where others wait before ours: that
// the worker has accepted one of theirs. A successor on a slot with a long queue would
// otherwise be given up for being late, as would the next one.
func proveWorker(ctx context.Context, l *listener, w *worker) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	took := make(chan struct{})
	go func() { // ends with ctx
		for pause := 100 * time.Millisecond; ; pause = min(pause*2, time.Second) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			// An error: it is being closed. Ours is one of those that wait.
			if p, err := l.Pending(int(w.slot)); err == nil && p.Queued > 1 && len(accepted(w, l)) > 0 {
				close(took)
				cancel()
				return
			}
		}
	}()
	err := proveOne(ctx, l, int(w.slot), w.owns)
	select {
	case <-took:
		return nil
	default:
		return err
	}
}

// owns says whether a process of the worker has that socket open.
func (w *worker) owns(inode uint64) bool {
	held, err := w.proc.Inodes()
	return err == nil && held[inode]
}

// proveOne tries again what failed for another reason than time: no descriptor
// or no source port may be free just now.
func proveOne(ctx context.Context, l *listener, slot int, owns func(uint64) bool) error {
	for {
		err := l.Probe(ctx, slot, owns)
		if err == nil || ctx.Err() != nil || errors.Is(err, socket.ErrClosed) || errors.Is(err, socket.ErrNoProof) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", l.Name(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// sign takes one sign of readiness into account.
func (s *Supervisor) sign(w *worker, sign health.Sign, words string) {
	if w.ready || s.workers[w.id] != w || !w.readiness.By(sign) {
		return
	}
	w.ready = true
	if w.proved != nil {
		w.proved()
	}
	s.maintain() // a worker may have changed its sockets while it set itself up
	w.held = make(map[*listener]bool)
	none := sign == health.Said && len(s.gens[w.gen].listeners) > 0
	for _, l := range s.gens[w.gen].listeners {
		w.held[l] = s.holds(w, l)
		none = none && !w.held[l]
	}
	if none && !w.ended() {
		s.step(machine.Left{Worker: w.id, Reason: "it is ready by its own word, but holds none of its sockets (does it listen on another address than its listeners?)"})
		return
	}
	s.emit(s.of(w, event.Event{
		Kind: event.Ready, Reason: words,
		Message: fmt.Sprintf("pid %d of generation %d is ready: %s", w.pid(), w.gen, words),
	}))
	s.keepAlive(w)
	s.step(machine.BecameReady{Worker: w.id})
}

// earliest bounds how many messages of a worker are kept until launched is told:
// milliseconds, in which an honest one says one or two things.
const earliest = 64

// message handles what a worker said on one of its channels.
func (s *Supervisor) message(w *worker, m protocol.Message) {
	if s.workers[w.id] != w {
		return // said with its last breath
	}
	if !w.running { // a target may be faster than the word that it runs
		if len(w.early) < earliest {
			w.early = append(w.early, m)
		}
		return
	}
	if m.Status != "" && m.Status != w.status {
		w.status = m.Status
		s.emit(s.of(w, event.Event{Kind: event.Status, Reason: m.Status, Message: fmt.Sprintf("pid %d says: %s", w.pid(), m.Status)}))
	}
	if m.ExtendTimeout > 0 {
		s.step(machine.Extended{Worker: w.id, By: m.ExtendTimeout})
	}
	if m.Watchdog || m.WatchdogInterval != 0 {
		w.alive.ping(m.WatchdogInterval)
	}
	if m.Trigger && w.ready && !w.drain {
		s.step(machine.Unhealthy{Worker: w.id, Reason: "it said so (WATCHDOG=trigger)"})
	}
	if m.Ready {
		s.gens[w.gen].saysReady = true
		s.sign(w, health.Said, "it sent "+m.Via)
	}
	if m.Stopping && !w.drain && !w.killed {
		s.step(machine.Left{Worker: w.id, Reason: "it said that it is stopping"})
	}
}

// signalled handles a signal that came to the launcher from the process pid.
func (s *Supervisor) signalled(pid int, sig syscall.Signal) bool {
	for _, w := range s.workers {
		if !w.running || !w.proc.Contains(pid) {
			continue
		}
		if sig == syscall.SIGTERM && !w.ready {
			s.gens[w.gen].saysReady = true
			s.sign(w, health.Said, "it sent TERM to its parent")
		}
		return true
	}
	return false
}

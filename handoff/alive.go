package handoff

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"baton/handoff/machine"
	"baton/health"
	"baton/internal/event"
	"baton/internal/process"
	"baton/internal/socket"
)

// alive is what is known of whether a worker that was ready still serves, and of what
// it uses. It belongs to the goroutine of Run.
type alive struct {
	end         context.CancelFunc // of its live probe; nil: none was begun
	pinged      time.Time          // when it last sent WATCHDOG=1; zero: never
	interval    time.Duration      // that it asked for itself; 0: the configured one; below 0: never
	waits       int                // how many looks in a row found connections unaccepted
	checked     bool               // somebody finds out whether it accepts
	stuck       bool               // it does not
	due         time.Time          // when it is too old; zero: never
	connections *int               // that it has left, while it drains; nil: not known
}

// stop ends the live probe: the worker is to end.
func (a *alive) stop() {
	if a.end != nil {
		a.end()
	}
}

func (a *alive) ping(interval time.Duration) {
	a.pinged = time.Now()
	if interval != 0 {
		a.interval = interval
	}
}

// keepAlive begins to look whether a worker that is ready stays so.
func (s *Supervisor) keepAlive(w *worker) {
	live := s.gens[w.gen].plan.Live
	if w.role != machine.Member {
		return
	}
	if live.MaxAge > 0 {
		// Up to a tenth later, so that workers which came together do not go together.
		w.alive.due = time.Now().Add(live.MaxAge + rand.N(live.MaxAge/10+1))
	}
	if live.Probe == nil {
		return
	}
	var ctx context.Context
	ctx, w.alive.end = context.WithCancel(w.ctx)
	target := s.target(s.gens[w.gen], w, live.Probe)
	s.spawn(func() { // ends with the worker, or when it is to end
		for ctx.Err() == nil {
			if err := fails(ctx, live.Probe.Probe, target); err != nil && ctx.Err() == nil {
				s.post(func() { s.unhealthy(w, err.Error()) })
			}
		}
	})
}

// fails returns when the probe has failed too often in a row, with the last failure, or
// when ctx ends, with nil. Passing forgets what failed, once it has passed often enough.
func fails(ctx context.Context, p health.Probe, target health.Target) error {
	failed, passed := 0, 0
	for {
		select {
		case <-time.After(p.Interval):
		case <-ctx.Done():
			return nil
		}
		switch err := p.Once(ctx, target); {
		case err == nil:
			if passed++; passed >= p.Successes {
				failed = 0
			}
			continue
		case failed+1 >= p.Failures && failed > 0:
			return fmt.Errorf("%w, %d times in a row", err, failed+1)
		case failed+1 >= p.Failures:
			return err // it says nothing if ctx has ended: whoever is told looks at that
		}
		failed, passed = failed+1, 0
	}
}

func (s *Supervisor) unhealthy(w *worker, reason string) {
	if s.workers[w.id] == w && !w.drain && !w.killed && !w.ended() {
		s.step(machine.Unhealthy{Worker: w.id, Reason: reason})
	}
}

// lookAfter looks at each worker that is ready, every second.
func (s *Supervisor) lookAfter() {
	now := time.Now()
	for _, w := range s.workers {
		if !w.ready || !w.running || w.drain || w.killed || w.role != machine.Member || w.ended() {
			continue
		}
		live := s.gens[w.gen].plan.Live
		limit := live.Watchdog
		if w.alive.interval != 0 {
			limit = w.alive.interval
		}
		switch {
		case live.Watchdog > 0 && limit > 0 && !w.alive.pinged.IsZero() && now.Sub(w.alive.pinged) > limit:
			s.unhealthy(w, fmt.Sprintf("it sent no WATCHDOG=1 for more than %v", limit))
		case !w.alive.due.IsZero() && now.After(w.alive.due):
			s.step(machine.Outgrown{Worker: w.id, Reason: fmt.Sprintf("it has run for %v", now.Sub(w.started).Round(time.Second))})
		}
		s.lookAtQueues(w)
	}
	s.sample()
}

// lookAtQueues finds out whether a worker accepts, by a connection of the launcher's
// own: only when others wait in its queue for more than a second, so that a worker
// which has nothing to do is left in peace.
func (s *Supervisor) lookAtQueues(w *worker) {
	g := s.gens[w.gen]
	age := s.patienceWith(g)
	if age <= 0 || w.alive.checked {
		return
	}
	var full *listener
	for _, l := range provable(g.listeners) {
		if l.Mode() == socket.Shared || s.listeners[l.key] != l {
			continue // the queue is everybody's, or nobody's any more
		}
		if p, err := l.Pending(int(w.slot)); err == nil && p.Queued > 0 { // an error: it is being closed
			full = l
			break
		}
	}
	if full == nil {
		w.alive.waits, w.alive.stuck = 0, false
		return
	}
	if w.alive.waits++; w.alive.waits < 2 && !s.onProbation(g) {
		return
	}
	w.alive.checked = true
	owns := w.owns
	if s.siblings(full, w.slot) {
		owns = nil // whoever of them accepts, the queue is served
	}
	s.spawn(func() { // ends with the worker, or after age
		ctx, cancel := context.WithTimeout(w.ctx, age)
		defer cancel()
		before := accepted(w, full)
		err := proveOne(ctx, full, int(w.slot), owns)
		if err != nil && goesOn(w, full, before) {
			err = nil // its queue is longer than age, and it takes one after the other
		}
		if w.ctx.Err() == nil {
			s.post(func() { s.accepts(w, full, age, err) })
		}
	})
}

// accepted are the connections on the listener that the worker has accepted and still
// has, by inode; nil when that cannot be told.
func accepted(w *worker, l *listener) map[uint64]bool {
	owned, err := w.proc.Inodes()
	if err != nil {
		return nil
	}
	all := make(map[uint64]bool)
	_, err = l.Connections(func(inode uint64) bool {
		if owned[inode] {
			all[inode] = true
		}
		return owned[inode]
	})
	if err != nil {
		return nil
	}
	return all
}

// goesOn says whether the worker has accepted what it had not before: an inode is not
// used twice. It looks a few times, since it may come between two connections, and what
// is accepted between the two halves of a look is not seen by it.
func goesOn(w *worker, l *listener, before map[uint64]bool) bool {
	for range 20 {
		for inode := range accepted(w, l) {
			if before != nil && !before[inode] {
				return true
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-w.ctx.Done():
			return false
		}
	}
	return false
}

// patienceWith is how long a worker of the generation may leave a connection
// unaccepted: in a bake no longer than a third of it, so that it is known before the
// bake is over.
func (s *Supervisor) patienceWith(g *generation) time.Duration {
	age := g.plan.Live.Stuck
	if bake := g.plan.Policy.Bake; s.bakes(g) {
		age = min(age, max(bake/3, time.Second))
	}
	return age
}

// accepts takes note of whether a worker has accepted a connection within age.
func (s *Supervisor) accepts(w *worker, l *listener, age time.Duration, err error) {
	g := s.gens[w.gen]
	w.alive.checked = false
	if s.workers[w.id] != w || w.drain || w.killed || w.ended() {
		return
	}
	if err == nil {
		w.alive.waits, w.alive.stuck = 0, false
		return
	}
	reason := fmt.Sprintf("it has accepted nothing on %s for %v", l.Address(), age)
	if !w.alive.stuck {
		w.alive.stuck = true
		s.emit(s.of(w, event.Event{
			Kind: event.Stuck, Listener: l.Name(), Address: l.Address().String(), Reason: reason,
			Message: fmt.Sprintf("pid %d of generation %d is stuck: %s", w.pid(), w.gen, reason),
		}))
	}
	if g.plan.Live.Replace || s.onProbation(g) {
		s.step(machine.Unhealthy{Worker: w.id, Reason: reason, Stuck: true})
	}
}

// onProbation says whether there is a generation to go back to from this one at once.
func (s *Supervisor) onProbation(g *generation) bool { return g.phase == machine.Canary || s.bakes(g) }

// bakes says whether another generation stands by for this one.
func (s *Supervisor) bakes(g *generation) bool {
	if g.phase != machine.Serving {
		return false
	}
	for _, other := range s.gens {
		if other.phase == machine.Standby {
			return true
		}
	}
	return false
}

// sample looks, in a goroutine, at what workers use whose memory is limited, and at
// the connections of those that drain.
func (s *Supervisor) sample() {
	if s.sampling {
		return
	}
	drains := s.draining()
	var limited, draining []*worker
	least := uint64(math.MaxUint64)
	for id, w := range s.workers {
		switch live := s.gens[w.gen].plan.Live; {
		case !w.running || w.killed:
		case drains[id]:
			draining = append(draining, w)
		case live.Memory > 0 && w.ready && w.role == machine.Member:
			limited, least = append(limited, w), min(least, live.Memory)
		}
	}
	if len(limited)+len(draining) == 0 {
		return
	}
	s.sampling = true
	listeners := make(map[*worker][]*listener)
	for _, w := range draining {
		listeners[w] = s.gens[w.gen].listeners
	}
	s.spawn(func() { // ends with the look
		all := make([]*process.Process, len(limited))
		for i, w := range limited {
			all[i] = w.proc
		}
		usages, _ := process.Usages(all, least) // an error: what could be seen is in it
		left := make(map[*worker]*int)
		for _, w := range draining {
			left[w] = connections(w, listeners[w])
		}
		s.post(func() { s.sampled(limited, usages, left) })
	})
}

// draining are the workers that nothing new is to reach.
func (s *Supervisor) draining() map[machine.Worker]bool {
	all := make(map[machine.Worker]bool)
	for _, g := range s.rules.Look().Generations {
		for _, w := range g.Workers {
			switch w.State {
			case machine.Quieting, machine.Idling, machine.Signalled:
				all[w.ID] = true
			}
		}
	}
	return all
}

// connections counts those that a worker has; nil when it cannot be told.
func connections(w *worker, listeners []*listener) *int {
	owned, err := w.proc.Inodes()
	if err != nil {
		return nil
	}
	n := 0
	for _, l := range listeners {
		c, err := l.Connections(func(inode uint64) bool { return owned[inode] })
		if err != nil {
			return nil
		}
		n += c
	}
	return &n
}

func (s *Supervisor) sampled(limited []*worker, usages []process.Usage, left map[*worker]*int) {
	s.sampling = false
	for i, w := range limited {
		g := s.gens[w.gen]
		if s.workers[w.id] != w || w.drain || w.killed || w.ended() {
			continue
		}
		if limit := g.plan.Live.Memory; usages[i].Proportional > limit {
			s.step(machine.Outgrown{Worker: w.id, Reason: fmt.Sprintf("it uses %s of memory, and may use %s", size(usages[i].Proportional), size(limit))})
		}
	}
	for w, n := range left {
		if s.workers[w.id] != w {
			continue
		}
		before := w.alive.connections
		w.alive.connections = n
		if n != nil && *n > 0 && (before == nil || *before != *n) {
			s.emit(s.of(w, event.Event{
				Kind: event.Left, Connections: *n,
				Message: fmt.Sprintf("pid %d of generation %d drains: %d connections left", w.pid(), w.gen, *n),
			}))
		}
	}
}

// size is a number of bytes for people.
func size(bytes uint64) string {
	if bytes < 10<<20 {
		return fmt.Sprintf("%d kB", bytes>>10)
	}
	return fmt.Sprintf("%d MB", bytes>>20)
}

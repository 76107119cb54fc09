package handoff

import (
	"context"
	"slices"
	"strings"
	"time"

	"baton/handoff/machine"
	"baton/internal/socket"
)

// steer gives every listener its part of the table, all at the same time, and
// answers the rules. A listener that the generation which serves does not have
// keeps the table it had: who drains on it goes on until the listener is closed
// with it.
func (s *Supervisor) steer(table []machine.Share) {
	s.table = table
	s.watchAnew()
	var failed []string
	for l, err := range s.steerAll(s.listeners) {
		s.finding(l, "steer: "+err.Error())
		failed = append(failed, err.Error())
	}
	if len(failed) > 0 {
		s.step(machine.Unsteered{Reason: strings.Join(failed, "; ")})
		return
	}
	s.step(machine.Steered{})
}

// steerAll steers these listeners, each in a goroutine, because each waits until
// no processor uses the old program any more, and returns those that failed,
// which upkeep tries again.
func (s *Supervisor) steerAll(listeners map[string]*listener) map[*listener]error {
	type result struct {
		l   *listener
		err error
	}
	results := make(chan result)
	n := 0
	for _, l := range listeners {
		shares := s.shares(l)
		if len(shares) == 0 {
			continue
		}
		n++
		go func() { results <- result{l, steerOne(l, shares)} }() // ends with the system calls
	}
	failed := make(map[*listener]error)
	for range n {
		r := <-results
		r.l.stale = r.err != nil
		if r.err != nil {
			failed[r.l] = r.err
			continue
		}
		r.l.steered = true
	}
	return failed
}

// shares is the listener's part of the table.
func (s *Supervisor) shares(l *listener) []socket.Share {
	var shares []socket.Share
	for _, sh := range s.table {
		if l.users[s.slots[sh.Slot]] {
			shares = append(shares, socket.Share{Slot: int(sh.Slot), Weight: sh.Weight, Side: sh.Side})
		}
	}
	return shares
}

func steerOne(l *listener, shares []socket.Share) error {
	if !l.steered { // it was kept shut until somebody serves on it
		for _, sh := range shares {
			if err := l.Reserve(sh.Slot); err != nil {
				return err
			}
		}
	}
	return l.Steer(shares)
}

// refuse lets nobody new reach the slots, on any listener.
func (s *Supervisor) refuse(slots ...machine.Slot) {
	if len(slots) == 0 {
		return
	}
	s.table = slices.DeleteFunc(s.table, func(sh machine.Share) bool { return slices.Contains(slots, sh.Slot) })
	for _, l := range s.listeners {
		s.refuseOn(l, slots...)
	}
}

func (s *Supervisor) refuseOn(l *listener, slots ...machine.Slot) {
	var numbers []int
	for _, slot := range slots {
		if l.users[s.slots[slot]] {
			numbers = append(numbers, int(slot))
		}
	}
	if len(numbers) == 0 {
		return
	}
	if err := l.Refuse(numbers...); err != nil {
		s.finding(l, "refuse: "+err.Error())
	}
}

// watch is one look-out on a slot. A later one on the same slot replaces it,
// and what it still posts is not heard.
type watch struct {
	cancel context.CancelFunc
	orphan bool
	on     []*listener // whose queue it follows
}

// orphanPatience is how long a handshake can stay half open: the kernel sends
// its SYN-ACK again five times, at doubling intervals from one second
// (net.ipv4.tcp_synack_retries, tcp(7)), and gives up after 63.
const orphanPatience = 65 * time.Second

// watch follows the slot's queue from now on, and waits for the handshakes that
// are half open now, until both are done. A worker that drains waits for them
// no longer than handshake_wait; an orphan, which costs nothing but itself,
// until they are gone, because one that ends later would wait in vain.
func (s *Supervisor) watch(slot machine.Slot, orphan bool) {
	if old := s.watches[slot]; old != nil {
		old.cancel()
	}
	g := s.gens[s.slots[slot]]
	common, own, beside := s.watched(g, slot, orphan)
	all := slices.Concat(common, own)
	for _, l := range all {
		if !s.wanted(l) {
			s.refuseOn(l, slot) // it is closed when this generation is gone
		}
	}
	ctx, cancel := context.WithCancel(s.ctx)
	w := &watch{cancel, orphan, all}
	s.watches[slot] = w
	o := &lookout{slot: int(slot), common: common, own: own, beside: beside, patience: orphanPatience}
	if g != nil && (!orphan || s.stopping || s.serving() == nil) {
		o.patience = g.plan.HandshakeWait
	}
	o.post = func(e machine.Event) {
		s.post(func() {
			if s.watches[slot] != w {
				return
			}
			if _, end := e.(machine.Quiet); end {
				cancel()
				delete(s.watches, slot)
			}
			s.step(e)
		})
	}
	if orphan && g != nil {
		o.evict = &eviction{signal: g.plan.DrainSignals[0], patience: g.plan.Policy.DrainTimeout, on: s.occupants, before: s.occupants.workers(slot),
			say: func(what string) { s.post(func() { s.leftBehind(slot, what) }) }}
	}
	s.spawn(func() { o.look(ctx) }) // ends with ctx, or when quiet
}

// watched returns the listeners whose queue on the slot somebody can serve: a
// worker on the slot serves its generation's. For a slot without one a worker of
// the generation that serves would, but for those that only its own release has.
// A queue that others serve beside it is theirs, and need not be followed.
func (s *Supervisor) watched(owner *generation, slot machine.Slot, orphan bool) (common, own, beside []*listener) {
	sv := s.serving()
	if owner == nil {
		return nil, nil, nil
	}
	for _, l := range owner.listeners {
		switch {
		case s.listeners[l.key] != l: // closed
		case l.Mode() == socket.Shared && !s.stopping && s.wanted(l): // one queue for all
		case s.siblings(l, slot):
			beside = append(beside, l)
		case orphan && sv != nil && !slices.Contains(sv.listeners, l):
			if owner.served {
				own = append(own, l)
			}
		default:
			common = append(common, l)
		}
	}
	return common, own, beside
}

// wanted says whether a generation that is not on its way out has the listener.
func (s *Supervisor) wanted(l *listener) bool {
	for n := range l.users {
		if g := s.gens[n]; g == nil || g.phase != machine.Draining {
			return true
		}
	}
	return false
}

// watchIdle waits until the worker has no connection left.
func (s *Supervisor) watchIdle(w *worker) {
	listeners := slices.Clone(s.gens[w.gen].listeners)
	s.spawn(func() { // ends with the worker, or when it is idle
		select {
		case <-w.up:
		case <-w.ctx.Done():
			return
		}
		for pause := 5 * time.Millisecond; ; pause = min(pause*2, 200*time.Millisecond) {
			owned, err := w.proc.Inodes()
			n := 0
			if err != nil {
				n++ // it cannot be known, as below
			}
			for _, l := range listeners {
				// An error means that it cannot be known: then the timer ends it.
				c, err := l.Connections(func(inode uint64) bool { return owned[inode] })
				if err != nil {
					n++
				}
				n += c
			}
			if n == 0 {
				s.post(func() { s.step(machine.Idle{Worker: w.id}) })
				return
			}
			select {
			case <-w.ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	})
}

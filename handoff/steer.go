package handoff

import (
	"context"
	"slices"
	"time"

	"baton/handoff/machine"
	"baton/internal/socket"
)

// steer gives every listener its part of the table. A listener that the
// generation which serves does not have keeps the table it had: who drains on
// it goes on until the listener is closed with it.
func (s *Supervisor) steer(table []machine.Share) {
	s.table = table
	for _, l := range s.listeners {
		s.steerOne(l)
	}
}

func (s *Supervisor) steerOne(l *listener) {
	var shares []socket.Share
	for _, sh := range s.table {
		if l.users[s.slots[sh.Slot]] {
			shares = append(shares, socket.Share{Slot: int(sh.Slot), Weight: sh.Weight})
		}
	}
	if len(shares) == 0 {
		return
	}
	if err := l.Steer(shares); err != nil {
		s.finding(l, "steer: "+err.Error()) // tried again at the next upkeep
		return
	}
	l.steered = true
}

// refuse lets nobody new reach the slot, on any listener.
func (s *Supervisor) refuse(slot machine.Slot) {
	for _, l := range s.listeners {
		s.refuseOne(l, slot)
	}
}

func (s *Supervisor) refuseOne(l *listener, slot machine.Slot) {
	if !l.users[s.slots[slot]] {
		return
	}
	if err := l.Refuse(int(slot)); err != nil {
		s.finding(l, "refuse: "+err.Error())
	}
}

// watch is one look-out on a slot. A later one on the same slot replaces it,
// and what it still posts is not heard.
type watch struct{ cancel context.CancelFunc }

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
	listeners := s.watched(g, orphan)
	for _, l := range listeners {
		if !s.wanted(l) {
			s.refuseOne(l, slot) // it is closed when this generation is gone
		}
	}
	ctx, cancel := context.WithCancel(s.ctx)
	w := &watch{cancel}
	s.watches[slot] = w
	post := func(e machine.Event, end bool) {
		s.post(func() {
			if s.watches[slot] != w {
				return
			}
			if end {
				cancel()
				delete(s.watches, slot)
			}
			s.step(e)
		})
	}
	patience := orphanPatience
	if g != nil && (!orphan || s.stopping || s.serving() == nil) {
		patience = g.plan.HandshakeWait
	}
	s.spawn(func() { look(ctx, listeners, int(slot), patience, post) }) // ends with ctx, or when quiet
}

// watched returns the listeners whose queue on the slot somebody can serve: a
// worker on the slot serves its generation's; for a slot without one a worker
// of the generation that serves would.
func (s *Supervisor) watched(owner *generation, orphan bool) []*listener {
	g := owner
	if sv := s.serving(); orphan && sv != nil {
		g = sv
	}
	if g == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(g.listeners), func(l *listener) bool {
		return l.Mode() == socket.Shared && !s.stopping && s.wanted(l) || s.listeners[l.key] != l // one queue for all; closed
	})
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

// look polls a slot: every millisecond at first, since on a fast network all is
// over by then, then up to every 20.
func look(ctx context.Context, listeners []*listener, slot int, patience time.Duration, post func(machine.Event, bool)) {
	half := make(map[*listener]socket.Handshakes, len(listeners))
	for _, l := range listeners {
		// An error means that the kernel cannot say: then the drain delay and
		// the queue are all there is to go by.
		half[l], _ = l.HalfOpen()
	}
	deadline := time.Now().Add(patience)
	stranded, empty := false, 0
	for pause := time.Millisecond; ; pause = min(pause*3/2, 20*time.Millisecond) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		// Handshakes first: one that ends in between is found in the queue.
		open, queued := count(listeners, slot, half)
		if queued > 0 && !stranded {
			stranded = true
			post(machine.Stranded{Slot: machine.Slot(slot)}, false)
		}
		if queued > 0 || open > 0 && time.Now().Before(deadline) {
			empty = 0
			continue
		}
		// Twice in a row: a SYN that was being handled on another processor at
		// the very switch may not have been visible at the first look.
		if empty++; empty == 2 {
			post(machine.Quiet{Slot: machine.Slot(slot)}, true)
			return
		}
	}
}

func count(listeners []*listener, slot int, half map[*listener]socket.Handshakes) (open, queued int) {
	for _, l := range listeners {
		if len(half[l]) > 0 {
			n, _ := l.Remaining(half[l]) // as for HalfOpen
			open += n
		}
	}
	for _, l := range listeners {
		p, _ := l.Pending(slot) // an error: the listener was closed, and its queue with it
		queued += p.Queued
	}
	return open, queued
}

// watchIdle waits until the worker has no connection left.
func (s *Supervisor) watchIdle(w *worker) {
	if w == nil {
		return
	}
	listeners := slices.Clone(s.gens[w.gen].listeners)
	s.spawn(func() { // ends with the worker, or when it is idle
		select {
		case <-w.up:
		case <-w.ctx.Done():
			return
		}
		if w.proc == nil {
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

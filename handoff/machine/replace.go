package machine

import "slices"

// outgrown gives a worker a successor on a slot of its own, and drains it when that
// one is ready.
func (m *Machine) outgrown(w *worker, reason string) {
	if w.state == Ready && w.role == Member && w.heir == nil && !w.leaves && w.gen.phase == Serving && !m.stopping {
		m.renew(w, NoteReplacing, reason)
	}
}

// renew starts the heir of a worker: at once, but after a backoff where one was started
// a moment ago.
func (m *Machine) renew(w *worker, k NoteKind, reason string) {
	g := w.gen
	delay := g.policy.backoff(g.renewals[w.index])
	g.renewals[w.index]++
	h := m.hire(g, w.index, Member, m.freeSlot())
	h.forebear, w.heir = w, h
	m.do(Note{Kind: k, Gen: g.number, Worker: w.id, Slot: w.slot, Delay: delay, Reason: reason})
	m.startAfter(h, delay)
}

// inherit makes the one that was started to take a worker's place the member with its
// index: the worker was lost, which counts like any other loss. One that was not started
// yet is let go, as the successor on the worker's own slot serves its queue too.
func (m *Machine) inherit(w *worker) bool {
	h, g := w.heir, w.gen
	if h == nil {
		return false
	}
	m.unlink(w)
	if h.state == Waiting {
		m.vacate(h)
		return false
	}
	n := g.restarts[w.index]
	g.restarts[w.index]++
	m.loops(g, n)
	return true
}

// unlink forgets that one of two workers is to follow the other.
func (m *Machine) unlink(w *worker) {
	if w.heir != nil {
		w.heir.forebear, w.heir = nil, nil
	}
	if w.forebear != nil {
		w.forebear.heir, w.forebear = nil, nil
	}
}

// unhealthy handles a worker that is up and does not serve as it should. It may still
// finish what it has, so it gets an heir, and no new connections while others are
// ready; one that is stuck loses its slot to its successor; and a newcomer, also in its
// bake, is rolled back.
func (m *Machine) unhealthy(w *worker, reason string, stuck bool) {
	if w.state != Ready || w.role != Member || w.leaves {
		return
	}
	switch {
	case stuck || w.gen.phase != Serving || m.in(Standby) != nil:
		m.note(NoteUnhealthy, w.gen, w, reason)
		m.lose(w, reason)
	case w.heir != nil && !w.sick:
		w.sick = true
		m.note(NoteUnhealthy, w.gen, w, reason)
	case w.heir == nil:
		w.sick = true
		m.renew(w, NoteUnhealthy, reason)
	}
}

// scale gives the generation that serves so many members: more are started, or those with
// the highest indexes leave. Members that were left stopped are asked for again, which the
// number that there is already does too.
func (m *Machine) scale(n int) {
	g := m.in(Serving)
	if g == nil || m.stopping || m.newcomer() != nil || n < 1 || n == g.policy.Workers && len(g.stopped) == 0 {
		return
	}
	reason := ""
	for i := range n {
		if g.stopped[i] {
			reason = "those that were left stopped start again"
		}
	}
	g.policy.Workers = n
	clear(g.stopped)
	g.settle()
	m.do(Note{Kind: NoteScaled, Gen: g.number, Workers: n, Reason: reason})
	for _, w := range slices.Clone(g.workers) {
		if w.role == Member && w.index >= n && !w.ends() {
			m.dismiss(w)
		}
	}
	m.fill(g)
}

// dismiss ends a worker that is one too many.
func (m *Machine) dismiss(w *worker) {
	m.unlink(w)
	if w.state == Failed {
		w.state = Killed // no successor follows
		return
	}
	w.leaves = true
}

// leftStopped handles the end of a worker that is not to be restarted.
func (m *Machine) leftStopped(w *worker, reason string) {
	g := w.gen
	m.note(NoteLeftStopped, g, w, reason)
	g.stopped[w.index] = true
	g.settle()
	if h := w.heir; h != nil {
		m.dismiss(h)
	}
	m.leave(w)
	m.steer()
	m.orphan(w.slot) // now that nothing new is steered to it
}

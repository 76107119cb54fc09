package machine

import "slices"

// outgrown gives a worker a successor on a slot of its own, and drains it when that
// one is ready. One that was replaced a moment ago is so only after a backoff.
func (m *Machine) outgrown(w *worker, reason string) {
	g := w.gen
	if w.state != Ready || w.role != Member || w.heir != nil || w.leaves || m.stopping || g.phase != Serving {
		return
	}
	delay := g.policy.backoff(g.renewals[w.index])
	g.renewals[w.index]++
	h := m.hire(g, w.index, Member, m.freeSlot())
	h.forebear, w.heir = w, h
	m.do(Note{Kind: NoteReplacing, Gen: g.number, Worker: w.id, Slot: w.slot, Delay: delay, Reason: reason})
	m.startAfter(h, delay)
}

// inherit makes the one that waited for a worker's place the member with its index:
// the worker is gone, or will be.
func (m *Machine) inherit(w *worker) bool {
	h := w.heir
	if h == nil {
		return false
	}
	m.unlink(w)
	if h.state == Waiting {
		m.cancel(timerKey{kind: TimerRestart, worker: h.id})
		m.start(h)
	}
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

// unhealthy handles a worker that is up and does not serve as it should.
func (m *Machine) unhealthy(w *worker, reason string) {
	g := w.gen
	if w.state != Ready || w.role != Member || w.leaves {
		return
	}
	m.note(NoteUnhealthy, g, w, reason)
	m.lose(w, reason)
}

// scale gives the generation that serves another number of members: more are
// started, or those with the highest indexes leave.
func (m *Machine) scale(n int) {
	g := m.in(Serving)
	if g == nil || m.stopping || m.newcomer() != nil || n < 1 || n == g.policy.Workers {
		return
	}
	g.policy.Workers = n
	clear(g.stopped) // who was left stopped is asked for again
	m.do(Note{Kind: NoteScaled, Gen: g.number, Workers: n})
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
	if h := w.heir; h != nil {
		m.dismiss(h)
	}
	m.leave(w)
	m.steer()
	m.orphan(w.slot) // now that nothing new is steered to it
}

package machine

import "slices"

// freeSlot returns the lowest slot that nobody holds and that is known to be
// empty, so that a newcomer is the only one on it.
func (m *Machine) freeSlot() Slot {
	for i, s := range m.slots {
		if s.holder == nil && s.owner == nil {
			return Slot(i)
		}
	}
	m.slots = append(m.slots, slot{})
	return Slot(len(m.slots) - 1)
}

// known says whether the slot was ever given to a worker.
func (m *Machine) known(s Slot) bool { return s >= 0 && int(s) < len(m.slots) }

func (m *Machine) hold(s Slot, w *worker) {
	m.slots[s].holder = w
	m.slots[s].stranded = false
	if m.slots[s].owner == nil {
		m.slots[s].owner = w.gen
	}
}

// owns says whether the generation's release may still be needed for a slot.
func (m *Machine) owns(g *generation) bool {
	return slices.ContainsFunc(m.slots, func(s slot) bool { return s.owner == g })
}

// orphan watches a slot that has lost its worker until it is empty.
func (m *Machine) orphan(s Slot) {
	switch {
	case s == none:
	case m.ended:
		m.slots[s] = slot{}
	default:
		m.do(Watch{Slot: s, Orphan: true})
	}
}

// take takes the slot, if it still has it, from a living worker.
func (m *Machine) take(w *worker) Slot {
	s := w.slot
	if s != none {
		m.slots[s].holder = nil
		w.slot = none
	}
	return s
}

// release is take, with the slot watched until it is empty.
func (m *Machine) release(w *worker) { m.orphan(m.take(w)) }

// broken handles a slot whose socket is fresh: whoever holds it cannot reach it.
func (m *Machine) broken(e Broken) {
	if !m.known(e.Slot) {
		return
	}
	if w := m.slots[e.Slot].holder; w != nil {
		m.left(w, e.Reason)
	}
}

// quieted ends a watch: an orphan is free again, a draining worker goes on, an
// emptier has done its work.
func (m *Machine) quieted(s Slot) {
	if !m.known(s) {
		return
	}
	w := m.slots[s].holder
	switch {
	case w == nil:
		m.slots[s] = slot{}
	case w.state == Quieting:
		m.delay(w)
	case w.role == Emptier && w.state == Waiting:
		m.leave(w)
		m.slots[s] = slot{}
	case w.role == Emptier && w.state == Failed:
		w.state = Killed // no successor is needed
	case w.role == Emptier && (w.state == Coming || w.state == Ready):
		m.drainWorker(w) // with its delay: it may just have accepted what it has not read
	}
}

// strandedAt starts a worker for a slot that has connections queued and nobody
// to serve them: of the release that serves, or of the slot's own where that
// alone can serve them or nothing serves. A slot that strands again and again
// gets its workers after a backoff.
func (m *Machine) strandedAt(s Slot, own bool) {
	if !m.known(s) || m.slots[s].holder != nil || m.slots[s].owner == nil {
		return
	}
	g := m.in(Serving)
	if (g == nil || g.idle()) && !m.stopping {
		m.slots[s].stranded, m.slots[s].own = true, own // until somebody serves
		return
	}
	if owner := m.slots[s].owner; g == nil || own && owner.served {
		g = owner
	}
	if !g.served {
		m.abandon(s, g)
		return
	}
	w := m.hire(g, emptierIndex(s), Emptier, s)
	m.note(NoteEmptying, g, w, "")
	if m.stopping {
		m.start(w)
		return
	}
	delay := g.policy.backoff(g.restarts[w.index])
	g.restarts[w.index]++
	m.startAfter(w, delay)
}

// emptierTries is how often, during a stop, a successor follows on a slot whose
// emptier crashes or closes it.
const emptierTries = 3

// abandon gives a slot up although connections are queued on it.
func (m *Machine) abandon(s Slot, g *generation) {
	m.do(Note{Kind: NoteAbandoned, Gen: g.number, Slot: s, Reason: "no worker could be brought to serve it"})
	m.slots[s] = slot{}
}

// serveStranded turns to the slots that waited for a release to serve, or for
// the end of that hope.
func (m *Machine) serveStranded() {
	for i := range m.slots {
		if m.slots[i].stranded {
			m.strandedAt(Slot(i), m.slots[i].own)
		}
	}
}

// emptierIndex keeps an emptier's restarts apart from the members' and from
// those of other slots.
func emptierIndex(s Slot) int { return -1 - int(s) }

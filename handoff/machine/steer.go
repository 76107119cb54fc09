package machine

import "slices"

// steer emits the table of slots when it differs from the last one. When every
// member of the generation that serves was left stopped nobody will serve a new
// connection: it is refused.
func (m *Machine) steer() {
	t := m.wanted()
	if len(t) == 0 {
		if g := m.in(Serving); g != nil && g.idle() && !m.stopping {
			for _, s := range m.table {
				m.do(Refuse{s.Slot})
			}
			m.table = nil
		}
		return
	}
	if !slices.Equal(t, m.table) {
		m.table = t
		m.unsaid++
		m.do(Steer{slices.Clone(t)})
	}
}

// wanted derives who receives new connections: the members of the generation
// that serves, or of a newcomer that asks for all; both, by weight, while a
// newcomer has a share. Empty: leave it as it is.
func (m *Machine) wanted() []Share {
	serving := m.in(Serving)
	g := m.sharing()
	switch {
	case g == nil && serving == nil:
		return nil
	case g == nil:
		return weigh(serving.reachable(), 1, 0)
	case g.asks == askAll || serving == nil:
		return weigh(g.reachable(), 1, 0)
	}
	old, fresh := serving.reachable(), g.reachable()
	if g.rolls() || len(old) == 0 || len(fresh) == 0 {
		return ordered(append(weigh(old, 1, 0), weigh(fresh, 1, 0)...))
	}
	percent, side := g.policy.Canary[g.step].Weight, 0
	if g.policy.Sticky {
		side = 1
	}
	a, b := (100-percent)*len(fresh), percent*len(old)
	d := divisor(a, b)
	return ordered(append(weigh(old, a/d, 0), weigh(fresh, b/d, side)...))
}

// sharing returns the newcomer that has, or asked for, new connections.
func (m *Machine) sharing() *generation {
	if g := m.in(Starting); g != nil && g.asks != askNothing {
		return g
	}
	return m.in(Canary)
}

// reachable lists the slots of the members that can serve; when none can, those that
// are up and ail; when there is none, those of all, so that connections queue for the
// successors. Who leaves is not among them.
func (g *generation) reachable() []Slot {
	var ready, sick, all []Slot
	for _, w := range g.workers {
		if !w.fills() || w.leaves || w.forebear != nil && w.state != Ready {
			continue
		}
		all = append(all, w.slot)
		switch {
		case w.state == Ready && w.sick:
			sick = append(sick, w.slot)
		case w.state == Ready:
			ready = append(ready, w.slot)
		}
	}
	switch {
	case len(ready) > 0:
		return ready
	case len(sick) > 0:
		return sick
	}
	return all
}

// idle says whether every member was left stopped.
func (g *generation) idle() bool {
	for i := range g.policy.Workers {
		if !g.stopped[i] {
			return false
		}
	}
	return true
}

// fills says whether the worker is one of its generation's number, with a slot that
// it serves or will.
func (w *worker) fills() bool {
	return w.role == Member && w.slot != none && !w.ends()
}

// ends says whether the worker drains.
func (w *worker) ends() bool {
	return slices.Contains([]State{Quieting, Idling, Signalled, Killed}, w.state)
}

func weigh(slots []Slot, weight, side int) []Share {
	table := make([]Share, 0, len(slots))
	for _, s := range slots {
		table = append(table, Share{s, weight, side})
	}
	return ordered(table)
}

func ordered(table []Share) []Share {
	slices.SortFunc(table, func(a, b Share) int { return int(a.Slot - b.Slot) })
	return table
}

func divisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// steered handles the answer to a Steer; an empty failure is success. One that comes
// without a question says that a listener which had failed is steered at last.
func (m *Machine) steered(failure string) {
	switch {
	case m.unsaid > 0: // the last one is for the whole table
		m.unsaid--
		m.doubt = failure
	case failure == "":
		m.doubt = ""
	}
	if m.unsaid > 0 {
		return
	}
	if m.doubt == "" {
		m.drainLeaving()
	}
	g := m.sharing()
	if g == nil || g.asks == askNothing {
		return
	}
	asked := g.asks
	switch {
	case m.doubt != "":
		m.rollback(g, m.doubt)
	case asked == askAll:
		m.enter(g)
	default:
		m.share(g)
	}
}

// drainLeaving drains those who leave, now that nothing new is steered to them.
func (m *Machine) drainLeaving() {
	for _, g := range m.gens {
		for _, w := range slices.Clone(g.workers) {
			if w.leaves && !w.ends() {
				m.drainWorker(w)
			}
		}
	}
}

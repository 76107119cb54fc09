package machine

import "slices"

// reload begins a generation, or remembers the request while another starts:
// one is remembered, the latest wins.
func (m *Machine) reload(r Request) {
	switch {
	case m.stopping:
		m.do(Verdict{r, 0, Stopped, "the launcher is stopping"})
	case m.newcomer() != nil:
		m.supersede(Superseded, "a later reload took its place")
		m.pending = &r
	default:
		m.begin(r, 0)
	}
}

// supersede gives the remembered reload, if any, its verdict.
func (m *Machine) supersede(o Outcome, reason string) {
	if m.pending != nil {
		m.do(Verdict{*m.pending, 0, o, reason})
		m.pending = nil
	}
}

// begin prepares a generation: of what is configured now, or of the kept release
// that the generation from had resolved.
func (m *Machine) begin(r Request, from Generation) *generation {
	m.lastGen++
	g := &generation{
		number: m.lastGen, request: r, phase: Preparing, release: from,
		restarts: make(map[int]int), renewals: make(map[int]int), stopped: make(map[int]bool),
	}
	if from == 0 {
		g.release = g.number
	}
	m.gens = append(m.gens, g)
	m.do(Prepare{m.lastGen, from})
	return g
}

func (m *Machine) prepared(e Prepared) {
	g := m.gen(e.Gen)
	if g == nil || g.phase != Preparing {
		return
	}
	if !slices.Contains(m.kept, g.release) {
		m.kept = append(m.kept, g.release)
	}
	if m.stopping || g.unwanted != "" {
		if !g.judged { // a stop has judged it
			m.note(NoteRolledBack, g, nil, g.unwanted)
		}
		m.judge(g, RolledBack, g.unwanted)
		m.drop(g)
		m.do(Forget{g.number})
		m.giveUp(g.unwanted)
		return
	}
	g.policy, g.phase = e.Policy, Starting
	m.note(NoteStarting, g, nil, "")
	if g.policy.Rolling && m.in(Serving) != nil {
		m.startMember(g, 0)
		return
	}
	for i := range g.policy.Workers {
		m.startMember(g, i)
	}
}

// startMember starts the member with this index on a slot of its own.
func (m *Machine) startMember(g *generation, index int) {
	delete(g.stopped, index)
	m.start(m.hire(g, index, Member, m.freeSlot()))
}

func (m *Machine) refused(e Refused) {
	g := m.gen(e.Gen)
	if g == nil || g.phase != Preparing {
		return
	}
	m.judge(g, Unfit, e.Reason)
	m.ungood(g.release)
	m.drop(g)
	m.giveUp(e.Reason)
}

// drop removes a generation that has no worker yet.
func (m *Machine) drop(g *generation) {
	m.gens = slices.DeleteFunc(m.gens, func(x *generation) bool { return x == g })
}

// giveUp stops the launcher when nothing serves, nor might.
func (m *Machine) giveUp(reason string) {
	if m.in(Serving) == nil && m.newcomer() == nil && m.pending == nil && !m.stopping {
		m.stopping, m.failure = true, reason
	}
}

func (m *Machine) judge(g *generation, o Outcome, reason string) {
	if !g.judged {
		g.judged = true
		m.do(Verdict{g.request, g.number, o, reason})
	}
}

// enter lets a newcomer serve: it receives all new connections.
func (m *Machine) enter(g *generation) {
	old, standby := m.in(Serving), m.in(Standby)
	if old != nil {
		m.cancel(timerKey{kind: TimerBake, gen: old.number})
		old.phase = Standby // for as long as it takes to say where it goes
	}
	g.phase, g.served, g.asks = Serving, true, askNothing
	m.note(NoteServing, g, nil, "") // now it is true
	m.judge(g, Swapped, "")
	m.ungood(g.release) // it serves
	if standby != nil {
		m.letGo(standby)
	}
	if old != nil {
		m.retire(old, g)
	}
}

// retire makes the generation that served stand by, or drains it.
func (m *Machine) retire(old, g *generation) {
	for _, w := range slices.Clone(old.workers) {
		if w.state == Waiting { // no process: nothing that could stand by
			m.vacate(w)
		}
	}
	if g.policy.Bake <= 0 || !old.manned() {
		m.letGo(old)
		return
	}
	m.note(NoteStandby, old, nil, "")
	m.set(TimerBake, g, nil, g.policy.Bake)
}

// rollback ends a generation that has not proved itself: a newcomer, or the one
// that serves while another stands by.
func (m *Machine) rollback(g *generation, reason string) {
	m.note(NoteRolledBack, g, nil, reason)
	if g.phase != Serving {
		m.rollbackNewcomer(g, reason)
		return
	}
	s := m.in(Standby)
	m.cancel(timerKey{kind: TimerBake, gen: g.number})
	g.phase, s.phase = Draining, Serving
	m.steer()
	m.note(NoteServing, s, nil, "rollback")
	m.drain(g)
	m.fill(s)
}

func (m *Machine) rollbackNewcomer(g *generation, reason string) {
	m.judge(g, RolledBack, reason)
	m.cancel(timerKey{kind: TimerCanary, gen: g.number})
	if reason != asked {
		m.ungood(g.release)
	}
	met := g.phase == Canary || g.asks != askNothing // some may have reached it
	g.phase = Draining
	serving := m.in(Serving)
	if met && serving == nil {
		m.table = nil // it led to this one
	}
	if serving != nil {
		for _, w := range serving.workers {
			if w.yields == g && !w.ends() {
				w.leaves, w.yields = false, nil
			}
		}
		m.fill(serving) // before: there may be nobody left to steer to
	}
	m.steer()
	for _, w := range slices.Clone(g.workers) {
		if met {
			m.drainWorker(w)
		} else {
			m.signal(w) // it never served: there is nothing to wait for
		}
	}
	m.giveUp(reason)
}

// fill starts the members that a generation lost while it stood by, or that gave
// way to a newcomer which failed.
func (m *Machine) fill(g *generation) {
	for i := range g.policy.Workers {
		if !g.stopped[i] && g.member(i) == nil {
			m.startMember(g, i)
		}
	}
}

// member returns who has this index and neither drains nor waits to take another's
// place; nil when there is nobody.
func (g *generation) member(index int) *worker {
	for _, w := range g.workers {
		if w.fills() && !w.leaves && w.index == index && w.forebear == nil {
			return w
		}
	}
	return nil
}

// drain ends a generation that may have connections: nothing new reaches it.
func (m *Machine) drain(g *generation) {
	g.phase = Draining
	m.note(NoteDraining, g, nil, "")
	for _, w := range slices.Clone(g.workers) {
		m.drainWorker(w)
	}
}

// capDraining kills the oldest draining generations beyond the cap.
func (m *Machine) capDraining() {
	g := m.in(Serving)
	if g == nil || g.policy.MaxDraining <= 0 {
		return
	}
	n := 0
	for _, d := range slices.Backward(m.gens) {
		if d.phase != Draining || !slices.ContainsFunc(d.workers, isMember) {
			continue // gone, or only emptying a slot that nobody else can
		}
		if n++; n <= g.policy.MaxDraining {
			continue
		}
		for _, w := range d.workers {
			if isMember(w) && w.state != Killed {
				m.note(NoteLate, d, w, "more generations drain than max_draining allows")
				m.kill(w)
			}
		}
	}
}

// stop ends everything gracefully: new connections are refused, what was
// accepted or queued is served.
func (m *Machine) stop() {
	if m.stopping {
		return
	}
	m.beginStop()
	for _, g := range slices.Clone(m.gens) {
		switch g.phase {
		case Starting:
			m.judge(g, Stopped, "the launcher is stopping")
			g.phase = Draining
			for _, w := range slices.Clone(g.workers) {
				m.signal(w) // it never served: there is nothing to wait for
			}
		case Serving:
			for _, s := range m.table {
				m.do(Refuse{s.Slot})
			}
			m.drain(g)
		case Canary:
			m.judge(g, Stopped, "the launcher is stopping")
			m.drain(g)
		case Standby:
			m.drain(g)
		case Draining:
			m.hurry(g)
		}
	}
}

// hurry cuts the drain delay of workers that drain already, and drains those
// that empty a slot for a generation which drains.
func (m *Machine) hurry(g *generation) {
	for _, w := range slices.Clone(g.workers) {
		if w.state == Quieting && w.quiet && g.policy.DrainDelay > stopDelay {
			m.set(TimerDelay, nil, w, stopDelay)
		}
		m.drainWorker(w)
	}
}

// beginStop is what a graceful and an immediate end have in common.
func (m *Machine) beginStop() {
	m.stopping = true
	m.do(Note{Kind: NoteStopping})
	m.supersede(Stopped, "the launcher is stopping")
	if g := m.in(Preparing); g != nil { // stays until Prepare is answered: it may be binding listeners
		m.judge(g, Stopped, "the launcher is stopping")
	}
	for _, g := range m.gens {
		m.cancel(timerKey{kind: TimerBake, gen: g.number})
		m.cancel(timerKey{kind: TimerCanary, gen: g.number})
	}
	m.good = nil
}

// end kills every process; what is queued is lost.
func (m *Machine) end() {
	if !m.stopping {
		m.beginStop()
	}
	m.ended = true
	for _, g := range m.gens {
		if g.phase == Preparing {
			continue
		}
		m.judge(g, Stopped, "the launcher is stopping")
		g.phase = Draining
		for _, w := range slices.Clone(g.workers) {
			switch w.state {
			case Waiting, Failed: // nothing to kill, or killed already
				m.drainWorker(w)
			case Killed:
			default:
				m.kill(w)
			}
		}
	}
	for i := range m.slots {
		if m.slots[i].holder == nil {
			m.slots[i] = slot{}
		}
	}
}

package machine

import "slices"

// rolls says whether the newcomer takes over worker by worker.
func (g *generation) rolls() bool { return g.policy.Rolling }

// proved is called when a newcomer's member is ready: when all are, it may serve or
// begin its canary; one that rolls gets the connections of one worker of the
// generation that serves, for each of its own.
func (m *Machine) proved(g *generation) {
	serving := m.in(Serving)
	all := !slices.ContainsFunc(g.workers, func(x *worker) bool { return x.state != Ready })
	switch {
	case !all:
	case serving == nil:
		m.ask(g, askAll)
	case g.rolls() && len(g.workers) < g.policy.Workers:
		m.yield(serving, g)
		m.ask(g, askShare)
	case !g.rolls() && len(g.policy.Canary) > 0 && g.release == g.number: // else it has served before
		m.ask(g, askShare)
	default:
		m.ask(g, askAll)
	}
}

// ask asks for steering to a newcomer whose workers have proved themselves. What
// follows is decided when the answer is there.
func (m *Machine) ask(g *generation, a ask) {
	g.asks = a
	m.steer()
	if m.unsaid == 0 { // it is as it should be
		m.steered(m.doubt)
	}
}

// yield has one worker of the generation that serves make room for a newcomer's. The
// last one stays: who serves is not left without.
func (m *Machine) yield(serving, g *generation) {
	var stay []*worker
	for _, w := range serving.workers {
		if w.fills() && !w.leaves && w.forebear == nil {
			stay = append(stay, w)
		}
	}
	if len(stay) < 2 {
		return
	}
	if h := stay[0].heir; h != nil {
		m.dismiss(h) // the newcomer's worker is in its place
	}
	stay[0].leaves, stay[0].yields = true, g
}

// share is the answer to askShare: the newcomer has its share.
func (m *Machine) share(g *generation) {
	first := g.phase == Starting
	g.phase, g.asks = Canary, askNothing
	if g.rolls() {
		if first {
			m.note(NoteCanary, g, nil, "")
		}
		m.startMember(g, len(g.workers))
		return
	}
	s := g.policy.Canary[g.step]
	m.do(Note{Kind: NoteCanary, Gen: g.number, Weight: s.Weight, Delay: s.For})
	if s.For > 0 {
		m.set(TimerCanary, g, nil, s.For)
	}
}

// stepOn goes on to the canary's next step, the last of which is to serve all.
func (m *Machine) stepOn(g *generation) {
	m.cancel(timerKey{kind: TimerCanary, gen: g.number})
	if g.step+1 < len(g.policy.Canary) {
		g.step++
		m.ask(g, askShare)
		return
	}
	m.ask(g, askAll)
}

// promoted ends a canary, or only its present step, or a bake.
func (m *Machine) promoted(step bool) {
	if m.stopping {
		return
	}
	if g := m.in(Canary); g != nil {
		switch {
		case g.rolls(): // its next worker is on the way
		case step:
			m.stepOn(g)
		default:
			m.cancel(timerKey{kind: TimerCanary, gen: g.number})
			m.ask(g, askAll)
		}
		return
	}
	if s := m.in(Standby); s != nil && m.newcomer() == nil {
		m.cancel(timerKey{kind: TimerBake, gen: m.in(Serving).number})
		m.letGo(s)
	}
}

// asked is why a generation ends that an operator did not want.
const asked = "on request"

// abort gives a newcomer up, or goes back while another stands by.
func (m *Machine) abort() {
	g := m.newcomer()
	switch {
	case m.stopping:
	case g != nil && g.phase == Preparing:
		g.unwanted = asked
	case g != nil:
		m.rollback(g, asked)
	case m.in(Standby) != nil:
		m.rollback(m.in(Serving), asked)
	}
}

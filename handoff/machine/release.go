package machine

import (
	"fmt"
	"slices"
)

// keepGood is how many releases are kept to go back to.
const keepGood = 3

// letGo drains the generation that served before, and keeps its release to go back
// to, if it ran well.
func (m *Machine) letGo(g *generation) {
	sv := m.in(Serving)
	sent := sv != nil && sv.back // it was asked to go
	if !g.looping && !sent && !m.stopping {
		m.ungood(g.release)
		m.good = append(m.good, g.release)
		if n := len(m.good); n > keepGood {
			m.good = m.good[n-keepGood:]
		}
	}
	m.drain(g)
}

// ungood takes a release out of those to go back to.
func (m *Machine) ungood(r Generation) {
	m.good = slices.DeleteFunc(m.good, func(x Generation) bool { return x == r })
}

// lastGood returns the release to go back to from the one that g runs, or 0.
func (m *Machine) lastGood(g *generation) Generation {
	for _, r := range slices.Backward(m.good) {
		if g == nil || r != g.release {
			return r
		}
	}
	return 0
}

// revert starts the last good release when the one that serves loops, unless
// somebody is about to take its place anyhow.
func (m *Machine) revert(g *generation) {
	r := m.lastGood(g)
	if r == 0 || m.newcomer() != nil || m.pending != nil || m.stopping || g.phase != Serving {
		return
	}
	n := m.begin(0, r)
	m.note(NoteReverting, n, nil, fmt.Sprintf("generation %d is lost again and again", g.number))
}

// rollbackAsked serves the previous release again: that of a standby generation, or
// of the newcomer's predecessor, which are there; else the last good one.
func (m *Machine) rollbackAsked(r Request) {
	serving, g := m.in(Serving), m.newcomer()
	switch {
	case m.stopping:
		m.do(Verdict{r, 0, Stopped, "the launcher is stopping"})
	case serving == nil:
		m.do(Verdict{r, 0, Unfit, "nothing serves yet"})
	case g != nil:
		m.abort()
		m.do(Verdict{r, serving.number, Swapped, ""})
	case m.in(Standby) != nil:
		s := m.in(Standby)
		m.rollback(serving, asked)
		m.do(Verdict{r, s.number, Swapped, ""})
	case m.lastGood(serving) == 0:
		m.do(Verdict{r, 0, Unfit, "there is no release to go back to"})
	default:
		n := m.begin(r, m.lastGood(serving))
		n.back = true
		m.note(NoteReverting, n, nil, asked)
	}
}

// discard lets go of releases that nobody runs nor goes back to.
func (m *Machine) discard() {
	m.kept = slices.DeleteFunc(m.kept, func(r Generation) bool {
		if slices.Contains(m.good, r) || slices.ContainsFunc(m.gens, func(g *generation) bool { return g.release == r }) {
			return false
		}
		m.do(Discard{r})
		return true
	})
}

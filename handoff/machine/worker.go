package machine

import (
	"slices"
	"time"
)

func isMember(w *worker) bool { return w.role == Member }

// hire makes a worker and gives it the slot; start starts it.
func (m *Machine) hire(g *generation, index int, r Role, s Slot) *worker {
	m.lastWork++
	w := &worker{id: m.lastWork, gen: g, index: index, role: r, slot: s, state: Waiting}
	g.workers = append(g.workers, w)
	m.hold(s, w)
	return w
}

func (m *Machine) start(w *worker) {
	w.state = Coming
	m.do(Start{w.id, w.gen.number, w.index, w.slot, w.role})
	m.set(TimerReady, nil, w, w.gen.policy.ReadyTimeout)
}

func (m *Machine) becameReady(w *worker) {
	if w.state != Coming {
		return
	}
	if w.gen.policy.Probe && w.role == Member {
		w.state = Probing
		m.do(Probe{w.id})
		return
	}
	m.approve(w)
}

func (m *Machine) probed(w *worker, failure string) {
	switch {
	case w.state != Probing:
	case failure != "":
		m.fail(w, "probe: "+failure)
	default:
		m.approve(w)
	}
}

// approve takes a worker that proved itself into service.
func (m *Machine) approve(w *worker) {
	w.state = Ready
	m.cancel(timerKey{kind: TimerReady, worker: w.id})
	m.set(TimerStable, nil, w, w.gen.policy.ResetAfter)
	if w.role == Emptier && m.stopping {
		m.set(TimerQueue, nil, w, w.gen.policy.DrainTimeout)
	}
	if f := w.forebear; f != nil {
		m.unlink(f)
		f.leaves = true
	}
	if w.gen.phase == Starting || w.gen.phase == Canary && w.gen.rolls() {
		m.proved(w.gen)
	}
}

// fail handles a worker that is alive and did not get ready: it rolls a
// newcomer back, elsewhere its successor follows when it is gone.
func (m *Machine) fail(w *worker, reason string) {
	if w.gen.phase == Starting || w.gen.phase == Canary {
		m.rollback(w.gen, reason)
		return
	}
	m.note(NoteLate, w.gen, w, reason)
	m.cancelAll(w)
	w.state = Failed
	m.do(Kill{w.id})
}

// exited handles the end of a worker's process, asked for or not.
func (m *Machine) exited(w *worker, reason string, stay bool) {
	if w.state == Waiting {
		return // it has no process yet
	}
	g := w.gen
	if w.ends() {
		m.note(NoteExited, g, w, reason)
		m.vacate(w)
		return
	}
	sound := g.phase == Serving && m.in(Standby) == nil
	if stay && w.role == Member && sound && w.forebear == nil && !w.leaves {
		m.leftStopped(w, reason)
		return
	}
	m.note(NoteCrashed, g, w, reason)
	switch {
	case sound && (w.forebear != nil || w.leaves || m.inherit(w)):
		m.leave(w)
		m.steer()
		m.orphan(w.slot) // now that nothing new is steered to it
	case w.role == Emptier || sound:
		m.succeed(w)
	case g.phase == Standby:
		m.vacate(w)
		m.loseStandby(g)
	default: // a newcomer, or serving while another stands by
		m.leave(w)
		m.rollback(g, reason)
		m.orphan(w.slot) // now that nothing new is steered to it
	}
}

// succeed puts a new worker in the place of one that was lost, on the same
// slot, so that what is queued there is served.
func (m *Machine) succeed(w *worker) {
	s := w.slot
	m.leave(w)
	m.follow(w, s)
}

// replace starts a successor on the slot of a worker that lives on to finish
// what it has.
func (m *Machine) replace(w *worker) {
	m.follow(w, m.take(w))
	m.drainWorker(w)
}

// follow starts the successor of w on slot s: the first in a row at once, then
// after a backoff. A stop does not wait for emptiers without end.
func (m *Machine) follow(w *worker, s Slot) {
	g := w.gen
	if w.role == Emptier && m.stopping && g.restarts[w.index] >= emptierTries {
		m.abandon(s, g)
		return
	}
	n := g.restarts[w.index]
	g.restarts[w.index]++
	next := m.hire(g, w.index, w.role, s)
	m.steer()
	delay := g.policy.backoff(n)
	m.do(Note{Kind: NoteRestarting, Gen: g.number, Worker: next.id, Slot: s, Delay: delay})
	m.startAfter(next, delay)
	if w.role == Member {
		m.loops(g, n)
	}
}

// loopAfter is how many restarts in a row are called a loop where the policy does
// not say.
const loopAfter = 3

// loops says so when a worker is lost again and again, and goes back to the last
// good release.
func (m *Machine) loops(g *generation, n int) {
	limit := g.policy.RevertAfter
	if limit <= 0 {
		limit = loopAfter
	}
	if n < limit {
		return
	}
	if !g.looping {
		g.looping = true
		m.note(NoteLooping, g, nil, "")
	}
	if g.policy.RevertAfter > 0 {
		m.revert(g)
	}
}

// settle ends a loop when no member's restarts are remembered: each has run for long,
// or is not wanted any more. Those of emptiers do not count.
func (g *generation) settle() {
	for i := range g.policy.Workers {
		if g.restarts[i] > 0 && !g.stopped[i] {
			return
		}
	}
	g.looping = false
}

func (m *Machine) startAfter(w *worker, delay time.Duration) {
	if delay == 0 {
		m.start(w)
		return
	}
	m.set(TimerRestart, nil, w, delay)
}

// backoff is the wait before restart n in a row, from 0: none, then BackoffMin
// doubling to BackoffMax.
func (p Policy) backoff(n int) time.Duration {
	if n == 0 {
		return 0
	}
	d := p.BackoffMin
	for i := 1; i < n && d < p.BackoffMax; i++ {
		d *= 2
	}
	return min(d, p.BackoffMax)
}

// loseStandby ends the bake when nothing is left to go back to.
func (m *Machine) loseStandby(g *generation) {
	if !g.manned() {
		m.cancel(timerKey{kind: TimerBake, gen: m.in(Serving).number})
		m.letGo(g)
	}
}

// manned says whether any member still has its slot, and stays.
func (g *generation) manned() bool {
	return slices.ContainsFunc(g.workers, func(w *worker) bool { return w.fills() && !w.leaves })
}

// left handles a living worker that cannot, or will not, accept on its slot.
func (m *Machine) left(w *worker, reason string) {
	g := w.gen
	switch w.state {
	case Waiting, Failed: // no process that could have left, or will: its successor takes the slot
		return
	case Quieting, Idling, Signalled, Killed:
		m.release(w)
		if w.state == Quieting {
			m.delay(w)
		}
		return
	}
	m.note(NoteLeft, g, w, reason)
	m.lose(w, reason)
}

// lose handles a living worker that cannot serve, whatever made it so.
func (m *Machine) lose(w *worker, reason string) {
	g := w.gen
	switch {
	case g.phase == Starting:
		m.rollback(g, reason)
	case g.phase == Canary, g.phase == Serving && m.in(Standby) != nil && w.role == Member:
		s := m.take(w)
		m.rollback(g, reason)
		m.orphan(s) // now that nothing new is steered to it
	case g.phase == Standby && w.role == Member:
		m.release(w)
		m.loseStandby(g)
		m.drainWorker(w)
	case w.role == Member && (w.forebear != nil || w.leaves || m.inherit(w)):
		s := m.take(w)
		m.steer()
		m.orphan(s) // as above
		m.drainWorker(w)
	default:
		m.replace(w)
	}
}

// leave takes a worker off its generation, its timers and its slot.
func (m *Machine) leave(w *worker) {
	m.cancelAll(w)
	m.unlink(w)
	w.gen.workers = slices.DeleteFunc(w.gen.workers, func(x *worker) bool { return x == w })
	if w.slot != none {
		m.slots[w.slot].holder = nil
	}
}

// vacate is leave, with the slot watched until it is empty.
func (m *Machine) vacate(w *worker) {
	m.leave(w)
	m.orphan(w.slot)
}

// drainWorker begins the end of one worker.
func (m *Machine) drainWorker(w *worker) {
	m.unlink(w)
	switch w.state {
	case Waiting:
		m.vacate(w)
	case Failed:
		w.state = Killed
	case Coming, Probing, Ready:
		m.cancelAll(w)
		if w.state == Ready && w.slot != none && w.gen.policy.Quiesce {
			m.do(Quiesce{w.id})
		}
		w.state, w.quiet = Quieting, false
		if w.slot == none {
			m.delay(w)
			return
		}
		m.do(Watch{Slot: w.slot})
		m.set(TimerQueue, nil, w, w.gen.policy.DrainTimeout)
	}
}

// delay goes on with a drain when nobody is on the way to the worker any more: who came
// last is to be read as well.
func (m *Machine) delay(w *worker) {
	if w.quiet {
		return
	}
	w.quiet = true
	m.cancel(timerKey{kind: TimerQueue, worker: w.id})
	if delay := m.drainDelay(w); delay > 0 {
		m.set(TimerDelay, nil, w, delay)
		return
	}
	m.advance(w)
}

// stopDelay is the longest that a stop waits for drain_delay: long enough for a
// server to read what it has accepted, which some drop when they are told to
// end; nobody new is on the way.
const stopDelay = time.Second

func (m *Machine) drainDelay(w *worker) time.Duration {
	if m.stopping {
		return min(w.gen.policy.DrainDelay, stopDelay)
	}
	return w.gen.policy.DrainDelay
}

// advance goes on with a drain when handshakes, queue and delay are done.
func (m *Machine) advance(w *worker) {
	m.cancelAll(w)
	if w.gen.policy.DrainIdle <= 0 {
		m.signal(w)
		return
	}
	w.state = Idling
	m.do(WatchIdle{w.id})
	m.set(TimerIdle, nil, w, w.gen.policy.DrainIdle)
}

func (m *Machine) idled(w *worker) {
	if w.state == Idling {
		m.signal(w)
	}
}

func (m *Machine) signal(w *worker) {
	m.cancelAll(w)
	m.unlink(w)
	w.state = Signalled
	m.do(Signal{w.id, 0})
	m.set(TimerKill, nil, w, w.gen.policy.DrainTimeout)
	m.nextRung(w)
}

// nextRung waits for the time of the next drain signal, if there is one.
func (m *Machine) nextRung(w *worker) {
	ladder := w.gen.policy.Ladder
	if w.rung >= len(ladder) {
		return
	}
	after := ladder[w.rung]
	if w.rung > 0 {
		after -= ladder[w.rung-1]
	}
	m.set(TimerSignal, nil, w, after)
}

func (m *Machine) kill(w *worker) {
	m.cancelAll(w)
	m.unlink(w)
	w.state = Killed
	m.do(Kill{w.id})
}

package machine

import "time"

// TimerKind says what a timer is for.
type TimerKind string

// The kinds of timers.
const (
	TimerReady   TimerKind = "ready"   // a worker must be ready by then
	TimerRestart TimerKind = "restart" // backoff before a successor is started; the caller adds jitter
	TimerStable  TimerKind = "stable"  // a ready worker's restarts are forgotten
	TimerBake    TimerKind = "bake"    // the standby generation is let go
	TimerDelay   TimerKind = "delay"   // drain_delay
	TimerQueue   TimerKind = "queue"   // the longest wait for an empty queue
	TimerIdle    TimerKind = "idle"    // drain_idle
	TimerSignal  TimerKind = "signal"  // the next drain signal
	TimerKill    TimerKind = "kill"    // drain_timeout
	TimerCanary  TimerKind = "canary"  // the present step of a canary is over
)

// Timer names one timer. Seq makes each setting a new value, so that a timer
// which fires while it is being stopped is not taken for its successor.
type Timer struct {
	Kind   TimerKind
	Gen    Generation // TimerBake, TimerCanary
	Worker Worker     // the others
	Seq    int
}

type timerKey struct {
	kind   TimerKind
	gen    Generation
	worker Worker
}

func (m *Machine) set(k TimerKind, g *generation, w *worker, after time.Duration) {
	key := timerKey{kind: k}
	if w != nil {
		key.worker = w.id
	} else {
		key.gen = g.number
	}
	m.cancel(key)
	m.lastTime++
	t := Timer{Kind: k, Gen: key.gen, Worker: key.worker, Seq: m.lastTime}
	m.timers[key] = t
	m.do(SetTimer{t, after})
}

func (m *Machine) cancel(key timerKey) {
	if t, ok := m.timers[key]; ok {
		delete(m.timers, key)
		m.do(StopTimer{t})
	}
}

// cancelAll stops every timer of the worker.
func (m *Machine) cancelAll(w *worker) {
	for _, k := range []TimerKind{TimerReady, TimerRestart, TimerStable, TimerDelay, TimerQueue, TimerIdle, TimerSignal, TimerKill} {
		m.cancel(timerKey{kind: k, worker: w.id})
	}
}

// extended gives a worker more time for what it is doing, as a service may ask
// of systemd with EXTEND_TIMEOUT_USEC.
func (m *Machine) extended(w *worker, by time.Duration) {
	for _, k := range []TimerKind{TimerReady, TimerKill} {
		if t, ok := m.timers[timerKey{kind: k, worker: w.id}]; ok {
			m.do(ExtendTimer{t, by})
		}
	}
}

func (m *Machine) fired(t Timer) {
	key := timerKey{t.Kind, t.Gen, t.Worker}
	if m.timers[key] != t {
		return // stopped or set anew while it fired
	}
	delete(m.timers, key)
	switch t.Kind { // for as long as these run there is such a generation
	case TimerBake:
		m.letGo(m.in(Standby))
		return
	case TimerCanary:
		m.stepOn(m.in(Canary))
		return
	}
	m.with(t.Worker, func(w *worker) { m.due(w, t.Kind) })
}

// due handles a worker's timer. A worker has a timer only in the states that
// the timer is for, so the state need not be asked.
func (m *Machine) due(w *worker, k TimerKind) {
	switch k {
	case TimerReady:
		m.fail(w, "not ready within "+w.gen.policy.ReadyTimeout.String())
	case TimerRestart:
		m.start(w)
	case TimerStable:
		delete(w.gen.restarts, w.index)
		if w.heir == nil && !w.sick { // else its successor waits: it was not well for all that time
			delete(w.gen.renewals, w.index)
		}
		w.gen.settle()
	case TimerDelay:
		m.advance(w)
	case TimerQueue:
		m.note(NoteLate, w.gen, w, "its queue did not empty within "+w.gen.policy.DrainTimeout.String())
		if w.role == Emptier && m.stopping { // else the next one would be sent, and wait as long
			m.abandon(w.slot, w.gen)
			w.slot = none
		}
		m.advance(w)
	case TimerIdle:
		m.signal(w)
	case TimerSignal:
		w.rung++
		m.do(Signal{w.id, w.rung})
		m.nextRung(w)
	case TimerKill:
		m.note(NoteLate, w.gen, w, "did not end within "+w.gen.policy.DrainTimeout.String()+" of its signal")
		m.kill(w)
	}
}

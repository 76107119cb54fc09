// Package machine holds the rules of a handoff: which generation starts, serves,
// stands by and drains, which slots receive new connections, and what happens
// to a worker and to its slot whatever befalls either. It is a reducer: Step
// takes one past fact (an Event) and returns what is to be done about it (the
// Actions), in order.
//
// It keeps these invariants: at most one generation starts and at most one
// serves; steering never names a slot that nobody will serve; every reload gets
// exactly one verdict; a newcomer that failed never serves; a slot with
// connections queued is never forgotten while a release is there to serve them;
// an exit or a stop leaves no timer behind.
//
// It never reads a clock, does I/O, starts a goroutine or imports another
// package of ours. The table of its rules is in docs/design.md and changes only
// together with this package.
package machine

import (
	"slices"
	"time"
)

type (
	// Generation numbers one start of a release, from 1, never reused.
	Generation int
	// Worker is the serial number of one process, from 1, never reused: a
	// successor is a new worker.
	Worker int
	// Slot numbers one socket of every listener, from 0, the same across all.
	Slot int
	// Request is the caller's name for one reload.
	Request int
)

// Policy is what a generation's configuration says about its handoff.
type Policy struct {
	Workers      int             // processes of the generation, at least 1
	Rolling      bool            // takes over from who serves worker by worker
	Canary       []Step          // shares of new connections before it gets all
	Sticky       bool            // in a canary the same client address always meets the same generation
	Probe        bool            // a ready worker is probed in isolation before it may serve
	ReadyTimeout time.Duration   // from start to ready, per worker
	Bake         time.Duration   // how long the previous generation stands by; 0: not at all
	DrainDelay   time.Duration   // from when nobody is on the way any more, handshakes and queue included, to the drain signal
	DrainIdle    time.Duration   // how long connections may take to end before the signal; 0: not waited for
	DrainTimeout time.Duration   // from the drain signal to KILL; also bounds the wait for an empty queue
	Ladder       []time.Duration // from the first drain signal to each further one; ascending
	Quiesce      bool            // a worker is told when new connections stop, before its drain signal
	MaxDraining  int             // generations that may drain at once; the oldest beyond it is killed; 0: no limit
	BackoffMin   time.Duration   // before the second restart in a row (the first is at once); doubles
	BackoffMax   time.Duration   // at most
	ResetAfter   time.Duration   // a worker ready for this long starts afresh with its restarts
	RevertAfter  int             // restarts in a row before the last good release is started again; 0: never
}

// Step is one share of a canary.
type Step struct {
	Weight int           // percent of new connections, 1 to 99
	For    time.Duration // 0: until Promote
}

// Phase is where a generation is in its life.
type Phase string

// The phases of a generation, in order. A generation that is gone is forgotten.
const (
	Preparing Phase = "preparing" // configuration and release are being resolved
	Starting  Phase = "starting"  // its workers are not all ready
	Canary    Phase = "canary"    // receives a share of new connections, beside the one that serves
	Serving   Phase = "serving"   // receives new connections
	Standby   Phase = "standby"   // served before, stands by during the bake
	Draining  Phase = "draining"  // receives nothing new and ends
)

// State is where a worker is in its life. Only a waiting worker has no process.
type State string

// The states of a worker. A worker that is gone is forgotten.
const (
	Waiting   State = "waiting"   // for its backoff; has a slot, not a process
	Coming    State = "starting"  // started, not ready
	Probing   State = "probing"   // said to be ready, being probed in isolation
	Ready     State = "ready"     // can serve
	Failed    State = "failed"    // killed because it was late or failed its probe; its successor follows
	Quieting  State = "quieting"  // draining: handshakes, queue and drain_delay
	Idling    State = "idling"    // draining: its connections may end by themselves
	Signalled State = "signalled" // draining: got its signal
	Killed    State = "killed"    // draining: got KILL
)

// Role says what a worker is started for.
type Role string

// The roles of a worker.
const (
	Member  Role = "member"  // one of its generation's Policy.Workers
	Emptier Role = "emptier" // serves what a slot without a worker still holds, unsteered, then drains
)

// Share is a slot and its weight in the choice for a new connection.
type Share struct {
	Slot   Slot
	Weight int
	Side   int // shares of side 1 are for the same client addresses as long as their part does not shrink
}

type worker struct {
	id    Worker
	gen   *generation
	index int
	role  Role
	slot  Slot // none when it cannot serve on its slot any more
	state State
	quiet bool // Quieting: handshakes and queue are done, and drain_delay goes on
	rung  int  // Signalled: how many of its signals it got

	heir     *worker     // who takes its place when ready; nil: nobody
	forebear *worker     // whose place it takes when ready; nil: nobody's
	sick     bool        // receives new connections only if nobody else is ready
	leaves   bool        // drains as soon as nothing new is steered to it
	yields   *generation // the newcomer for whose worker it leaves; nil: it leaves for another reason
}

const none Slot = -1

type generation struct {
	number   Generation
	request  Request
	judged   bool // its request has its verdict
	served   bool // it proved itself once
	asks     ask  // what steering was asked for, for a newcomer
	phase    Phase
	policy   Policy
	step     int          // Canary: of policy.Canary
	release  Generation   // the generation that resolved what it runs: itself, or one that served before
	back     bool         // it was asked for by Rollback: who serves is not good
	unwanted string       // Preparing: why it was aborted
	looping  bool         // a worker was lost again and again
	workers  []*worker    // oldest first
	restarts map[int]int  // by index: restarts in a row
	renewals map[int]int  // by index: replacements in a row
	stopped  map[int]bool // by index: left stopped
}

// ask is what a newcomer waits to hear of steering.
type ask int

const (
	askNothing ask = iota
	askShare       // a share of new connections beside who serves
	askAll         // all new connections
)

// slot is free when it has neither a holder nor an owner, and an orphan when it
// has only an owner: then it is watched until it is empty.
type slot struct {
	holder   *worker
	owner    *generation // whose release can serve what is queued here
	stranded bool        // an orphan with connections queued and nobody to serve them yet
	own      bool        // stranded: only the owner's release can serve them
}

// Machine is the state of one launcher's handoff. The zero value has nothing
// running and waits for the first Reload. It is not safe for concurrent use:
// one goroutine owns it.
type Machine struct {
	gens     []*generation // by number
	slots    []slot        // by Slot
	table    []Share       // the last Steer
	good     []Generation  // releases to go back to, the last one last, by who resolved them
	kept     []Generation  // releases that are not let go
	pending  *Request      // the reload that is remembered while another starts
	unsaid   int           // Steers that are not answered
	doubt    string        // why the last one failed; "": it did not
	timers   map[timerKey]Timer
	lastGen  Generation
	lastWork Worker
	lastTime int
	stopping bool
	ended    bool // End was asked: nothing is started any more
	halted   bool
	failure  string // why the launcher stops by itself
	out      []Action
}

// Step takes one fact and returns what is to be done, in order. Facts about a
// generation, worker or timer that is gone are no error and change nothing.
func (m *Machine) Step(e Event) []Action {
	m.out = nil
	if m.timers == nil {
		m.timers = make(map[timerKey]Timer)
	}
	m.dispatch(e)
	m.settle()
	return m.out
}

func (m *Machine) dispatch(e Event) {
	switch e := e.(type) {
	case Reload:
		m.reload(e.Request)
	case Prepared:
		m.prepared(e)
	case Refused:
		m.refused(e)
	case Unstartable:
		m.with(e.Worker, func(w *worker) { m.exited(w, e.Reason, false) })
	case Exited:
		m.with(e.Worker, func(w *worker) { m.exited(w, e.Reason, e.Stay) })
	case BecameReady:
		m.with(e.Worker, m.becameReady)
	case Probed:
		m.with(e.Worker, func(w *worker) { m.probed(w, e.Failure) })
	case Extended:
		m.with(e.Worker, func(w *worker) { m.extended(w, e.By) })
	case Left:
		m.with(e.Worker, func(w *worker) { m.left(w, e.Reason) })
	case Unhealthy:
		m.with(e.Worker, func(w *worker) { m.unhealthy(w, e.Reason, e.Stuck) })
	case Outgrown:
		m.with(e.Worker, func(w *worker) { m.outgrown(w, e.Reason) })
	case Broken:
		m.broken(e)
	case Quiet:
		m.quieted(e.Slot)
	case Stranded:
		m.strandedAt(e.Slot, e.Own)
	case Steered:
		m.steered("")
	case Unsteered:
		m.steered(e.Reason)
	case Idle:
		m.with(e.Worker, m.idled)
	case Fired:
		m.fired(e.Timer)
	case Scale:
		m.scale(e.Workers)
	case Rollback:
		m.rollbackAsked(e.Request)
	case Promote:
		m.promoted(e.Step)
	case Abort:
		m.abort()
	case Stop:
		m.stop()
	case End:
		m.end()
	}
}

// settle does what follows from the state alone, whatever the event was.
func (m *Machine) settle() {
	m.steer()
	if m.unsaid == 0 && m.doubt == "" {
		m.drainLeaving()
	}
	m.serveStranded()
	m.capDraining()
	m.gens = slices.DeleteFunc(m.gens, func(g *generation) bool {
		if g.phase != Draining || len(g.workers) > 0 || m.owns(g) {
			return false
		}
		m.note(NoteGone, g, nil, "")
		m.do(Forget{g.number})
		return true
	})
	if m.pending != nil && m.newcomer() == nil && !m.stopping {
		r := *m.pending
		m.pending = nil
		m.begin(r, 0)
	}
	m.discard()
	if m.stopping && len(m.gens) == 0 && !m.halted {
		m.halted = true
		m.do(Halt{m.failure})
	}
}

func (m *Machine) do(a Action) { m.out = append(m.out, a) }

func (m *Machine) note(k NoteKind, g *generation, w *worker, reason string) {
	n := Note{Kind: k, Gen: g.number, Reason: reason}
	if w != nil {
		n.Worker, n.Slot = w.id, w.slot
	}
	m.do(n)
}

func (m *Machine) with(id Worker, f func(*worker)) {
	for _, g := range m.gens {
		for _, w := range g.workers {
			if w.id == id {
				f(w)
				return
			}
		}
	}
}

func (m *Machine) gen(n Generation) *generation {
	for _, g := range m.gens {
		if g.number == n {
			return g
		}
	}
	return nil
}

// in returns the one generation in the phase, or nil. Not for Draining.
func (m *Machine) in(p Phase) *generation {
	for _, g := range m.gens {
		if g.phase == p {
			return g
		}
	}
	return nil
}

// newcomer returns the one generation that is not yet let in.
func (m *Machine) newcomer() *generation {
	for _, p := range []Phase{Preparing, Starting, Canary} {
		if g := m.in(p); g != nil {
			return g
		}
	}
	return nil
}

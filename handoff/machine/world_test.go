package machine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"pgregory.net/rapid"
)

// world is what the machine's actions are done to: processes, timers, watches,
// as the supervisor sees them, and what was asked before.
type world struct {
	t           *rapid.T
	m           Machine
	lastRequest Request
	verdicts    map[Request]Outcome
	preparing   map[Generation]bool // asked, not answered
	forgotten   map[Generation]bool
	served      map[Generation]bool
	failed      map[Generation]bool // rolled back
	discarded   map[Generation]bool // their release
	procs       map[Worker]*proc
	lastWorker  Worker
	timers      map[Timer]bool
	everSet     []Timer
	watches     map[Slot]bool // true: said to be stranded
	refused     map[Slot]bool
	table       []Share
	before      []holding // the slots before the step
	halted      bool
	twin        *Machine // made of what m kept, and going the same way; nil: none yet
	kind        bool     // steering does not fail any more
}

type proc struct {
	gen                                              Generation
	slot                                             Slot
	lost                                             bool // told that it does not serve its slot any more
	quiesced                                         bool
	rung                                             int // how many signals it got
	ready, probing, signalled, killed, waitedForIdle bool
}

type holding struct {
	free  bool
	gen   Generation
	index int
	role  Role
}

func newWorld(t *rapid.T) *world {
	return &world{
		t: t, verdicts: map[Request]Outcome{}, preparing: map[Generation]bool{}, forgotten: map[Generation]bool{},
		served: map[Generation]bool{}, failed: map[Generation]bool{}, discarded: map[Generation]bool{}, procs: map[Worker]*proc{},
		timers: map[Timer]bool{}, watches: map[Slot]bool{}, refused: map[Slot]bool{},
	}
}

// step tells the machine one fact, does what it asks and checks the rules.
func (w *world) step(e Event) {
	stale := w.stale(e)
	w.happens(e)
	w.before = nil
	for _, s := range w.m.slots {
		h := holding{free: s.holder == nil && s.owner == nil}
		if s.holder != nil {
			h.gen, h.index, h.role = s.holder.gen.number, s.holder.index, s.holder.role
		}
		w.before = append(w.before, h)
	}
	actions := w.m.Step(e)
	w.t.Logf("%T%+v", e, e)
	w.twinned(e, actions)
	for _, a := range actions {
		w.t.Logf("    %s", showAction(a))
		w.do(a)
	}
	w.must(!stale || len(actions) == 0, "a fact about what is gone, or never was, changes something")
	if w.m.unsaid > 0 { // the answer to a Steer comes before any other fact
		var answer Event = Steered{}
		if !w.kind && rapid.IntRange(0, 9).Draw(w.t, "steering fails") == 0 {
			answer = Unsteered{"no memory"}
		}
		w.step(answer)
		return
	}
	w.check()
}

// twinned lets the twin, a machine that was made of what another one kept, take the same
// step, and expects the same of it.
func (w *world) twinned(e Event, actions []Action) {
	if w.twin != nil {
		w.must(slices.Equal(shown(w.twin.Step(e)), shown(actions)), "a machine that was kept and resumed goes another way")
		w.must(reflect.DeepEqual(w.twin.Keep(), w.m.Keep()), "a machine that was kept and resumed knows something else")
	}
	if rapid.IntRange(0, 9).Draw(w.t, "kept") == 9 {
		text, err := json.Marshal(w.m.Keep())
		w.must(err == nil, "what is kept has no words")
		var k Memory
		w.must(json.Unmarshal(text, &k) == nil, "what is kept cannot be read")
		twin, err := Resume(k)
		w.must(err == nil, "what was kept does not fit together: %v", err)
		w.twin = &twin
		w.must(reflect.DeepEqual(w.twin.Keep(), w.m.Keep()), "a machine that was kept and resumed knows something else at once")
	}
}

func shown(actions []Action) (words []string) {
	for _, a := range actions {
		words = append(words, showAction(a))
	}
	return words
}

// stale says whether a fact is about nothing that there is, or was told before.
func (w *world) stale(e Event) bool {
	gone := func(id Worker) bool { return w.procs[id] == nil }
	switch e := e.(type) {
	case Prepared:
		return !w.preparing[e.Gen]
	case Refused:
		return !w.preparing[e.Gen]
	case Fired:
		return !w.timers[e.Timer]
	case Steered:
		return w.m.unsaid == 0 && w.m.doubt == ""
	case Unsteered:
		return w.m.unsaid == 0
	case Unhealthy:
		return gone(e.Worker)
	case Outgrown:
		return gone(e.Worker)
	case Quiet:
		_, watched := w.watches[e.Slot]
		return !watched
	case Stranded:
		stranded, watched := w.watches[e.Slot]
		return !watched || stranded
	case Broken:
		return !w.m.known(e.Slot)
	case Exited:
		return gone(e.Worker)
	case Unstartable:
		return gone(e.Worker)
	case BecameReady:
		return gone(e.Worker)
	case Probed:
		return gone(e.Worker)
	case Extended:
		return gone(e.Worker)
	case Left:
		return gone(e.Worker)
	case Idle:
		return gone(e.Worker)
	}
	return false
}

// happens makes the fact true in the world before the machine hears of it.
func (w *world) happens(e Event) {
	switch e := e.(type) {
	case Reload:
		w.lastRequest = e.Request
	case Rollback:
		w.lastRequest = e.Request
	case Unhealthy: // others may have its slot if it is stuck, or given up with its generation
		if p := w.procs[e.Worker]; p != nil && (e.Stuck || w.phaseOf(p.gen) != Serving || w.m.in(Standby) != nil) {
			p.lost = true
		}
	case Steered:
		w.table = w.m.table
	case Prepared:
		delete(w.preparing, e.Gen)
	case Refused:
		delete(w.preparing, e.Gen)
	case Exited:
		delete(w.procs, e.Worker)
	case Unstartable:
		delete(w.procs, e.Worker)
	case BecameReady:
		if p := w.procs[e.Worker]; p != nil {
			p.ready = true
		}
	case Probed:
		if p := w.procs[e.Worker]; p != nil {
			p.probing = false
		}
	case Left:
		if p := w.procs[e.Worker]; p != nil {
			p.lost = true
		}
	case Broken:
		for _, p := range w.procs {
			p.lost = p.lost || p.slot == e.Slot
		}
	case Quiet:
		delete(w.watches, e.Slot)
	case Stranded:
		if _, watched := w.watches[e.Slot]; watched {
			w.watches[e.Slot] = true
		}
	case Idle:
		if p := w.procs[e.Worker]; p != nil {
			p.waitedForIdle = false
		}
	case Fired:
		delete(w.timers, e.Timer)
	case Unsteered:
		if w.m.unsaid == 0 {
			return // said before
		}
		w.table = nil // nobody knows what was changed and what was not
	}
}

// do carries out one action and fails on one that makes no sense where it comes.
func (w *world) do(a Action) {
	if _, answer := a.(Verdict); w.halted && !answer {
		w.t.Fatalf("after the halt: %s", showAction(a))
	}
	switch a := a.(type) {
	case Prepare:
		w.must(len(w.preparing) == 0 && !w.m.stopping, "two generations begin, or one during a stop")
		w.must(a.From == 0 || w.served[a.From] && !w.discarded[a.From], "the release of g%d is not there", a.From)
		w.preparing[a.Gen] = true
	case Forget:
		w.must(!w.forgotten[a.Gen], "forgotten twice")
		w.forgotten[a.Gen] = true
		for id, p := range w.procs {
			w.must(p.gen != a.Gen, "forgotten while w%d of it lives", id)
		}
	case Discard:
		w.must(!w.discarded[a.Gen], "discarded twice")
		w.discarded[a.Gen] = true
	case Start:
		w.startProc(a)
	case Probe:
		p := w.live(a.Worker)
		w.must(p.ready && !p.probing, "probed before it is ready, or twice")
		p.probing = true
	case Steer:
		w.must(len(a.Table) > 0 && !slices.Equal(a.Table, w.table), "no change of steering")
		w.table = a.Table
	case Refuse:
		w.must((w.m.stopping || w.allStopped()) && !w.refused[a.Slot], "refused while somebody serves, or twice")
		w.refused[a.Slot] = true
		if !w.m.stopping {
			w.table = slices.DeleteFunc(slices.Clone(w.table), func(s Share) bool { return s.Slot == a.Slot })
		}
	case Watch:
		w.must(!w.reachable(a.Slot), "slot %d is watched while new connections reach it", a.Slot)
		w.watches[a.Slot] = false
	case Verdict:
		if a.Request != 0 { // else it was the rules' own
			_, twice := w.verdicts[a.Request]
			w.must(!twice, "a second verdict on reload %d", a.Request)
			w.verdicts[a.Request] = a.Outcome
		}
		w.served[a.Gen] = w.served[a.Gen] || a.Outcome == Swapped
		w.failed[a.Gen] = w.failed[a.Gen] || a.Outcome == RolledBack
	case Halt:
		w.checkHalt()
	default:
		w.doTimed(a)
	}
}

// doTimed carries out what is done to a process or a timer.
func (w *world) doTimed(a Action) {
	switch a := a.(type) {
	case WatchIdle:
		p := w.live(a.Worker)
		w.must(!p.waitedForIdle && !p.signalled, "waited for twice, or too late")
		p.waitedForIdle = true
	case Quiesce:
		p := w.live(a.Worker)
		w.must(!p.quiesced && !p.signalled && !p.killed && !w.reachable(p.slot), "told twice, too late, or while new connections reach it")
		p.quiesced = true
	case Signal:
		p := w.live(a.Worker)
		w.must(p.signalled == (a.Rung > 0) && a.Rung == p.rung && !p.killed, "signalled twice, out of order, or after it was killed")
		p.rung++
		w.must(p.lost || !w.reachable(p.slot), "w%d is signalled while new connections reach it", a.Worker)
		p.signalled = true
	case Kill:
		p := w.live(a.Worker)
		w.must(!p.killed, "killed twice")
		p.killed = true
	case SetTimer:
		for t := range w.timers {
			w.must(t.Kind != a.Timer.Kind || t.Worker != a.Timer.Worker || t.Gen != a.Timer.Gen, "timer %v is set twice", a.Timer)
		}
		w.timers[a.Timer] = true
		w.everSet = append(w.everSet, a.Timer)
	case ExtendTimer:
		w.must(w.timers[a.Timer], "extends a timer that does not run")
	case StopTimer:
		w.must(w.timers[a.Timer], "stops a timer that does not run")
		delete(w.timers, a.Timer)
	}
}

func (w *world) startProc(a Start) {
	w.must(a.Worker <= w.m.lastWork && w.procs[a.Worker] == nil, "w%d is started twice", a.Worker)
	w.must(!w.m.ended, "started after an immediate end")
	w.must(!w.failed[a.Gen], "started for a generation that was rolled back")
	w.must(a.Role == Member || w.served[a.Gen], "an emptier of a generation that never served")
	for id, p := range w.procs {
		w.must(p.slot != a.Slot || p.lost, "w%d holds slot %d already", id, a.Slot)
	}
	if was := w.heldBefore(a.Slot); a.Role == Member && !was.free {
		w.must(was.gen == a.Gen && was.index == a.Index && was.role == Member, "slot %d was not free for a newcomer", a.Slot)
	}
	if a.Role == Member {
		delete(w.refused, a.Slot) // to make it exist takes back a Refuse
	}
	w.lastWorker = max(w.lastWorker, a.Worker)
	w.procs[a.Worker] = &proc{gen: a.Gen, slot: a.Slot}
}

func (w *world) reachable(s Slot) bool {
	return !w.refused[s] && slices.ContainsFunc(w.table, func(x Share) bool { return x.Slot == s })
}

func (w *world) phaseOf(n Generation) Phase {
	if g := w.m.gen(n); g != nil {
		return g.phase
	}
	return ""
}

// allStopped: nobody of the generation that serves is to serve.
func (w *world) allStopped() bool {
	g := w.m.in(Serving)
	return g != nil && g.idle()
}

func (w *world) heldBefore(s Slot) holding {
	if int(s) < len(w.before) {
		return w.before[s]
	}
	return holding{free: true}
}

func (w *world) live(id Worker) *proc {
	p := w.procs[id]
	w.must(p != nil, "w%d has no process", id)
	return p
}

func (w *world) must(ok bool, format string, args ...any) {
	if !ok {
		w.t.Helper()
		w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(showMachine(&w.m), "\n"))
	}
}

func (w *world) checkHalt() {
	w.must(!w.halted, "halted twice")
	w.halted = true
	w.must(len(w.procs) == 0, "halted with processes: %v", sorted(w.procs))
	w.must(len(w.timers) == 0, "halted with timers: %v", w.liveTimers())
	w.must(len(w.preparing) == 0, "halted while a generation is prepared")
	for r := range w.lastRequest {
		_, judged := w.verdicts[r+1]
		w.must(judged, "halted without a verdict on reload %d", r+1)
	}
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

package machine

import (
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Random histories take a few milliseconds each, so a plain `go test` can afford
// more and longer ones than rapid's own default; the flags still say otherwise.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.checks": "2000", "rapid.steps": "60"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	flag.Parse()
	os.Exit(m.Run())
}

// Whatever happens, in whatever order: the rules hold after every step, a stop
// comes to its end, and until then a good reload is taken.
func TestRandomHistories(t *testing.T) { rapid.Check(t, history) }

// An input is what the draws are made from, and one that is used up is thrown
// away: the seeds are long enough for a whole history.
func FuzzHistories(f *testing.F) {
	for seed := range byte(8) {
		input := make([]byte, 64<<10)
		if _, err := rand.NewChaCha8([32]byte{seed}).Read(input); err != nil {
			f.Fatal(err)
		}
		f.Add(input)
	}
	f.Fuzz(rapid.MakeFuzz(history))
}

func history(t *rapid.T) {
	w := newWorld(t)
	t.Repeat(map[string]func(*rapid.T){"": func(*rapid.T) { w.check() }, "step": func(*rapid.T) {
		if !w.halted {
			w.step(w.next())
		}
	}})
	if !w.m.stopping {
		w.checkGoodReload()
	}
	w.checkStop()
}

// next draws what happens: mostly what should, so that histories get far.
func (w *world) next() Event {
	switch good := w.good(); w.draw("kind", 12) {
	case 0:
		return w.hostile()
	case 1:
		return w.rare()
	case 2, 3, 4:
		return w.pick(w.plausible())
	default:
		if len(good) == 0 || w.draw("reload", 8) == 0 {
			return Reload{w.lastRequest + 1}
		}
		return w.pick(good)
	}
}

// checkGoodReload lets everything that is under way come to its end and then
// expects of a reload that nothing disturbs that it serves.
func (w *world) checkGoodReload() {
	w.calm()
	if w.halted { // the first generation had failed
		return
	}
	w.kind = true
	r := w.lastRequest + 1
	w.step(Reload{r})
	w.calm()
	if w.verdicts[r] != Swapped {
		w.t.Fatalf("a good reload ended as %q", w.verdicts[r])
	}
	g := w.m.in(Serving)
	if g == nil || g.request != r || len(w.m.gens) != 1 || len(w.watches) != 0 {
		w.t.Fatalf("after a good reload (%d) and with nothing left to do there is, with watches %v:\n%s", r, w.watches, strings.Join(showMachine(&w.m), "\n"))
	}
}

func (w *world) checkStop() {
	if w.draw("at once", 4) == 3 {
		w.step(End{})
	} else {
		w.step(Stop{})
	}
	w.calm()
	if !w.halted {
		w.t.Fatalf("with nothing left to do the stop is not over:\n%s", strings.Join(showMachine(&w.m), "\n"))
	}
	for _, e := range []Event{Stop{}, End{}, w.hostile(), w.hostile()} {
		w.step(e) // world.do fails on anything that a halted machine asks for
	}
}

// calm answers whatever is outstanding, in any order, as a good environment
// does, until nothing is. A machine that goes round fails.
func (w *world) calm() {
	for range 2000 {
		events := w.good()
		if len(events) == 0 {
			return
		}
		w.step(w.pick(events))
	}
	w.t.Fatalf("not calm after 2000 answers:\n%s", strings.Join(showMachine(&w.m), "\n"))
}

// draw chooses below n, evenly: rapid's own ranges favour small values, which
// here would be some events. The mixing (splitmix64's) keeps 0 at 0, to which
// rapid shrinks.
func (w *world) draw(name string, n int) int {
	x := rapid.Uint64().Draw(w.t, name)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return int((x ^ x>>31) % uint64(n))
}

func (w *world) pick(events []Event) Event { return events[w.draw("event", len(events))] }

// policy draws a configuration. Workers are few: two show what one does not.
func (w *world) policy() Policy {
	pick := func(name string, of ...time.Duration) time.Duration { return of[w.draw(name, len(of))] }
	return Policy{
		Workers:      1 + w.draw("workers", 3),
		Probe:        w.draw("probe", 2) == 1,
		Rolling:      w.draw("rolling", 4) == 3,
		Canary:       [][]Step{nil, nil, {{10, time.Minute}}, {{5, 0}, {30, time.Minute}, {50, 0}}}[w.draw("canary", 4)],
		Sticky:       w.draw("sticky", 2) == 1,
		Ladder:       [][]time.Duration{nil, {5 * time.Second}, {5 * time.Second, 10 * time.Second}}[w.draw("ladder", 3)],
		Quiesce:      w.draw("quiesce", 2) == 1,
		RevertAfter:  w.draw("revert after", 3),
		ReadyTimeout: 30 * time.Second,
		Bake:         pick("bake", 0, 5*time.Second),
		DrainDelay:   pick("delay", 0, time.Second),
		DrainIdle:    pick("idle", 0, 10*time.Second),
		DrainTimeout: 30 * time.Second,
		MaxDraining:  w.draw("max draining", 3),
		BackoffMin:   100 * time.Millisecond,
		BackoffMax:   pick("backoff", 100*time.Millisecond, 30*time.Second),
		ResetAfter:   10 * time.Second,
	}
}

// plausible lists what could happen next in earnest.
func (w *world) plausible() []Event {
	events := []Event{Reload{w.lastRequest + 1}, Rollback{w.lastRequest + 1}, Scale{1 + w.draw("scale", 4)},
		Promote{rapid.Bool().Draw(w.t, "step")}, Abort{}}
	if w.m.doubt != "" {
		events = append(events, Steered{})
	}
	for _, g := range sorted(w.preparing) {
		events = append(events, Prepared{g, w.policy()}, Prepared{g, w.policy()}, Refused{g, "unfit"})
	}
	for _, id := range sorted(w.procs) {
		events = append(events, Exited{id, "exit status 1", w.draw("stay", 6) == 5}, w.left(id), Unhealthy{id, "its probe failed", w.draw("stuck", 2) == 1}, Outgrown{id, "memory"})
		events = append(events, w.answers(id)...)
	}
	for _, s := range sorted(w.watches) {
		events = append(events, Quiet{s})
		if !w.watches[s] {
			events = append(events, Stranded{s, rapid.Bool().Draw(w.t, "own")})
		}
	}
	for _, t := range w.liveTimers() {
		events = append(events, Fired{t})
	}
	return events
}

// answers lists what a process that does as it is asked says next.
func (w *world) answers(id Worker) []Event {
	p := w.procs[id]
	switch {
	case p.killed || p.signalled:
		return []Event{Exited{id, "signal: killed", false}}
	case p.probing:
		return []Event{Probed{id, ""}}
	case p.waitedForIdle:
		return []Event{Idle{id}}
	case !p.ready:
		return []Event{BecameReady{id}}
	}
	return nil
}

func (w *world) left(id Worker) Event { return Left{id, "closed its socket"} }

// rare lists the facts that would drown the others if they were as frequent.
func (w *world) rare() Event {
	s := Slot(w.draw("slot", len(w.m.slots)+1))
	id := Worker(1 + w.draw("worker", int(w.lastWorker)+1))
	switch w.draw("rare", 20) {
	case 0:
		return Stop{}
	case 1:
		return End{}
	case 2, 3, 4, 5:
		return Extended{id, time.Minute}
	case 6, 7, 8, 9:
		if p := w.procs[id]; p != nil && p.probing {
			return Probed{id, "status 500"}
		}
		return BecameReady{id}
	case 10, 11, 12:
		if p := w.procs[id]; p != nil && !p.ready {
			return Unstartable{id, "permission denied"}
		}
		return Exited{id, "exit status 2", false}
	default:
		return Broken{s, "shut down"}
	}
}

// hostile makes an event about anything, mostly about what is gone, was said
// before, or never was.
func (w *world) hostile() Event {
	id := Worker(w.draw("worker", int(w.lastWorker)+3))
	g := Generation(w.draw("generation", int(w.m.lastGen)+3))
	s := Slot(w.draw("slot", len(w.m.slots)+3) - 1)
	timer := Timer{Kind: TimerReady, Worker: id}
	if len(w.everSet) > 0 {
		timer = w.everSet[w.draw("timer", len(w.everSet))]
	}
	return w.pick([]Event{
		Prepared{g, w.policy()}, Refused{g, "said before"}, Exited{id, "said before", false}, BecameReady{id},
		Unstartable{id, "said before"}, Probed{id, ""}, Probed{id, "said before"}, Extended{id, time.Second}, Left{id, "gone"},
		Broken{s, "unknown"}, Quiet{s}, Stranded{s, rapid.Bool().Draw(w.t, "own")}, Idle{id}, Fired{timer}, Fired{Timer{}},
		Unhealthy{id, "gone", true}, Outgrown{id, "gone"}, Scale{w.draw("scale", 5) - 1}, Steered{}, Unsteered{"said before"},
	})
}

// good lists what is outstanding, each answered well. Timers that mean failure
// do not fire, nor do those that only forget.
func (w *world) good() []Event {
	var events []Event
	if w.m.doubt != "" {
		events = append(events, Steered{})
	}
	if c := w.m.in(Canary); c != nil && !c.rolls() && c.policy.Canary[c.step].For == 0 {
		events = append(events, Promote{rapid.Bool().Draw(w.t, "step")})
	}
	for _, g := range sorted(w.preparing) {
		events = append(events, Prepared{g, w.policy()})
	}
	for _, id := range sorted(w.procs) {
		events = append(events, w.answers(id)...)
	}
	for _, s := range sorted(w.watches) {
		if h := w.holder(s); !w.watches[s] || h != nil && (h.state == Ready || h.state == Quieting) {
			events = append(events, Quiet{s}) // what is queued needs somebody to accept it
		}
	}
	for _, t := range w.liveTimers() {
		if slices.Contains([]TimerKind{TimerRestart, TimerBake, TimerDelay, TimerIdle, TimerCanary}, t.Kind) {
			events = append(events, Fired{t})
		}
	}
	return events
}

func (w *world) holder(s Slot) *worker { return w.m.slots[s].holder }

func (w *world) liveTimers() []Timer {
	return slices.SortedFunc(maps.Keys(w.timers), func(a, b Timer) int { return a.Seq - b.Seq })
}

package machine

import (
	"maps"
	"slices"
)

// check holds the machine's state against its rules and against the world.
func (w *world) check() {
	w.checkPhases()
	w.checkTable()
	w.checkSlots()
	w.checkVerdicts()
	w.checkMembers()
	for _, g := range w.m.gens {
		for _, x := range g.workers {
			w.checkWorker(x)
		}
	}
	running := make(map[Timer]bool)
	for _, t := range w.m.timers {
		running[t] = true
	}
	w.must(maps.Equal(running, w.timers), "timers %v run, the machine knows %v", w.timers, running)
}

func (w *world) checkPhases() {
	n := make(map[Phase]int)
	for _, g := range w.m.gens {
		n[g.phase]++
		w.must(g.phase != Draining || len(g.workers) > 0 || w.m.owns(g), "g%d is not forgotten", g.number)
		w.must(g.phase == Preparing || !w.preparing[g.number], "g%d goes on before it is prepared", g.number)
		w.must(!w.failed[g.number] || g.phase == Draining, "g%d failed and is %s", g.number, g.phase)
		w.must(g.served == w.served[g.number], "g%d serves without its verdict, or was judged without serving", g.number)
	}
	newcomers := n[Preparing] + n[Starting] + n[Canary]
	w.must(newcomers <= 1, "%d generations start", newcomers)
	w.must(n[Canary] <= n[Serving], "a canary beside nobody")
	w.must(n[Serving] <= 1, "%d generations serve", n[Serving])
	w.must(n[Standby] <= n[Serving], "%d stand by while %d serve", n[Standby], n[Serving])
	_, baking := w.m.timers[timerKey{kind: TimerBake, gen: w.numberOf(Serving)}]
	w.must(baking == (n[Standby] == 1), "%d stand by, bake timer: %v", n[Standby], baking)
	if s := w.m.in(Standby); s != nil {
		w.must(slices.ContainsFunc(s.workers, func(x *worker) bool { return x.role == Member && x.slot != none }), "g%d stands by with nothing to go back to", s.number)
	}
	w.must(!w.m.stopping || n[Serving]+n[Standby]+n[Starting]+n[Canary] == 0, "a stop leaves a generation as it was")
	w.must(w.m.pending == nil || newcomers == 1, "a reload is remembered while nothing starts")
}

func (w *world) numberOf(p Phase) Generation {
	if g := w.m.in(p); g != nil {
		return g.number
	}
	return 0
}

// checkTable: new connections go to slots of the generation that serves and of a
// canary, in each all of them held by a worker that can serve or, when none can, that
// will.
func (w *world) checkTable() {
	if w.m.doubt != "" {
		return // nobody knows until it is put right
	}
	w.must(slices.Equal(w.table, w.m.table), "steered to %v, the machine believes %v", w.table, w.m.table)
	g := w.m.in(Serving)
	if g == nil {
		return // before the first, and during a stop: as it was
	}
	w.must(slices.Equal(w.m.wanted(), w.table) && (len(w.table) > 0 || w.allStopped()), "steered to %v, not %v", w.table, w.m.wanted())
	ready, all, sick := map[*generation]int{}, map[*generation]int{}, map[*generation]int{}
	sum, part := 0, 0
	for _, s := range w.table {
		h := w.holder(s.Slot)
		w.must(h != nil && (h.gen == g || h.gen.phase == Canary) && h.role == Member, "steered to slot %d, which no member of g%d or a canary holds", s.Slot, g.number)
		w.must(!h.leaves, "w%d leaves, and new connections reach it", h.id)
		all[h.gen]++
		if h.sick {
			sick[h.gen]++
		}
		if h.state == Ready {
			ready[h.gen]++
		}
		if sum += s.Weight; h.gen != g {
			part += s.Weight
		}
		w.must((s.Side == 1) == (h.gen != g && h.gen.policy.Sticky && !h.gen.rolls() && all[g]+len(g.reachable()) > 0), "slot %d is on side %d", s.Slot, s.Side)
	}
	for x := range all {
		w.must(sick[x] == 0 || sick[x] == all[x], "steered to workers of g%d that ail beside some that do not", x.number)
		w.must(ready[x] == 0 || ready[x] == all[x], "steered to workers of g%d that are not ready beside some that are", x.number)
	}
	if c := w.m.in(Canary); c != nil && !c.rolls() && all[g] > 0 {
		w.must(part*100 == sum*c.policy.Canary[c.step].Weight, "the canary has %d of %d, not %d%%", part, sum, c.policy.Canary[c.step].Weight)
	}
}

// checkMembers: who serves has each of its members once, but for those that were left
// stopped or gave way to a newcomer's.
func (w *world) checkMembers() {
	g, c := w.m.in(Serving), w.m.newcomer()
	if g == nil {
		return
	}
	n := make(map[int]int)
	for _, x := range g.workers {
		if x.fills() && !x.leaves && x.forebear == nil {
			n[x.index]++
			w.must(x.index < g.policy.Workers, "w%d is one too many of g%d", x.id, g.number)
		}
	}
	for i := range g.policy.Workers {
		w.must(n[i] == 1 || n[i] == 0 && (g.stopped[i] || c != nil && c.rolls()), "g%d has member %d %d times", g.number, i, n[i])
	}
}

func (w *world) checkSlots() {
	for i, s := range w.m.slots {
		state, watched := w.watches[Slot(i)]
		h := s.holder
		w.must(h == nil || h.slot == Slot(i) && slices.Contains(h.gen.workers, h), "slot %d is held by a worker that is gone", i)
		w.must(h == nil || s.owner != nil, "slot %d is held and owned by nobody", i)
		w.must(s.owner == nil || slices.Contains(w.m.gens, s.owner), "slot %d is owned by a generation that is gone", i)
		if h == nil && s.owner != nil {
			w.must(watched, "slot %d is an orphan and not watched", i)
			w.must(!state || (w.m.in(Serving) == nil || w.allStopped()) && !w.m.stopping, "slot %d is stranded and nobody is sent", i)
		}
	}
}

func (w *world) checkVerdicts() {
	open := 0
	for r := range w.lastRequest {
		if _, judged := w.verdicts[r+1]; !judged {
			open++
		}
	}
	want := 0
	if w.m.pending != nil {
		want++
	}
	for _, g := range w.m.gens {
		if !g.judged && g.request != 0 {
			want++
		}
	}
	w.must(open == want, "%d reloads wait for a verdict, the machine owes %d", open, want)
}

// checkWorker: a worker has a process exactly when its state says so, and
// something that will move it on.
func (w *world) checkWorker(x *worker) {
	p := w.procs[x.id]
	w.must((p == nil) == (x.state == Waiting), "w%d is %s, process: %v", x.id, x.state, p != nil)
	w.must(x.slot == none || w.holder(x.slot) == x, "w%d believes that it holds slot %d", x.id, x.slot)
	ending := slices.Contains([]State{Quieting, Idling, Signalled, Killed}, x.state)
	w.must(ending || x.slot != none, "w%d is %s and has no slot", x.id, x.state)
	w.must(x.gen.phase != Draining || ending || x.role == Emptier, "w%d is %s in a generation that drains", x.id, x.state)
	w.must(x.gen.phase != Starting || x.role == Member, "w%d empties a slot for a newcomer", x.id)
	has := func(k TimerKind) bool {
		_, ok := w.m.timers[timerKey{kind: k, worker: x.id}]
		return ok
	}
	w.must(has(TimerRestart) == (x.state == Waiting), "w%d is %s, restart timer: %v", x.id, x.state, has(TimerRestart))
	w.must(has(TimerReady) == (x.state == Coming || x.state == Probing), "w%d is %s, ready timer: %v", x.id, x.state, has(TimerReady))
	w.must(has(TimerKill) == (x.state == Signalled), "w%d is %s, kill timer: %v", x.id, x.state, has(TimerKill))
	w.must(has(TimerSignal) == (x.state == Signalled && x.rung < len(x.gen.policy.Ladder)), "w%d is %s on rung %d, signal timer: %v", x.id, x.state, x.rung, has(TimerSignal))
	w.must(x.heir == nil || x.heir.forebear == x && x.heir.gen == x.gen && x.heir.index == x.index && x.state == Ready && x.heir.state != Ready && !x.heir.ends(), "w%d has an heir that is none", x.id)
	w.must(x.forebear == nil || x.forebear.heir == x, "w%d waits for a place that is not promised to it", x.id)
	w.must(!x.leaves || ending || w.m.doubt != "", "w%d leaves and does not drain", x.id)
	w.must(has(TimerIdle) == (x.state == Idling), "w%d is %s, idle timer: %v", x.id, x.state, has(TimerIdle))
	w.must(!has(TimerStable) || x.state == Ready, "w%d is %s and may become stable", x.id, x.state)
	w.must(has(TimerDelay) == (x.state == Quieting && x.quiet), "w%d is %s, delay timer: %v", x.id, x.state, has(TimerDelay))
	emptying := x.role == Emptier && w.m.stopping && x.state == Ready
	w.must(has(TimerQueue) == (emptying || x.state == Quieting && !x.quiet), "w%d is %s, queue timer: %v", x.id, x.state, has(TimerQueue))
	if x.state == Quieting && !x.quiet || x.role == Emptier && !ending {
		_, watched := w.watches[x.slot]
		w.must(watched, "w%d waits for slot %d, which is not watched", x.id, x.slot)
	}
	switch x.state {
	case Signalled:
		w.must(p.signalled, "w%d has not been signalled", x.id)
	case Failed, Killed:
		w.must(p.killed, "w%d has not been killed", x.id)
	case Idling:
		w.must(p.waitedForIdle, "w%d is not waited for", x.id)
	case Probing:
		w.must(p.probing, "w%d is not probed", x.id)
	}
}

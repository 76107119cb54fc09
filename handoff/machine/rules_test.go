package machine

import (
	"fmt"
	"slices"
	"strings"
)

// The tables of docs/design.md: their columns with the way there, and their rows.

var rules = []table{
	{"generations", generationColumns, generationRows, generationState, aboutGeneration},
	{"newcomers", newcomerColumns, slices.Concat(workerRows, []row{failingSibling}, endings), workerState, aboutWorker},
	{"serving", servingColumns, slices.Concat(workerRows, []row{replaced}, endings), workerState, aboutWorker},
	{"bake", bakeColumns, slices.Concat(workerRows, []row{replaced, bakeOver}, endings), workerState, aboutWorker},
	{"canary", canaryColumns, slices.Concat(workerRows, []row{stepOver, wholly, aborted, takenBack}, endings), workerState, aboutWorker},
	{"rolling", rollingColumns, slices.Concat(workerRows, []row{lastReady, nextFails, aborted}, endings), workerState, aboutWorker},
	{"replacement", replacedColumns, slices.Concat(workerRows, []row{heirReady, heirGone, forebearGone, fewer, replaced}, endings), workerState, aboutWorker},
	{"draining", drainingColumns, slices.Concat(workerRows, []row{crowded}, endings), workerState, aboutWorker},
	{"emptiers", emptierColumns, slices.Concat(workerRows, []row{replaced}, endings), workerState, aboutWorker},
	{"emptiers in a stop", lastEmptierColumns, slices.Concat(workerRows, endings), workerState, aboutWorker},
	{"slots", slotColumns, slotRows, slotState, aboutSlot},
}

// follows makes the way to a state from the way to another.
func follows(prelude []string, facts ...string) []string { return slices.Concat(prelude, facts) }

// The ways from which others lead on.
var (
	one        = []string{"reload 1", "prepared g1", "ready w1"}
	probed     = []string{"reload 1", "prepared g1 probe", "ready w1", "probed w1"}
	crashed    = follows(probed, "exited w1") // w2 starts
	newcomer   = follows(one, "reload 2", "prepared g2 workers=2 probe")
	baking     = follows(one, "reload 2", "prepared g2 bake=5s", "ready w2")
	laddered   = []string{"reload 1", "prepared g1 ladder=5s", "ready w1", "reload 2", "prepared g2", "ready w2"}
	leaving    = []string{"reload 1", "prepared g1 drain_idle=10s", "ready w1", "reload 2", "prepared g2", "ready w2"}
	emptying   = follows(one, "reload 2", "prepared g2", "ready w2", "exited w1", "stranded 0") // w3 starts
	stopping   = follows(one, "stop", "exited w1", "stranded 0")                                // w2 starts
	overWaits  = follows(probed, "exited w1", "exited w2")                                      // w3 waits
	canary     = follows(two, "reload 2", "prepared g2 canary=10:1m,50", "ready w3")            // w1 and w2 serve
	rolling    = follows(two, "reload 2", "prepared g2 workers=2 rolling", "ready w3")          // w1 drains, w4 starts
	replacing  = follows(two, `outgrown w1 "memory"`)                                           // w3 starts
	again      = follows(replacing, "ready w3", `outgrown w3 "memory"`)                         // w4 waits
	two        = []string{"reload 1", "prepared g1 workers=2 drain_idle=10s quiesce", "ready w1", "ready w2"}
	standbyOne = []string{"reload 2", "prepared g2 bake=5s", "ready w3"}
)

var generationColumns = []column{
	{"preparing", follows(one, "reload 2"), subject{2, 99, none}},
	{"starting", follows(one, "reload 2", "prepared g2 probe"), subject{2, 2, 1}},
	{"serving", one, subject{1, 1, 0}},
	{"serving in the bake", baking, subject{2, 2, 1}},
	{"standby", baking, subject{1, 1, 0}},
	{"canary", follows(one, "reload 2", "prepared g2 canary=10:1m,50", "ready w2"), subject{2, 2, 1}},
	{"serving beside a canary", follows(one, "reload 2", "prepared g2 canary=10:1m,50", "ready w2"), subject{1, 1, 0}},
	{"draining", follows(one, "reload 2", "prepared g2", "ready w2"), subject{1, 1, 0}},
}

var newcomerColumns = []column{
	{"starting", newcomer, subject{2, 2, 1}},
	{"probing", follows(newcomer, "ready w2"), subject{2, 2, 1}},
	{"ready", follows(newcomer, "ready w2", "probed w2"), subject{2, 2, 1}},
}

var servingColumns = []column{
	{"waiting", overWaits, subject{1, 3, 0}},
	{"starting", crashed, subject{1, 2, 0}},
	{"probing", follows(crashed, "ready w2"), subject{1, 2, 0}},
	{"ready", probed, subject{1, 1, 0}},
	{"failed", follows(crashed, "fire ready w2"), subject{1, 2, 0}},
}

var bakeColumns = []column{
	{"serving: ready", baking, subject{2, 2, 1}},
	{"standby: ready", baking, subject{1, 1, 0}},
	{"standby: starting", follows(crashed, standbyOne...), subject{1, 2, 0}},
	{"standby: probing", follows(crashed, append([]string{"ready w2"}, standbyOne...)...), subject{1, 2, 0}},
	{"standby: failed", follows(crashed, append([]string{"fire ready w2"}, standbyOne...)...), subject{1, 2, 0}},
}

var canaryColumns = []column{
	{"canary: ready", canary, subject{2, 3, 2}},
	{"serving: ready", canary, subject{1, 1, 0}},
	{"serving: starting", follows(canary, "exited w1"), subject{1, 4, 0}},
	{"serving: failed", follows(canary, "exited w1", "fire ready w4"), subject{1, 4, 0}},
}

var rollingColumns = []column{
	{"newcomer: ready", rolling, subject{2, 3, 2}},
	{"newcomer: starting", rolling, subject{2, 4, 3}},
	{"serving: ready", rolling, subject{1, 2, 1}},
	{"gave way: quieting", rolling, subject{1, 1, 0}},
}

var replacedColumns = []column{
	{"ready, its heir starts", replacing, subject{1, 1, 0}},
	{"heir: waiting", again, subject{1, 4, 3}},
	{"heir: starting", replacing, subject{1, 3, 2}},
	{"heir: failed", follows(replacing, "fire ready w3"), subject{1, 3, 2}},
	{"replaced: quieting", follows(replacing, "ready w3"), subject{1, 1, 0}},
	{"beside: ready", replacing, subject{1, 2, 1}},
}

var drainingColumns = []column{
	{"quieting", leaving, subject{1, 1, 0}},
	{"quieting, empty", follows(leaving, "quiet 0"), subject{1, 1, 0}},
	{"idling", follows(leaving, "quiet 0", "fire delay w1"), subject{1, 1, 0}},
	{"signalled", follows(leaving, "quiet 0", "fire delay w1", "idle w1"), subject{1, 1, 0}},
	{"signalled, another to come", follows(laddered, "quiet 0", "fire delay w1"), subject{1, 1, 0}},
	{"killed", follows(leaving, "quiet 0", "fire delay w1", "idle w1", "fire kill w1"), subject{1, 1, 0}},
}

var emptierColumns = []column{
	{"waiting", follows(emptying, "exited w3"), subject{2, 4, 0}},
	{"starting", emptying, subject{2, 3, 0}},
	{"ready", follows(emptying, "ready w3"), subject{2, 3, 0}},
	{"failed", follows(emptying, "fire ready w3"), subject{2, 3, 0}},
}

var lastEmptierColumns = []column{
	{"waiting", follows(stopping, "exited w2", "exited w3"), subject{1, 4, 0}},
	{"starting", stopping, subject{1, 2, 0}},
	{
		"starting, last try",
		follows(stopping, "exited w2", "exited w3", "fire restart w4", "exited w4", "fire restart w5"),
		subject{1, 5, 0},
	},
	{"ready", follows(stopping, "ready w2"), subject{1, 2, 0}},
	{"failed", follows(stopping, "fire ready w2"), subject{1, 2, 0}},
}

var slotColumns = []column{
	{"unknown", one, subject{0, 0, 1}},
	{"free", follows(one, "reload 2", "prepared g2", "ready w2", "exited w1", "quiet 0"), subject{0, 0, 0}},
	{"orphan", follows(one, "reload 2", "prepared g2", "ready w2", "exited w1"), subject{1, 0, 0}},
	{"orphan, nothing serves", []string{"reload 1", "prepared g1", "reload 2", "exited w1"}, subject{1, 0, 0}},
	{"stranded", []string{"reload 1", "prepared g1", "reload 2", "exited w1", "stranded 0"}, subject{1, 0, 0}},
	{"orphan in a stop", follows(one, "stop", "exited w1"), subject{1, 0, 0}},
	{"orphan of a failure in a stop", []string{"reload 1", "prepared g1", "stop", "exited w1"}, subject{1, 0, 0}},
}

// says makes a row of one fact: W is the subject's worker, S its slot, G its generation.
func says(name, fact string) row {
	return row{name: name, told: func(s *situation) string {
		return strings.NewReplacer("W", fmt.Sprintf("w%d", s.worker), "S", fmt.Sprint(s.slot), "G", fmt.Sprintf("g%d", s.gen)).Replace(fact)
	}}
}

var workerRows = []row{
	says("ready", "ready W"),
	says("probed", "probed W"),
	says("probe failed", `probed W "status 500"`),
	says("exited", `exited W "exit status 1"`),
	says("exited, to stay", `exited W "exit status 0" stay`),
	says("unstartable", `unstartable W "exec format error"`),
	says("extended", "extended W 1m"),
	says("left", `left W "closed its socket"`),
	says("unhealthy", `unhealthy W "its probe failed"`),
	says("stuck", `unhealthy W "it accepts nothing" stuck`),
	says("outgrown", `outgrown W "600 MB"`),
	says("its slot broken", `broken S "shut down"`),
	says("its slot quiet", "quiet S"),
	says("its slot stranded", "stranded S"),
	says("idle", "idle W"),
	says("timer ready", "fire ready W"),
	says("timer restart", "fire restart W"),
	says("timer stable", "fire stable W"),
	says("timer delay", "fire delay W"),
	says("timer queue", "fire queue W"),
	says("timer idle", "fire idle W"),
	says("timer signal", "fire signal W"),
	says("timer kill", "fire kill W"),
}

var endings = []row{says("stop", "stop"), says("end", "end")}

var (
	failingSibling = says("another of it fails", `exited w3 "exit status 1"`)
	replaced       = arrival("a newcomer serves", "")
	crowded        = arrival("a newcomer serves, max_draining = 1", "max_draining=1")
	stepOver       = says("the step is over", "fire canary g2")
	wholly         = says("promote", "promote")
	aborted        = says("abort", "abort")
	takenBack      = says("rollback", "rollback 9")
	fewer          = says("scale to 1", "scale 1")
	bakeOver       = says("the bake is over", "fire bake g2")
)

// lastWorker makes a row of a fact about the one that was started last.
func lastWorker(name, fact, rest string) row {
	return row{name: name, told: func(s *situation) string { return fmt.Sprintf("%s w%d %s", fact, s.m.lastWork, rest) }}
}

var (
	lastReady    = lastWorker("the newcomer's next is ready", "ready", "")
	nextFails    = lastWorker("the newcomer's next exits", "exited", `"exit status 1"`)
	heirReady    = lastWorker("the heir is ready", "ready", "")
	heirGone     = lastWorker("the heir exits", "exited", `"exit status 1"`)
	forebearGone = row{name: "whom it follows exits", told: func(s *situation) string {
		for _, w := range s.m.gens[0].workers {
			if w.heir != nil {
				return fmt.Sprintf(`exited w%d "exit status 1"`, w.id)
			}
		}
		return "exited w99" // nobody
	}}
)

// arrival is the row of a newcomer that comes to serve.
func arrival(name, policy string) row {
	return row{
		name: name, can: othersCome,
		setup: func(s *situation) []string { return arrive(s, policy) },
		told:  func(s *situation) string { return fmt.Sprintf("ready w%d", s.m.lastWork) },
	}
}

var failingArrival = row{
	name: "a newcomer fails", can: othersCome,
	setup: func(s *situation) []string { return arrive(s, "") },
	told:  func(s *situation) string { return fmt.Sprintf(`exited w%d "exit status 1"`, s.m.lastWork) },
}

// othersCome: nobody does during a stop, nor while the subject is the newcomer.
func othersCome(s *situation) bool {
	g := s.m.newcomer()
	return !s.m.stopping && (g == nil || g.number != s.gen)
}

// arrive starts a newcomer, or the one that is being prepared.
func arrive(s *situation, policy string) []string {
	if g := s.m.in(Preparing); g != nil {
		return []string{fmt.Sprintf("prepared g%d %s", g.number, policy)}
	}
	return []string{"reload 9", fmt.Sprintf("prepared g%d %s", s.m.lastGen+1, policy)}
}

var generationRows = []row{
	says("reload", "reload 9"),
	says("prepared", "prepared G"),
	says("refused", `refused G "unfit"`),
	{name: "its last worker is ready", setup: saidReady, told: func(s *situation) string { return fmt.Sprintf("probed w%d", s.worker) }},
	{name: "its last worker is ready, steering fails", setup: func(s *situation) []string {
		return append(saidReady(s), "unsteerable")
	}, told: func(s *situation) string { return fmt.Sprintf("probed w%d", s.worker) }},
	says("steered, too late", "steered"),
	says("unsteered, too late", `unsteered "no memory"`),
	{name: "its probe fails", setup: saidReady, told: func(s *situation) string { return fmt.Sprintf(`probed w%d "status 500"`, s.worker) }},
	says("its worker exits", `exited W "exit status 1"`),
	says("its worker is late", "fire ready W"),
	says("its worker leaves", `left W "closed its socket"`),
	arrival("a newcomer serves, bake = 0", ""),
	arrival("a newcomer serves, bake = 5s", "bake=5s"),
	arrival("a newcomer serves, max_draining = 1", "max_draining=1"),
	failingArrival,
	{name: "who serves fails", told: func(s *situation) string {
		return fmt.Sprintf(`exited w%d "exit status 1"`, s.m.in(Serving).workers[0].id)
	}},
	says("the bake is over", "fire bake g2"),
	says("the step is over", "fire canary g2"),
	says("promote", "promote"),
	says("promote one step", "promote step"),
	says("abort", "abort"),
	says("rollback", "rollback 9"),
	says("scale to 2", "scale 2"),
	{name: "its last slot is empty", setup: func(s *situation) []string {
		if s.m.gen(s.gen).phase != Draining {
			return nil
		}
		return []string{fmt.Sprintf("exited w%d", s.worker)}
	}, told: func(s *situation) string { return fmt.Sprintf("quiet %d", s.slot) }},
	says("stop", "stop"),
	says("end", "end"),
}

func saidReady(s *situation) []string { return []string{fmt.Sprintf("ready w%d", s.worker)} }

var slotRows = []row{
	says("quiet", "quiet S"),
	says("stranded", "stranded S"),
	says("stranded, its own", "stranded S own"),
	says("broken", `broken S "shut down"`),
	{name: "a newcomer needs a slot", can: othersCome, setup: func(s *situation) []string {
		if s.m.newcomer() != nil {
			return nil
		}
		return []string{"reload 9"}
	}, told: func(s *situation) string { return fmt.Sprintf("prepared g%d", s.m.newcomer().number) }},
	arrival("a newcomer serves", ""),
	failingArrival,
	says("stop", "stop"),
	says("end", "end"),
}

// What is in a cell: the actions on the subject, and what is decided because of it.

func generationState(s *situation) string {
	if g := s.m.gen(s.gen); g != nil {
		return string(g.phase)
	}
	return "gone"
}

func workerState(s *situation) string {
	state := "gone"
	s.m.with(s.worker, func(w *worker) { state = string(w.state) })
	return state
}

func slotState(s *situation) string {
	if !s.m.known(s.slot) {
		return "unknown"
	}
	switch slot := s.m.slots[s.slot]; {
	case slot.holder != nil:
		return "held"
	case slot.stranded:
		return "stranded"
	case slot.owner != nil:
		return "orphan"
	}
	return "free"
}

// aboutGeneration leaves out other generations and the timers of workers.
func aboutGeneration(s *situation, a Action) bool {
	switch a := a.(type) {
	case Start:
		return a.Gen == s.gen
	case Forget:
		return a.Gen == s.gen
	case Discard:
		return a.Gen == s.gen
	case Note:
		return a.Gen == s.gen || a.Kind == NoteReverting
	case Verdict:
		return a.Gen == s.gen || a.Gen == 0
	case SetTimer:
		return a.Timer.Gen == s.gen
	case StopTimer:
		return a.Timer.Gen == s.gen
	case Halt, Prepare:
		return true
	}
	return aboutProcess(s, a)
}

// aboutWorker leaves out workers that were there besides, other generations, and
// what becomes of a successor after its start.
func aboutWorker(s *situation, a Action) bool {
	switch a := a.(type) {
	case Start:
		return a.Slot == s.slot
	case Note:
		return a.Kind != NoteStopping && a.Gen == s.gen && (a.Worker == 0 || a.Worker == s.worker || a.Worker > s.before)
	case Forget:
		return a.Gen == s.gen
	case Verdict:
		return a.Gen == s.gen
	case SetTimer:
		return a.Timer.Worker == s.worker || a.Timer.Gen == s.gen
	case ExtendTimer:
		return a.Timer.Worker == s.worker
	case StopTimer:
		return a.Timer.Worker == s.worker || a.Timer.Gen == s.gen
	case Halt:
		return true
	}
	return aboutProcess(s, a)
}

// aboutProcess keeps what is done to the subject's process and slot.
func aboutProcess(s *situation, a Action) bool {
	switch a := a.(type) {
	case Probe:
		return a.Worker == s.worker
	case WatchIdle:
		return a.Worker == s.worker
	case Quiesce:
		return a.Worker == s.worker
	case Signal:
		return a.Worker == s.worker
	case Kill:
		return a.Worker == s.worker
	case Steer:
		return weightOf(s.table, s.slot) != weightOf(a.Table, s.slot)
	case Watch:
		return a.Slot == s.slot
	case Refuse:
		return a.Slot == s.slot
	}
	return false
}

// weightOf is the slot's part of the table, per thousand.
func weightOf(table []Share, slot Slot) int {
	own, sum := 0, 0
	for _, s := range table {
		if sum += s.Weight; s.Slot == slot {
			own = s.Weight
		}
	}
	return own * 1000 / max(1, sum)
}

// aboutSlot keeps what happens to the slot, and the generation with it.
func aboutSlot(s *situation, a Action) bool {
	switch a := a.(type) {
	case Start:
		return a.Slot == s.slot
	case Note:
		return a.Slot == s.slot && (a.Worker > s.before || a.Kind == NoteAbandoned) || a.Kind == NoteGone && a.Gen == s.gen
	case Forget:
		return a.Gen == s.gen
	case Halt:
		return true
	}
	return aboutProcess(s, a)
}

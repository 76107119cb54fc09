package machine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Memory is all that a Machine knows, for a launcher that takes another's place. It is
// plain data, and shares nothing with the machine.
type Memory struct {
	Generations []GenerationMemory `json:"generations"` // by number
	Slots       []SlotMemory       `json:"slots"`       // by Slot
	Table       []Share            `json:"table"`
	Good        []Generation       `json:"good"`
	Kept        []Generation       `json:"kept"`
	Pending     *Request           `json:"pending"`
	Unsaid      int                `json:"unsaid"`
	Doubt       string             `json:"doubt"`
	Timers      []Timer            `json:"timers"` // that were set and have not fired
	LastGen     Generation         `json:"last_generation"`
	LastWorker  Worker             `json:"last_worker"`
	LastTimer   int                `json:"last_timer"`
	Stopping    bool               `json:"stopping"`
	Ended       bool               `json:"ended"`
	Halted      bool               `json:"halted"`
	Failure     string             `json:"failure"`
}

// GenerationMemory is one generation. Indexes of workers are keys.
type GenerationMemory struct {
	Number   Generation     `json:"number"`
	Request  Request        `json:"request"`
	Judged   bool           `json:"judged"`
	Served   bool           `json:"served"`
	Asks     int            `json:"asks"`
	Phase    Phase          `json:"phase"`
	Policy   Policy         `json:"policy"`
	Step     int            `json:"step"`
	Release  Generation     `json:"release"`
	Back     bool           `json:"back"`
	Unwanted string         `json:"unwanted"`
	Looping  bool           `json:"looping"`
	Restarts map[int]int    `json:"restarts"`
	Renewals map[int]int    `json:"renewals"`
	Stopped  map[int]bool   `json:"stopped"`
	Workers  []WorkerMemory `json:"workers"` // oldest first
}

// WorkerMemory is one worker.
type WorkerMemory struct {
	ID     Worker     `json:"id"`
	Index  int        `json:"index"`
	Role   Role       `json:"role"`
	Slot   Slot       `json:"slot"` // -1: none
	State  State      `json:"state"`
	Quiet  bool       `json:"quiet"`
	Rung   int        `json:"rung"`
	Heir   Worker     `json:"heir"` // 0: nobody
	Sick   bool       `json:"sick"`
	Leaves bool       `json:"leaves"`
	Yields Generation `json:"yields"` // 0: to none
}

// SlotMemory is one slot.
type SlotMemory struct {
	Holder   Worker     `json:"holder"` // 0: nobody
	Owner    Generation `json:"owner"`  // 0: none
	Stranded bool       `json:"stranded"`
	Own      bool       `json:"own"`
}

// Keep returns what the machine knows.
func (m *Machine) Keep() Memory {
	k := Memory{
		Table: slices.Clone(m.table), Good: slices.Clone(m.good), Kept: slices.Clone(m.kept),
		Unsaid: m.unsaid, Doubt: m.doubt, LastGen: m.lastGen, LastWorker: m.lastWork, LastTimer: m.lastTime,
		Stopping: m.stopping, Ended: m.ended, Halted: m.halted, Failure: m.failure,
		Timers: slices.SortedFunc(maps.Values(m.timers), func(a, b Timer) int { return cmp.Compare(a.Seq, b.Seq) }),
	}
	if m.pending != nil {
		r := *m.pending
		k.Pending = &r
	}
	for _, g := range m.gens {
		k.Generations = append(k.Generations, m.keep(g))
	}
	for _, s := range m.slots {
		x := SlotMemory{Stranded: s.stranded, Own: s.own}
		if s.holder != nil {
			x.Holder = s.holder.id
		}
		if s.owner != nil {
			x.Owner = s.owner.number
		}
		k.Slots = append(k.Slots, x)
	}
	return k
}

func (m *Machine) keep(g *generation) GenerationMemory {
	k := GenerationMemory{
		Number: g.number, Request: g.request, Judged: g.judged, Served: g.served, Asks: int(g.asks), Phase: g.phase, Policy: g.policy,
		Step: g.step, Release: g.release, Back: g.back, Unwanted: g.unwanted, Looping: g.looping,
		Restarts: maps.Clone(g.restarts), Renewals: maps.Clone(g.renewals), Stopped: maps.Clone(g.stopped),
	}
	for _, w := range g.workers {
		x := WorkerMemory{
			ID: w.id, Index: w.index, Role: w.role, Slot: w.slot, State: w.state, Quiet: w.quiet, Rung: w.rung,
			Sick: w.sick, Leaves: w.leaves,
		}
		if w.heir != nil {
			x.Heir = w.heir.id
		}
		if w.yields != nil && m.gen(w.yields.number) != nil { // else it leaves all the same
			x.Yields = w.yields.number
		}
		k.Workers = append(k.Workers, x)
	}
	return k
}

// Resume returns a machine that goes on where the one that was kept stood: Step gives the
// same answers. The error says what of it does not fit together.
func Resume(k Memory) (Machine, error) {
	m := Machine{
		table: slices.Clone(k.Table), good: slices.Clone(k.Good), kept: slices.Clone(k.Kept),
		unsaid: k.Unsaid, doubt: k.Doubt, lastGen: k.LastGen, lastWork: k.LastWorker, lastTime: k.LastTimer,
		stopping: k.Stopping, ended: k.Ended, halted: k.Halted, failure: k.Failure,
		timers: make(map[timerKey]Timer),
	}
	if k.Pending != nil {
		r := *k.Pending
		m.pending = &r
	}
	for _, t := range k.Timers {
		m.timers[timerKey{t.Kind, t.Gen, t.Worker}] = t
	}
	workers := make(map[Worker]*worker)
	for _, g := range k.Generations {
		m.gens = append(m.gens, resume(g, workers))
	}
	if err := m.tie(k, workers); err != nil {
		return Machine{}, err
	}
	for i, s := range k.Slots {
		x := slot{holder: workers[s.Holder], owner: m.gen(s.Owner), stranded: s.Stranded, own: s.Own}
		if x.holder == nil && s.Holder != 0 || x.owner == nil && s.Owner != 0 {
			return Machine{}, fmt.Errorf("slot %d: held by worker %d of generation %d, which is not there", i, s.Holder, s.Owner)
		}
		m.slots = append(m.slots, x)
	}
	return m, nil
}

// resume makes a generation with its workers, which are noted.
func resume(k GenerationMemory, workers map[Worker]*worker) *generation {
	g := &generation{
		number: k.Number, request: k.Request, judged: k.Judged, served: k.Served, asks: ask(k.Asks), phase: k.Phase, policy: k.Policy,
		step: k.Step, release: k.Release, back: k.Back, unwanted: k.Unwanted, looping: k.Looping,
		restarts: make(map[int]int), renewals: make(map[int]int), stopped: make(map[int]bool),
	}
	maps.Copy(g.restarts, k.Restarts)
	maps.Copy(g.renewals, k.Renewals)
	maps.Copy(g.stopped, k.Stopped)
	for _, x := range k.Workers {
		w := &worker{
			id: x.ID, gen: g, index: x.Index, role: x.Role, slot: x.Slot, state: x.State, quiet: x.Quiet, rung: x.Rung,
			sick: x.Sick, leaves: x.Leaves,
		}
		workers[w.id] = w
		g.workers = append(g.workers, w)
	}
	return g
}

// tie lets workers know of each other, and of who they leave for.
func (m *Machine) tie(k Memory, workers map[Worker]*worker) error {
	for _, g := range k.Generations {
		for _, x := range g.Workers {
			w := workers[x.ID]
			if x.Heir != 0 {
				if w.heir = workers[x.Heir]; w.heir == nil {
					return fmt.Errorf("worker %d: its heir, worker %d, is not there", x.ID, x.Heir)
				}
				w.heir.forebear = w
			}
			if w.yields = m.gen(x.Yields); w.yields == nil && x.Yields != 0 {
				return fmt.Errorf("worker %d: leaves for generation %d, which is not there", x.ID, x.Yields)
			}
			if x.Slot < none || int(x.Slot) >= len(k.Slots) {
				return fmt.Errorf("worker %d: there is no slot %d", x.ID, x.Slot)
			}
		}
	}
	return nil
}

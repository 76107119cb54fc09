package machine

import (
	"maps"
	"slices"
)

// View is what there is, for those who show it. It shares nothing with the machine.
type View struct {
	Generations []GenerationView // by number
	Table       []Share          // who receives new connections
	Good        []Generation     // releases to go back to, by who resolved them, the last one last
	Stopping    bool             // everything ends: it was asked to, or nothing serves, nor will
}

// GenerationView is one generation.
type GenerationView struct {
	Number  Generation
	Phase   Phase
	Release Generation // who resolved what it runs
	Wanted  int        // members it is to have; 0 while it is being prepared
	Step    int        // Canary: which step, from 1; 0: worker by worker, or no canary
	Steps   int
	Weight  int // Canary: percent of new connections; 0: worker by worker
	Paused  bool
	Looping bool
	Stopped []int // indexes of the members that were left stopped
	Workers []WorkerView
}

// WorkerView is one worker.
type WorkerView struct {
	ID       Worker
	Index    int
	Role     Role
	Slot     Slot // -1: it has none any more
	State    State
	Restarts int    // in a row, of its index
	Heir     Worker // who takes its place when ready; 0: nobody
}

// Look returns the present state.
func (m *Machine) Look() View {
	v := View{Table: slices.Clone(m.table), Good: slices.Clone(m.good), Stopping: m.stopping}
	for _, g := range m.gens {
		v.Generations = append(v.Generations, g.view())
	}
	return v
}

func (g *generation) view() GenerationView {
	v := GenerationView{
		Number: g.number, Phase: g.phase, Release: g.release, Wanted: g.policy.Workers,
		Looping: g.looping, Stopped: slices.Sorted(maps.Keys(g.stopped)),
	}
	if g.phase == Canary && !g.rolls() {
		step := g.policy.Canary[g.step]
		v.Step, v.Steps, v.Weight, v.Paused = g.step+1, len(g.policy.Canary), step.Weight, step.For == 0
	}
	for _, w := range g.workers {
		x := WorkerView{ID: w.id, Index: w.index, Role: w.role, Slot: w.slot, State: w.state, Restarts: g.restarts[w.index]}
		if w.heir != nil {
			x.Heir = w.heir.id
		}
		v.Workers = append(v.Workers, x)
	}
	return v
}

package handoff

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"syscall"

	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/process"
)

// report is what there is: by the rules, and by what the engine knows besides.
func (s *Supervisor) report(used map[machine.Worker]process.Usage) *event.Report {
	v := s.rules.Look()
	r := &event.Report{
		Name: s.opts.Name, PID: syscall.Getpid(), Started: s.began, Stopping: v.Stopping,
		Restarts: s.restarts, Verdict: s.verdict, Version: s.opts.Version, Resumed: s.resumes,
	}
	for _, l := range s.listeners {
		r.Listeners = append(r.Listeners, event.Listener{
			Name: l.Name(), Address: l.Address().String(), Mode: string(l.Mode()), Reason: l.Reason(),
		})
	}
	slices.SortFunc(r.Listeners, func(a, b event.Listener) int { return strings.Compare(a.Name, b.Name) })
	for _, g := range slices.Backward(v.Generations) { // the newest first
		r.Generations = append(r.Generations, s.reportGeneration(v, g, used))
	}
	for _, n := range slices.Backward(v.Good) {
		if kept := s.releases[n]; kept != nil {
			r.Releases = append(r.Releases, event.Release{Generation: int(n), Path: kept.program.Path(), Directory: kept.program.Dir()})
		}
	}
	r.State = state(r)
	return r
}

// state says in a word what users of the application meet.
func state(r *event.Report) string {
	serving := false
	for _, g := range r.Generations {
		switch {
		case r.Stopping:
		case g.Phase != string(machine.Serving) && g.Phase != string(machine.Canary):
			continue
		case g.Looping:
			return event.StateCrashLoop
		}
		serving = true
		for _, w := range g.Workers {
			if !r.Stopping && w.State == string(machine.Ready) && w.Weight > 0 {
				return event.StateServing
			}
		}
	}
	switch {
	case r.Stopping:
		return event.StateStopping
	case !serving:
		return event.StateStarting
	case slices.ContainsFunc(r.Generations, func(g event.Generation) bool { return g.Wanted > 0 && len(g.Stopped) >= g.Wanted }):
		return event.StateStopped
	}
	return event.StateWaiting
}

func (s *Supervisor) reportGeneration(v machine.View, g machine.GenerationView, used map[machine.Worker]process.Usage) event.Generation {
	e := event.Generation{
		Number: int(g.Number), Phase: string(g.Phase), Release: int(g.Release), Wanted: g.Wanted, Looping: g.Looping, Stopped: g.Stopped,
		Workers: []event.Worker{},
	}
	if known := s.gens[g.Number]; known != nil {
		e.Environment = known.environment
		e.Path, e.Directory = known.program.Path(), known.program.Dir()
		if group := s.group(known); group != nil {
			f := group.Figures()
			e.Memory, e.CPU = f.Memory, f.CPU
		}
	}
	if g.Phase == machine.Canary {
		e.Canary = &event.CanaryStep{Step: g.Step, Steps: g.Steps, Weight: g.Weight, Paused: g.Paused}
	}
	total := 0
	for _, share := range v.Table {
		total += share.Weight
	}
	for _, w := range g.Workers {
		x := event.Worker{
			Serial: int(w.ID), Index: w.Index, Slot: int(w.Slot), Role: string(w.Role), State: string(w.State), Restarts: w.Restarts,
		}
		for _, share := range v.Table {
			if share.Slot == w.Slot {
				x.Weight = math.Round(1000*float64(share.Weight)/float64(total)) / 10
			}
		}
		if known := s.workers[w.ID]; known != nil {
			x.PID, x.Started, x.Status, x.Stuck = known.pid(), known.started, known.status, known.alive.stuck
			x.Memory, x.CPU = used[w.ID].Proportional, used[w.ID].CPU
			x.Connections = known.alive.connections
		}
		e.Workers = append(e.Workers, x)
	}
	slices.SortFunc(e.Workers, func(a, b event.Worker) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Serial, b.Serial))
	})
	return e
}

// usage is what each worker uses now. What cannot be seen is left out: a report is
// of what is known.
func (s *Supervisor) usage() map[machine.Worker]process.Usage {
	var ids []machine.Worker
	var all []*process.Process
	for id, w := range s.workers {
		if w.running {
			ids, all = append(ids, id), append(all, w.proc)
		}
	}
	used := make(map[machine.Worker]process.Usage, len(all))
	if len(all) == 0 {
		return used
	}
	usages, _ := process.Usages(all, math.MaxUint64)
	for i, u := range usages {
		used[ids[i]] = u
	}
	return used
}

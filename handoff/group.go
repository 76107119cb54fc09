package handoff

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"baton/handoff/machine"
	"baton/internal/cgroup"
	"baton/internal/event"
	"baton/internal/process"
)

// Where control groups are ours each generation has one. It finds what has left its
// worker's process group, and counts exactly; a worker that cannot be put into one runs
// in the launcher's own, as it does everywhere else.

// enclose makes the generation's group, with its limit, and returns where a process joins
// it; "" when there is none.
func (s *Supervisor) enclose(g *generation) string {
	limit := g.plan.Live.GroupMemory
	if !s.opts.Unit.Delegated() {
		if limit > 0 {
			s.ungrouped(g, "limits.memory_max is not kept: baton is not the main process of a unit with Delegate=yes in version 2 of control groups")
		}
		return ""
	}
	group := s.opts.Unit.Group(int(g.number))
	join, err := group.Make()
	if err != nil {
		s.ungrouped(g, "it has no control group: "+err.Error())
		return ""
	}
	if limit > 0 {
		if err := group.Limit(limit); err != nil {
			s.ungrouped(g, "limits.memory_max is not kept: "+err.Error())
		}
	}
	if !g.grouped {
		g.grouped = true
		g.kills, _ = group.Kills() // of others before, in the unit's own
	}
	return join
}

// ungrouped says once what a generation lacks.
func (s *Supervisor) ungrouped(g *generation, what string) {
	if g.lacks != what {
		g.lacks = what
		s.emit(event.Event{Kind: event.Finding, Generation: int(g.number), Reason: what, Message: fmt.Sprintf("generation %d: %s", g.number, what)})
	}
}

// group of a generation; nil: it has none.
func (s *Supervisor) group(g *generation) *cgroup.Group {
	if !g.grouped {
		return nil
	}
	return s.opts.Unit.Group(int(g.number))
}

// dissolve takes the generation's group away. Nothing of its workers is left but who has
// left their process groups, and nobody else would ever end those: they get what a
// worker's orphans get.
func (s *Supervisor) dissolve(g *generation) {
	group := s.group(g)
	if group == nil {
		return
	}
	if left, err := group.Processes(); err == nil && len(left) > 0 {
		numbers := make([]string, len(left))
		for i, pid := range left {
			numbers[i] = strconv.Itoa(pid)
		}
		what := "left processes outside of its workers' process groups, which are ended: " + strings.Join(numbers, ", ")
		s.emit(event.Event{Kind: event.Finding, Generation: int(g.number), Reason: what, Message: fmt.Sprintf("generation %d %s", g.number, what)})
	}
	timeout := g.plan.Policy.DrainTimeout
	s.spawn(func() { // ends with the last of them, which the timeout bounds
		if err := group.End(s.ctx, timeout); err != nil {
			s.log.Warn("the control group of a generation that is gone: "+err.Error(), "generation", int(g.number))
		}
	})
}

// why is how a worker has ended, in words. That the kernel killed it for memory is seen by
// its group's count alone: the signal could be anybody's.
func (s *Supervisor) why(w *worker, status process.Status) string {
	g := s.gens[w.gen]
	group := s.group(g)
	if group == nil {
		return status.String()
	}
	now, _ := group.Kills() // not counted: none
	return killedFor(status, w.killed, &g.kills, now)
}

// killedFor tells of one worker: of several that have ended each takes one of those counted
// that are not told of yet.
func killedFor(status process.Status, byUs bool, told *cgroup.Kills, now cgroup.Kills) string {
	grown := now.OOM > told.OOM
	if status.Signal != syscall.SIGKILL || !grown {
		return status.String()
	}
	limited := now.Limit > told.Limit
	if told.OOM++; told.OOM == now.OOM {
		told.Limit = now.Limit
	}
	switch {
	case byUs:
		return status.String()
	case limited:
		return "killed for memory (its cgroup's limit)"
	}
	return "killed for memory (the machine's, or a limit above its cgroup)"
}

// regroup finds the groups again that a launcher before this one has made, and sets their
// limits, which baton cleanup had to take off.
func (s *Supervisor) regroup() {
	for _, group := range s.opts.Unit.Groups() {
		n := machine.Generation(group.Number())
		if g := s.gens[n]; g != nil {
			g.grouped = true
			g.kills, _ = group.Kills()
			s.enclose(g)
		} else if err := group.Remove(); err != nil {
			s.log.Warn("a control group that nobody needs is left: "+err.Error(), "generation", int(n))
		}
	}
}

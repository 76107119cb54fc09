package launcher

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/systemd"
)

// manager tells the service manager what the engine's pulse says.
type manager struct {
	to *systemd.Notifier // nil: there is none

	// What follows belongs to the engine's goroutine.
	asked     int // of the reloads that it was told of, the last one
	ready     bool
	reloading bool
	stopping  bool
}

func newManager(to *systemd.Notifier) *manager {
	return &manager{to: to, asked: 1} // the start is no reload
}

// store is where descriptors outlive this process; nil: nowhere.
func (m *manager) store() store {
	if m.to == nil {
		return nil // not an interface that holds a nil pointer
	}
	return m.to
}

// wire has the engine tell its pulse, if there is somebody to tell.
func (m *manager) wire(o handoff.Options) handoff.Options {
	if m.to != nil {
		o.Pulse, o.Beat = m.pulse, m.to.Tick(time.Second)
	}
	return o
}

// pulse is handoff.Options.Pulse: the loop that does the work has come round.
func (m *manager) pulse(p handoff.Pulse) {
	m.to.Alive()
	words := describe(p.Report)
	switch {
	case p.Report.Stopping:
		if !m.stopping {
			m.stopping = true
			m.to.Stopping(words)
		}
	case !m.ready && !serves(p.Report):
	default:
		m.serves(p, words)
	}
	m.to.Status(words)
	// More time only for what ends by a time of baton's own: what hangs is the manager's
	// to end.
	if (!m.ready || m.reloading || m.stopping) && time.Now().Before(p.Due) {
		m.to.Extend()
	}
}

// serves: each reload is told, since the manager may have asked for it, and that it is
// over when none is left.
func (m *manager) serves(p handoff.Pulse, words string) {
	if !m.ready {
		m.ready = true
		m.to.Ready(words)
	}
	if p.Asked > m.asked {
		m.asked, m.reloading = p.Asked, true
		m.to.Reloading(words)
	}
	if m.reloading && p.Open == 0 {
		m.reloading = false
		m.to.Ready(words)
	}
}

// clearing says that a killed launcher's workers are ended, which takes at most so long.
func (m *manager) clearing(atMost time.Duration) {
	m.to.Status("ends what a killed launcher left")
	m.to.ExtendBy(atMost)
}

// close says the last word.
func (m *manager) close(err error) {
	if err != nil {
		m.to.Status(err.Error())
	}
	m.to.Close()
}

func serves(r *event.Report) bool {
	return slices.ContainsFunc(r.Generations, func(g event.Generation) bool { return g.Phase == string(machine.Serving) })
}

// order in which generations are described: what users meet comes first.
var order = []machine.Phase{machine.Serving, machine.Canary, machine.Starting, machine.Preparing, machine.Standby, machine.Draining}

// describe says in a line what goes on.
func describe(r *event.Report) string {
	var parts []string
	if r.Stopping {
		parts = append(parts, "stopping")
	}
	all := slices.Clone(r.Generations)
	slices.SortStableFunc(all, func(a, b event.Generation) int {
		return cmp.Compare(slices.Index(order, machine.Phase(a.Phase)), slices.Index(order, machine.Phase(b.Phase)))
	})
	for _, g := range all {
		parts = append(parts, fmt.Sprintf("generation %d %s", g.Number, does(g)))
	}
	if failed(r.Verdict) && !r.Stopping {
		parts = append(parts, "the last reload was "+r.Verdict)
	}
	return strings.Join(parts, "; ")
}

func failed(verdict string) bool {
	return strings.HasPrefix(verdict, string(machine.RolledBack)) || strings.HasPrefix(verdict, string(machine.Unfit))
}

// does says what a generation does.
func does(g event.Generation) string {
	ready, left, known := 0, 0, false
	for _, w := range g.Workers {
		if w.State == string(machine.Ready) {
			ready++
		}
		if w.Connections != nil {
			left, known = left+*w.Connections, true
		}
	}
	switch machine.Phase(g.Phase) {
	case machine.Preparing:
		return "is prepared"
	case machine.Starting:
		return fmt.Sprintf("starts: %d of %s ready", ready, count(g.Wanted, "worker"))
	case machine.Canary:
		if g.Canary == nil || g.Canary.Steps == 0 {
			return "takes over worker by worker"
		}
		return fmt.Sprintf("gets %d %% of new connections", g.Canary.Weight)
	case machine.Standby:
		return "stands by"
	case machine.Draining:
		if !known {
			return "drains"
		}
		return fmt.Sprintf("drains: %s left", count(left, "connection"))
	case machine.Serving:
		return inService(g, ready)
	}
	return g.Phase
}

func inService(g event.Generation, ready int) string {
	switch {
	case g.Looping:
		return fmt.Sprintf("loses its workers again and again: %d of %s ready", ready, count(g.Wanted, "worker"))
	case g.Wanted > 0 && len(g.Stopped) >= g.Wanted:
		return "has ended by itself, and is left stopped"
	case ready < g.Wanted:
		return fmt.Sprintf("serves with %d of %s", ready, count(g.Wanted, "worker"))
	}
	return "serves with " + count(ready, "worker")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

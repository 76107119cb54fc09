package handoff

import (
	"slices"

	"baton/handoff/machine"
	"baton/internal/socket"
)

// Each worker has a slot of its own for the rules. On some listeners the slots of a
// generation's workers are one socket all the same: on unix listeners, where a name
// leads to one file, and on all that are steered when the plan says so. Whoever is free
// accepts, and a worker that ends leaves its queue to the others. Slots of different
// generations never are one.

// together says whether the generation's workers have one socket on the listener.
func (g *generation) together(l *listener) bool {
	return l.Mode() != socket.Shared && (g.plan.Together || l.Address().Network == "unix")
}

// unite gives a member that is about to start the socket that its generation's workers
// have in common, or one of its own. All members are named at the first one's start:
// once a worker runs, the socket's O_NONBLOCK is the workers'.
func (s *Supervisor) unite(g *generation, l *listener, w *worker) error {
	slot := int(w.slot)
	switch {
	case w.role != machine.Member || l.Mode() == socket.Shared:
		return nil
	case g.together(l):
		if s.among(l, w) {
			return nil
		}
		return l.Unite(s.members(w.gen)...)
	case len(l.Sharing(slot)) > 1: // as workers had it that are gone
		return l.Unite(slot)
	}
	return nil
}

// among says whether the worker's slot is already one with that of a worker of its
// generation which was started.
func (s *Supervisor) among(l *listener, w *worker) bool {
	inode, err := l.Inode(int(w.slot))
	if err != nil {
		return false // there is no such slot yet
	}
	for _, other := range s.workers {
		if other != w && other.gen == w.gen && other.role == machine.Member && other.given[l] == inode {
			return true
		}
	}
	return false
}

// members are the slots of all members of a generation, whether they were started or
// are about to be.
func (s *Supervisor) members(n machine.Generation) (slots []int) {
	for _, g := range s.rules.Look().Generations {
		for _, w := range g.Workers {
			if g.Number == n && w.Role == machine.Member && w.Slot >= 0 {
				slots = append(slots, int(w.Slot))
			}
		}
	}
	return slots
}

// siblings says whether workers of other slots have the slot's socket of the listener,
// and new connections go to them: whatever is queued there, they serve.
func (s *Supervisor) siblings(l *listener, slot machine.Slot) bool {
	if s.stopping || l.Mode() == socket.Shared {
		return false
	}
	for _, k := range l.Sharing(int(slot)) {
		other := machine.Slot(k)
		if other != slot && slices.ContainsFunc(s.table, func(sh machine.Share) bool { return sh.Slot == other }) {
			return true
		}
	}
	return false
}

// watchAnew begins again with the watches that follow a queue which, since steering has
// changed, somebody serves for good: it may never be empty again.
func (s *Supervisor) watchAnew() {
	for slot, w := range s.watches {
		if slices.ContainsFunc(w.on, func(l *listener) bool { return s.listeners[l.key] == l && s.siblings(l, slot) }) {
			s.watch(slot, w.orphan)
		}
	}
}

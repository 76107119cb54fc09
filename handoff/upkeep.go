package handoff

import (
	"fmt"

	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/socket"
)

// maintain puts right what became of the sockets, and looks whether the workers
// still hold theirs.
func (s *Supervisor) maintain() {
	for _, l := range s.listeners {
		if err := l.Maintain(); err != nil {
			s.finding(l, err.Error())
		}
	}
	s.steer(s.table) // where it failed; elsewhere it costs microseconds
	for _, w := range s.workers {
		if !w.ready || w.drain || w.killed {
			continue
		}
		for l, held := range w.held {
			if held && s.listeners[l.key] == l && !s.holds(w, l) {
				delete(w.held, l) // said once
				s.step(machine.Left{Worker: w.id, Reason: "it has closed its socket of " + l.Address().String()})
				break
			}
		}
	}
}

// holds says whether a process of the worker has its slot's socket open.
func (s *Supervisor) holds(w *worker, l *listener) bool {
	inode, err := l.Inode(int(w.slot))
	if err != nil {
		return false
	}
	held, err := w.proc.Holds(inode)
	return held || err != nil // who cannot look does not take it from the worker
}

// found handles what a listener found out about its sockets.
func (s *Supervisor) found(l *listener, f socket.Finding) {
	s.emit(event.Event{
		Kind: event.Finding, Listener: l.Name(), Address: l.Address().String(), Slot: max(f.Slot, 0), Reason: f.Detail,
		Message: fmt.Sprintf("%s on %s: %s", f.Kind, l.Address(), f.Detail),
	})
	if f.Kind != socket.Broken {
		return
	}
	slot := machine.Slot(f.Slot)
	if s.watches[slot] != nil {
		return // whoever waits for the queue follows the slot, not the socket
	}
	s.step(machine.Broken{Slot: slot, Reason: fmt.Sprintf("its socket of %s was broken: %s", l.Address(), f.Detail)})
}

// finding reports a fact about a listener that the engine found out.
func (s *Supervisor) finding(l *listener, what string) {
	s.emit(event.Event{
		Kind: event.Finding, Listener: l.Name(), Address: l.Address().String(), Reason: what,
		Message: l.Address().String() + ": " + what,
	})
}

package handoff

import (
	"fmt"

	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/socket"
)

// maintain puts right what became of the sockets, and looks whether the workers
// still hold theirs. What it cannot put right is said once, not every second.
func (s *Supervisor) maintain() {
	stale := make(map[string]*listener)
	for key, l := range s.listeners {
		s.complain(l, "maintain", l.Maintain())
		if l.stale {
			stale[key] = l
		}
	}
	failed := s.steerAll(stale)
	for _, l := range stale {
		s.complain(l, "steer", failed[l])
	}
	if len(stale) > 0 && len(failed) == 0 {
		s.step(machine.Steered{}) // at last
	}
	for _, w := range s.workers {
		if w.ready && !w.drain && !w.killed && !w.ended() {
			s.checkHeld(w)
		}
	}
}

// complain reports an error that upkeep met, once until it is gone.
func (s *Supervisor) complain(l *listener, doing string, err error) {
	if err == nil {
		delete(l.said, doing)
		return
	}
	if l.said == nil {
		l.said = make(map[string]bool)
	}
	if !l.said[doing] {
		l.said[doing] = true
		s.finding(l, doing+": "+err.Error())
	}
}

// ended says whether the main process is gone, or about to be, although the engine
// may not have come to it. Asked after a look at what it holds or answers, it tells a
// process that dies from one that does not serve.
func (w *worker) ended() bool { return w.proc.Ending() }

func (s *Supervisor) checkHeld(w *worker) {
	for l, held := range w.held {
		if !held || s.listeners[l.key] != l || s.holds(w, l) || w.ended() {
			continue
		}
		delete(w.held, l) // said once
		s.step(machine.Left{Worker: w.id, Reason: "it has closed its socket of " + l.Address().String()})
		return
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
	if f.Kind == socket.Adjusted {
		s.log.Debug(f.Detail, "listener", l.Name(), "slot", f.Slot)
		return
	}
	s.emit(event.Event{
		Kind: event.Finding, Listener: l.Name(), Address: l.Address().String(), Slot: f.Slot, Reason: f.Detail,
		Message: fmt.Sprintf("%s on %s: %s", f.Kind, l.Address(), f.Detail),
	})
	if f.Kind != socket.Broken {
		return
	}
	slot := machine.Slot(f.Slot)
	if s.watches[slot] != nil || s.fresh(slot, l) {
		return // a watch follows the slot, not the socket; a successor has the fresh one
	}
	s.step(machine.Broken{Slot: slot, Reason: fmt.Sprintf("its socket of %s was broken: %s", l.Address(), f.Detail)})
}

// fresh says whether a worker on the slot was given the socket that is there now.
func (s *Supervisor) fresh(slot machine.Slot, l *listener) bool {
	inode, err := l.Inode(int(slot))
	for _, w := range s.workers {
		if err == nil && w.slot == slot && w.given[l] == inode {
			return true
		}
	}
	return false
}

// finding reports a fact about a listener that the engine found out.
func (s *Supervisor) finding(l *listener, what string) {
	s.emit(event.Event{
		Kind: event.Finding, Listener: l.Name(), Address: l.Address().String(), Reason: what,
		Message: l.Address().String() + ": " + what,
	})
}

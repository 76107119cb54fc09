package handoff

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/process"
	"baton/internal/socket"
)

// lookout follows one slot until nothing is left on it.
type lookout struct {
	slot     int
	common   []*listener   // whose queue whoever serves can serve
	own      []*listener   // whose queue only the owner's release can serve
	beside   []*listener   // whose queue others serve, for good; what it leaves there is not waited for
	patience time.Duration // with handshakes that were half open at the beginning
	evict    *eviction     // for an orphan
	post     func(machine.Event)
}

// look polls the slot: every millisecond at first, since on a fast network all
// is over by then, then up to every 20, and slower while it waits for processes
// to let go of the slot.
func (o *lookout) look(ctx context.Context) {
	all := slices.Concat(o.common, o.own)
	half := make(map[*listener]socket.Handshakes, len(all))
	for _, l := range all {
		// An error means that the kernel cannot say: then the drain delay and
		// the queue are all there is to go by.
		if h, err := l.HalfOpen(); err == nil {
			half[l] = h
		}
	}
	deadline := time.Now().Add(o.patience)
	stranded, empty := false, 0
	longest := 20 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(pause*3/2, longest) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		// Handshakes first: one that ends in between is found in the queue.
		open, queued, own := halfOpen(half), o.queued(o.common), o.queued(o.own)
		if queued+own > 0 && !stranded {
			stranded = true
			o.post(machine.Stranded{Slot: machine.Slot(o.slot), Own: own > 0})
		}
		if queued+own > 0 || open > 0 && time.Now().Before(deadline) {
			empty = 0
			continue
		}
		// Twice in a row: a SYN that was being handled on another processor at
		// the very switch may not have been visible at the first look.
		if empty++; empty < 2 {
			continue
		}
		over, free := true, false
		if o.evict != nil {
			over, free = o.evict.done(slices.Concat(all, o.beside), o.slot)
		}
		if free {
			o.rest(half)
		}
		if over {
			o.post(machine.Quiet{Slot: machine.Slot(o.slot)})
			return
		}
		longest = 250 * time.Millisecond // a look at every process of the machine costs something
	}
}

func halfOpen(half map[*listener]socket.Handshakes) (open int) {
	for l, h := range half {
		if len(h) > 0 {
			n, _ := l.Remaining(h) // an error: as at the beginning
			open += n
		}
	}
	return open
}

// rest has the slot's sockets rest that nobody has, and to which no handshake leads that is
// half open: one that ended later would be deaf for good.
func (o *lookout) rest(half map[*listener]socket.Handshakes) {
	for l, h := range half {
		if n, err := l.Remaining(h); err == nil && n == 0 {
			_ = l.Rest(o.slot) // it is closed, or hears as before: what it is for is rare
		}
	}
}

func (o *lookout) queued(listeners []*listener) (queued int) {
	for _, l := range listeners {
		p, _ := l.Pending(o.slot) // an error: the listener was closed, and its queue with it
		queued += p.Queued
	}
	return queued
}

// eviction sees to it that nobody holds an orphan's sockets before another
// worker gets them: a process that its worker left behind would accept in the
// next one's place, and prove it ready.
type eviction struct {
	on       *occupants
	before   []machine.Worker // who was on the slot when it became an orphan
	signal   syscall.Signal
	patience time.Duration // from the signal to KILL
	say      func(string)
	seen     map[int]time.Time // since when the process is known to hold it
	asked    map[int]time.Time // when the process got the signal
}

// passing is how long a process must have been seen to hold a slot before it is
// taken for one that was left behind: a child of the launcher has all its descriptors
// between fork and exec, which on a busy machine takes its time.
const passing = 250 * time.Millisecond

// done says whether the eviction is over: nobody holds the slot any more, which is free
// then, or another worker has come to it. Workers of ours end by themselves, or are
// ended; others get the drain signal, and KILL when they do not obey it. Those on other
// slots that are one with it may stay.
func (e *eviction) done(listeners []*listener, slot int) (over, free bool) {
	inodes, others := e.sockets(listeners, slot)
	holders, err := process.Holders(inodes)
	ours, came := e.on.on(machine.Slot(slot), e.before)
	siblings, starting := e.on.beside(others)
	switch {
	case came: // asked after the look: it may be among the holders
		return true, false
	case err != nil && len(ours) == 0: // nobody ever got it
		return true, true
	case err != nil: // no descriptor to look with: later
		return false, false
	case starting: // which of the holders it is cannot be told yet
		return false, false
	}
	among := func(all []*process.Process, pid int) bool {
		return slices.ContainsFunc(all, func(p *process.Process) bool { return p.Contains(pid) })
	}
	seen, left := make(map[int]time.Time), 0
	for _, h := range holders {
		if among(siblings, h.PID) {
			continue
		}
		left++
		if among(ours, h.PID) {
			continue
		}
		if seen[h.PID] = e.seen[h.PID]; seen[h.PID].IsZero() {
			seen[h.PID] = time.Now()
		}
		if time.Since(seen[h.PID]) >= passing {
			e.end(h, inodes)
		}
	}
	e.seen = seen // without those that let go
	return left == 0, left == 0
}

// sockets are the slot's, and the other slots that are one with it on some listener.
func (e *eviction) sockets(listeners []*listener, slot int) (inodes map[uint64]bool, others []machine.Slot) {
	inodes = make(map[uint64]bool)
	for _, l := range listeners {
		if l.Mode() == socket.Shared {
			continue // held by whoever serves, as it should be
		}
		if inode, err := l.Inode(slot); err == nil { // an error: it was closed
			inodes[inode] = true
		}
		for _, k := range l.Sharing(slot) {
			if k != slot {
				others = append(others, machine.Slot(k))
			}
		}
	}
	return inodes, others
}

func (e *eviction) end(h process.Holder, inodes map[uint64]bool) {
	sig := e.signal
	since, again := e.asked[h.PID]
	switch {
	case !again:
		if e.asked == nil {
			e.asked = make(map[int]time.Time)
		}
		e.asked[h.PID] = time.Now()
		e.say(fmt.Sprintf("pid %d (%s), left behind by a worker that ended, holds its socket: sent %s", h.PID, h.Name, signalName(sig)))
	case time.Since(since) < e.patience:
		return
	default:
		sig = syscall.SIGKILL
	}
	// An error: it may not be ours to signal; then the slot stays unused.
	_ = process.EndHolder(h.PID, inodes, sig)
}

// occupants are the workers on each slot, from the order to start them, and the
// process that was there last. It is asked from the goroutines of lookouts.
type occupants struct {
	mu   sync.Mutex
	now  map[machine.Slot]map[machine.Worker]*process.Process // nil: not started yet
	last map[machine.Slot]*process.Process
}

func newOccupants() *occupants {
	return &occupants{now: make(map[machine.Slot]map[machine.Worker]*process.Process), last: make(map[machine.Slot]*process.Process)}
}

func (o *occupants) set(slot machine.Slot, w machine.Worker, p *process.Process) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now[slot] == nil {
		o.now[slot] = make(map[machine.Worker]*process.Process)
	}
	o.now[slot][w] = p
}

func (o *occupants) leave(slot machine.Slot, w machine.Worker) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := o.now[slot][w]; p != nil {
		o.last[slot] = p
	}
	delete(o.now[slot], w)
}

// workers on the slot.
func (o *occupants) workers(slot machine.Slot) []machine.Worker {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.now[slot]))
}

// on returns the processes on the slot and the last one that was, and whether a
// worker has come that was not there before.
func (o *occupants) on(slot machine.Slot, before []machine.Worker) (all []*process.Process, came bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := o.last[slot]; p != nil {
		all = append(all, p)
	}
	for w, p := range o.now[slot] {
		came = came || !slices.Contains(before, w)
		if p != nil {
			all = append(all, p)
		}
	}
	return all, came
}

// beside returns the processes on these slots and the last ones that were, and whether
// another is being started there.
func (o *occupants) beside(slots []machine.Slot) (all []*process.Process, starting bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, slot := range slots {
		if p := o.last[slot]; p != nil {
			all = append(all, p)
		}
		for _, p := range o.now[slot] {
			if p == nil {
				starting = true
				continue
			}
			all = append(all, p)
		}
	}
	return all, starting
}

func (s *Supervisor) leftBehind(slot machine.Slot, what string) {
	s.emit(event.Event{Kind: event.Finding, Slot: int(slot), Reason: what, Message: fmt.Sprintf("slot %d: %s", slot, what)})
}

package socket

import "sync"

// findings carries facts to whoever reads the channel without ever blocking
// the listener: what does not fit waits here, one per kind and slot, and goes
// out at the next post or flush (Maintain flushes each second).
type findings struct {
	mu      sync.Mutex
	name    string
	out     chan Finding
	waiting []Finding
	closed  bool
}

func newFindings(listener string) *findings {
	return &findings{name: listener, out: make(chan Finding, 64)}
}

// post reports a fact; slot is -1 where none is concerned.
func (f *findings) post(kind FindingKind, slot int, detail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.waiting = merge(f.waiting, Finding{Listener: f.name, Kind: kind, Slot: slot, Detail: detail})
	f.drain()
}

// flush sends what had to wait, as far as there is room.
func (f *findings) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.drain()
	}
}

// close closes the channel; later posts are dropped, since nobody reads them.
func (f *findings) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.drain()
		f.closed = true
		close(f.out)
	}
}

func (f *findings) drain() {
	for len(f.waiting) > 0 {
		select {
		case f.out <- f.waiting[0]:
			f.waiting = f.waiting[1:]
		default:
			return
		}
	}
	f.waiting = nil
}

// merge appends n, or replaces the waiting fact about the same slot and of the
// same kind: the later one says what matters. Strangers are told apart by
// their detail, since each of them is a fact of its own.
func merge(waiting []Finding, n Finding) []Finding {
	for i, w := range waiting {
		same := w.Kind == n.Kind && w.Slot == n.Slot
		if same && (n.Slot >= 0 || w.Detail == n.Detail) {
			waiting[i] = n
			return waiting
		}
	}
	return append(waiting, n)
}

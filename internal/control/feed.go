package control

import (
	"sync"

	"baton/internal/event"
)

// keptEvents is how many of the last events a Feed holds: for those who come later,
// and for those who read slowly.
const keptEvents = 256

// Feed is the stream of a launcher's events, from the engine to any number of readers.
// The zero value is ready for use. Adding waits for nobody: a reader that falls behind
// by more than is kept is told how many it missed.
type Feed struct {
	mu    sync.Mutex
	ring  [keptEvents]event.Event
	count uint64        // events there ever were; the next goes to ring[count%keptEvents]
	more  chan struct{} // closed with the next event; nil: nobody waits for it
}

// Add is an Observe of the engine's.
func (f *Feed) Add(e event.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring[f.count%keptEvents] = e
	f.count++
	if f.more != nil {
		close(f.more)
		f.more = nil
	}
}

// back is where a reader begins that wants the last n that are kept.
func (f *Feed) back(n int) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count - min(uint64(n), f.count, keptEvents)
}

// from gives what there is from a place on, how many before it are not kept any more,
// the place behind it, and what is closed when there is more.
func (f *Feed) from(place uint64) (batch []event.Event, missed, next uint64, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if oldest := f.count - min(f.count, keptEvents); place < oldest {
		missed, place = oldest-place, oldest
	}
	for ; place < f.count; place++ {
		batch = append(batch, f.ring[place%keptEvents])
	}
	if f.more == nil {
		f.more = make(chan struct{})
	}
	return batch, missed, place, f.more
}

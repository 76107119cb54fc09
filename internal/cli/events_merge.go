package cli

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"time"

	"baton/internal/event"
)

// stream is the events of one launcher.
type stream struct {
	name   string
	events iter.Seq2[event.Event, error]
}

// arrived is an event on its way to be shown.
type arrived struct {
	happened
	place time.Time // in the order: no earlier than what the same launcher told before
	due   time.Time // when it is shown at the latest
	err   error     // instead of an event
}

// merge shows the events of several streams in the order of time, as far as none comes
// later than hold after one that it should have come before; within a stream the order
// stays what it is, whatever the clock did. It returns when all streams have ended. The
// first error that is not passed over, or of show, is returned; cancel has to end the
// streams then.
func merge(streams []stream, hold time.Duration, show func(happened) error, cancel func(), pass func(error) bool) error {
	come := make(chan arrived)
	var open sync.WaitGroup
	for _, s := range streams {
		open.Go(func() { // ends with the stream: what it sends is taken until then
			var last time.Time
			for e, err := range s.events {
				if e.Time.After(last) {
					last = e.Time
				}
				come <- arrived{happened{s.name, e}, last, time.Now().Add(hold), err}
			}
		})
	}
	go func() { // ends with the streams
		open.Wait()
		close(come)
	}()
	m := merger{show: show}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	for {
		select {
		case a, more := <-come:
			switch {
			case !more:
				m.flush(time.Time{})
				return m.failed
			case a.err != nil && pass(a.err):
			case a.err != nil:
				m.flush(time.Time{}) // they came before it
				m.fail(a.err)
			default:
				m.add(a)
			}
		case <-timer.C:
		}
		next := m.flush(time.Now())
		if m.failed != nil {
			cancel()
		}
		timer.Reset(next)
	}
}

// merger holds what has come and is not shown yet, in order.
type merger struct {
	show   func(happened) error
	held   []arrived
	failed error
}

func (m *merger) fail(err error) {
	if m.failed == nil {
		m.failed = err
	}
}

// add puts one in its place: behind those of the same time that came before.
func (m *merger) add(a arrived) {
	at, _ := slices.BinarySearchFunc(m.held, a, func(x, a arrived) int {
		return cmp.Or(x.place.Compare(a.place), -1)
	})
	m.held = slices.Insert(m.held, at, a)
}

// flush shows all up to the last one that is due, or with no time all of them, and
// returns how long nothing will be.
func (m *merger) flush(now time.Time) time.Duration {
	n := len(m.held)
	for n > 0 && !now.IsZero() && m.held[n-1].due.After(now) {
		n--
	}
	for _, a := range m.held[:n] {
		if m.failed == nil {
			m.fail(m.show(a.happened))
		}
	}
	m.held = slices.Delete(m.held, 0, n)
	next := time.Hour // or until the next one comes
	for _, a := range m.held {
		next = min(next, a.due.Sub(now))
	}
	return next
}

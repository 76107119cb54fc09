package worker

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// errEmpty ends an accept loop in a drain. It must not be a temporary error, after
// which net/http goes on.
var errEmpty = errors.New("the accept queue is empty")

const (
	// quiet is how long a draining listener must have had nothing to accept. One
	// accept(2) that finds nothing would do; this long, so that the goroutine comes to
	// call it even on a busy machine. If it does not, net makes no such call at all,
	// and the kernel is asked once more; see waiting.
	quiet = 100 * time.Millisecond
	// longest is when it is given up: where nobody steers, new connections do not end.
	// A socket that others have open too keeps what is queued, so nothing is lost.
	longest = time.Second
)

// queue is a listener whose accept loop can be ended without losing what waits in
// the accept queue: not by Close, which resets it, but when it has been emptied.
type queue struct {
	net.Listener
	deadline  interface{ SetDeadline(time.Time) error }
	accepting chan struct{} // closed at the first Accept
	once      sync.Once

	mu       sync.Mutex
	finished time.Time // when finish was called
}

func newQueue(l net.Listener) (*queue, error) {
	d, ok := l.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return nil, fmt.Errorf("serve %s: a %T cannot be drained, since it has no SetDeadline (for TLS set the server's TLSConfig)", l.Addr(), l)
	}
	return &queue{Listener: l, deadline: d, accepting: make(chan struct{})}, nil
}

// Accept returns errEmpty when finish was called and nothing is left.
func (q *queue) Accept() (net.Conn, error) {
	q.once.Do(func() { close(q.accepting) })
	for {
		last, err := q.extend()
		if err != nil {
			return nil, err
		}
		c, err := q.Listener.Accept()
		var timeout net.Error
		switch {
		case err == nil || !errors.As(err, &timeout) || !timeout.Timeout():
			return c, err
		case last && !waiting(q.Listener):
			return nil, errEmpty
		}
	}
}

// extend tells whether finish was called, and then gives the next accept its time.
func (q *queue) extend() (finishing bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finished.IsZero() {
		return false, nil
	}
	if time.Since(q.finished) > longest {
		return true, errEmpty
	}
	return true, q.deadline.SetDeadline(time.Now().Add(quiet))
}

// finish lets Accept return what is queued, and then errEmpty.
func (q *queue) finish() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.finished = time.Now()
	return q.deadline.SetDeadline(time.Unix(1, 0)) // wakes an Accept that waits
}

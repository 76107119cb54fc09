package systemd

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// errLater is wrapped by the error of a try that is to be followed by another one: the
// manager has not read what it was told before, or something is short just now.
var errLater = errors.New("it is tried again")

// run sends what there is to say until Close, and then what is left.
func (n *Notifier) run() {
	defer close(n.done)
	for {
		select {
		case <-n.wake:
		case <-n.closing:
			n.flush(time.Now().Add(farewell))
			n.discard()
			return
		}
		n.flush(time.Time{})
	}
}

// flush sends until there is nothing left to say or the limit is over. Without one it
// goes on until Close, which comes back with one.
func (n *Notifier) flush(limit time.Time) {
	for {
		m := n.next()
		if m.text == "" {
			return
		}
		err := send(n.address, m, patience)
		n.trouble(err)
		if !errors.Is(err, errLater) {
			n.sent(m) // it has arrived, or there is nobody whom it could reach
			continue
		}
		select {
		case <-n.closing:
			if limit.IsZero() || time.Now().After(limit) {
				return
			}
		default: // what is newer by then is said with it
		}
	}
}

// next is what is to be said next: what has an order in its order, then how it is now.
func (n *Notifier) next() message {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.queue) > 0 {
		m := n.queue[0]
		m.ordered = true
		return m
	}
	var lines []string
	if n.now.status != "" {
		lines = append(lines, "STATUS="+n.now.status)
	}
	if !n.now.well.IsZero() {
		lines = append(lines, "WATCHDOG=1")
	}
	if n.now.more > 0 {
		lines = append(lines, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", n.now.more.Microseconds()))
	}
	return message{text: strings.Join(lines, "\n"), now: n.now}
}

// sent lets go of what was said, but not of what came meanwhile.
func (n *Notifier) sent(m message) {
	release(m.fds)
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.ordered {
		n.queue = n.queue[1:]
		return
	}
	if n.now.status == m.now.status {
		n.now.status = ""
	}
	if n.now.well.Equal(m.now.well) {
		n.now.well = time.Time{}
	}
	if n.now.moreAt.Equal(m.now.moreAt) {
		n.now.more = 0
	}
}

// discard lets go of what nobody read.
func (n *Notifier) discard() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.queue {
		release(m.fds)
	}
	n.queue = nil
}

// trouble logs why the manager is not reached, once until it is again.
func (n *Notifier) trouble(err error) {
	words := ""
	if err != nil {
		words = err.Error()
	}
	n.mu.Lock()
	was := n.troubled
	n.troubled = words
	n.mu.Unlock()
	if words != "" && words != was {
		n.log.Warn("the service manager is not told how it goes: " + words)
	}
}

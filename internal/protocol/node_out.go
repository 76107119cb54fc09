package protocol

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// nodeOut is what waits to be written to a worker. Of descriptors there is one under way
// at a time: node itself never has two, and loses the order if it gets them.
type nodeOut struct {
	half    []byte   // the rest of a message that was begun
	plain   [][]byte // messages
	parcels []*parcel
	flying  *parcel // until the worker says whether it has arrived
}

// parcel is a message with a descriptor, its own duplicate.
type parcel struct {
	key    string // of the lease
	line   []byte
	fd     int    // -1: closed
	refuse []byte // what to say instead when it cannot be delivered

	tries   int
	waits   bool  // it is to be sent, perhaps once more
	busy    bool  // the descriptor is in use
	arrived *bool // what the worker said meanwhile
}

// poke puts something into a channel of one, unless it has that.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// say queues a message. When there is no room it waits for some: who asks faster than
// it reads is not read from meanwhile, and loses the channel if it reads nothing. The
// messages are lost with the channel.
func (n *node) say(line []byte) { n.sayAs(line, phaseNone) }

// sayAs is say for one with which a drain comes to its next phase.
func (n *node) sayAs(line []byte, phase nodePhase) {
	for {
		n.mu.Lock()
		full := len(n.out.plain) >= maxNodeQueue && !n.halted && !n.ended
		if !full {
			if !n.ended {
				n.out.plain = append(n.out.plain, line)
			}
			n.phase = max(n.phase, phase)
			poke(n.work)
			if n.halted {
				poke(n.room) // for others
			}
		}
		n.mu.Unlock()
		if !full {
			if phase != phaseNone {
				n.changed()
			}
			return
		}
		select {
		case <-n.room:
		case <-n.gone:
		}
	}
}

// write sends what is queued, until the channel ends.
func (n *node) write() {
	defer n.sweep()
	for n.writing.enter() {
		more, err := n.sendNext()
		n.writing.leave()
		switch {
		case err != nil:
			n.lose(err)
			return
		case more:
			continue
		}
		select {
		case <-n.gone:
			return
		case <-n.work:
		}
	}
}

// next takes what is to be sent, with the parcel that it belongs to.
func (n *node) next() (line []byte, p *parcel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := &n.out
	switch {
	case n.ended, n.halted:
	case len(o.half) > 0:
		line = o.half
	case len(o.plain) > 0:
		line, o.plain = o.plain[0], o.plain[1:]
		o.half = line
		poke(n.room)
	case o.flying != nil && o.flying.waits:
		line, p = o.flying.line, o.flying
	case o.flying == nil && len(o.parcels) > 0:
		p, o.parcels = o.parcels[0], o.parcels[1:]
		line, o.flying = p.line, p
	}
	if p != nil {
		p.tries, p.busy, p.waits = p.tries+1, true, false
	}
	return line, p
}

// sendNext sends one message, or as much of it as goes; more: there may be others.
func (n *node) sendNext() (more bool, err error) {
	line, p := n.next()
	if line == nil {
		return false, nil
	}
	fd := -1
	if p != nil {
		fd = p.fd
	}
	sent, err := n.send(line, fd)
	n.mu.Lock()
	stopped := n.halted && errors.Is(err, os.ErrDeadlineExceeded)
	n.out.half = nil
	if sent > 0 || p == nil { // the descriptor went with the first byte
		n.out.half = line[sent:]
	}
	var release func()
	if p != nil {
		p.busy = false
		if sent == 0 {
			p.tries, p.waits = p.tries-1, true
		}
		if p.arrived != nil {
			release = n.settle(*p.arrived)
		}
	}
	n.mu.Unlock()
	if release != nil {
		release()
	}
	if stopped {
		err = nil
	}
	return true, err
}

// answered hears whether the parcel that is under way has arrived whole.
func (n *node) answered(whole bool) {
	n.mu.Lock()
	var release func()
	switch p := n.out.flying; {
	case p == nil: // an answer to nothing
	case p.busy:
		p.arrived = &whole
	default:
		release = n.settle(whole)
	}
	n.mu.Unlock()
	if release != nil {
		release()
	}
}

// settle ends the flight of a parcel, or has it sent once more. Call it with mu held,
// and what it returns without.
func (n *node) settle(whole bool) (release func()) {
	p := n.out.flying
	p.arrived = nil
	switch {
	case !whole && p.tries < nodeTries:
		p.waits = true
	case !whole:
		release = n.forget(p.key)
		n.out.plain = append(n.out.plain, p.refuse)
		fallthrough
	default:
		p.close() // the worker has its own, or never will
		n.out.flying = nil
	}
	poke(n.work)
	return release
}

func (p *parcel) close() {
	if p.fd >= 0 {
		unix.Close(p.fd) // a duplicate
		p.fd = -1
	}
}

// sweep closes the descriptors that were never sent. Nothing is queued once the
// channel has ended.
func (n *node) sweep() {
	<-n.gone
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.out.flying != nil {
		n.out.flying.close()
	}
	for _, p := range n.out.parcels {
		p.close()
	}
	n.out = nodeOut{}
}

// writeDeadline bounds the next write.
func (n *node) writeDeadline() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.halted {
		return n.conn.SetWriteDeadline(past)
	}
	return n.conn.SetWriteDeadline(time.Now().Add(nodePatience))
}

// send writes a line, with a descriptor unless fd is -1, and says how much of it went.
func (n *node) send(line []byte, fd int) (sent int, err error) {
	if err := n.writeDeadline(); err != nil {
		return 0, err
	}
	if fd < 0 {
		return n.conn.Write(line)
	}
	// The flag belongs to the open file, that is to all who hold the socket, and may
	// have been changed since. With it missing, node would wait in accept for ever.
	if err := unix.SetNonblock(fd, true); err != nil {
		return 0, err
	}
	sent, _, err = n.conn.WriteMsgUnix(line, unix.UnixRights(fd), nil)
	if sent = max(sent, 0); err != nil || sent == len(line) {
		return sent, err
	}
	more, err := n.conn.Write(line[sent:]) // the descriptor went with the first byte
	return sent + more, err
}

package socket

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// shared is a listener with one socket for all slots: every worker that holds
// it accepts, whatever Steer says.
type shared struct {
	base
	reason  string
	origins []netip.Addr
	done    chan struct{}  // closed by Close
	probes  sync.WaitGroup // probes and the closing of their connections; added to under mu

	mu      sync.Mutex
	o       Options
	only    *member
	slots   map[int]bool
	refused bool
	told    bool // that the backlog was restored
	watch   *watch
	closed  bool
	made    int // sockets so far
}

func listenShared(a Address, at endpoint, o Options, reason string) (Listener, error) {
	fd, err := bindFirst(&at, func(int) error { return nil })
	if err != nil {
		return nil, err
	}
	m := &member{fd: fd, number: 1, slot: notSlot}
	l := &shared{base: newBase(a, at, o), o: o}
	if err := l.open(m); err != nil {
		unix.Close(fd) // a socket that did not come to be has nothing to lose
		return nil, err
	}
	return newShared(l.base, o, m, reason)
}

// newShared takes over m's socket, which listens, and closes it on error.
func newShared(b base, o Options, m *member, reason string) (Listener, error) {
	l := &shared{
		base: b, reason: reason, origins: b.at.origins(), done: make(chan struct{}),
		o: o, only: m, made: m.number, slots: map[int]bool{0: true},
	}
	if err := unix.SetNonblock(m.fd, o.NonBlocking); err != nil {
		unix.Close(m.fd) // the listener does not come to be
		return nil, fmt.Errorf("set O_NONBLOCK: %w", err)
	}
	if err := l.startWatch(); err != nil {
		unix.Close(m.fd) // the listener does not come to be
		return nil, err
	}
	return l, nil
}

func (l *shared) startWatch() error {
	w, err := newWatch(func() {
		if err := l.Maintain(); err != nil && !errors.Is(err, ErrClosed) {
			l.log.Warn("the socket stopped listening and could not be replaced", "error", err)
		}
	})
	if err != nil {
		return err
	}
	l.mu.Lock() // a socket that is broken already is told at once
	l.watch = w
	if err = w.add(l.only.fd); err != nil {
		l.closed = true
	}
	l.mu.Unlock()
	if err != nil {
		w.close()
	}
	return err
}

// open starts to listen on a bound socket and notes what the kernel made of it.
func (l *shared) open(m *member) (err error) {
	if m.inode, err = inodeOf(m.fd); err != nil || !l.at.stream {
		return err
	}
	if err := unix.Listen(m.fd, l.o.backlog()); err != nil {
		return err
	}
	state, err := tcpListening(m.fd)
	m.backlog = state.backlog
	return err
}

func (l *shared) Mode() Mode     { return Shared }
func (l *shared) Reason() string { return l.reason }

func (l *shared) locked(doing string, f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := ErrClosed
	if !l.closed {
		err = f()
	}
	if err != nil {
		return l.fail(doing, err)
	}
	return nil
}

func (l *shared) with(slot int, doing string, f func() error) error {
	return l.locked(fmt.Sprintf("%s slot %d of", doing, slot), func() error {
		if !l.slots[slot] {
			return ErrNoSlot
		}
		return f()
	})
}

func (l *shared) Apply(o Options) error {
	return l.locked("apply options to", func() error {
		if l.o.Shared && !o.Shared {
			return errors.New("steering cannot be switched on while the socket is open")
		}
		l.o.Backlog = o.Backlog
		var err error
		if o.NonBlocking != l.o.NonBlocking {
			err = errShareNonBlocking
		}
		if !l.at.stream {
			return err
		}
		if state, stateErr := tcpListening(l.only.fd); stateErr != nil || !state.on {
			return errors.Join(err, stateErr) // not to be listened on again; Maintain sees to it
		}
		return errors.Join(err, l.open(l.only))
	})
}

func (l *shared) Reserve(slot int) error {
	return l.locked(fmt.Sprintf("reserve slot %d of", slot), func() error {
		if slot < 0 {
			return ErrNoSlot
		}
		l.slots[slot] = true
		if !l.refused {
			return nil
		}
		l.refused = false
		return l.hear(l.only.fd)
	})
}

// Rest changes nothing: whoever serves has the socket.
func (l *shared) Rest(int) error { return nil }

// hear takes back refuse.
func (l *shared) hear(fd int) error {
	return errors.Join(detachFilter(fd), l.at.hear(fd))
}

// Unite changes nothing: all slots are one socket as it is.
func (l *shared) Unite(slots ...int) error {
	return l.locked("unite slots of", func() error { return nil })
}

// Sharing is every slot.
func (l *shared) Sharing(slot int) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.slots[slot] {
		return nil
	}
	return slices.Sorted(maps.Keys(l.slots))
}

// FD leaves O_NONBLOCK alone: it belongs to the open file description, and so
// to every worker that holds it.
func (l *shared) FD(slot int) (fd int, err error) {
	fd = -1
	err = l.with(slot, "descriptor of", func() error {
		fd = l.only.fd
		return nil
	})
	return fd, err
}

// Number is FD, which changes nothing here.
func (l *shared) Number(slot int) (int, error) { return l.FD(slot) }

func (l *shared) Inode(slot int) (inode uint64, err error) {
	err = l.with(slot, "inode of", func() error {
		inode = l.only.inode
		return nil
	})
	return inode, err
}

func (l *shared) Pending(slot int) (p Pending, err error) {
	err = l.with(slot, "queue of", func() (err error) {
		p, err = l.pending(l.only.fd)
		return err
	})
	return p, err
}

func (l *shared) Refuse(slots ...int) error {
	return l.locked("refuse on", func() error {
		for _, slot := range slots {
			if !l.slots[slot] {
				return fmt.Errorf("slot %d: %w", slot, ErrNoSlot)
			}
		}
		if len(slots) == 0 || l.refused {
			return nil
		}
		l.refused = true
		return l.refuse(l.only.fd)
	})
}

// refuse drops what would begin anew and nothing else, where the uid may set a
// filter; else the socket goes deaf, and a handshake then half open is lost.
func (l *shared) refuse(fd int) error {
	if l.at.stream {
		if err := attachFilter(fd, dropSYN()); !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return l.at.deafen(fd)
}

func (l *shared) Steer(table []Share) error {
	return l.locked("steer", func() error {
		return checkTable(table, func(slot int) bool { return l.slots[slot] })
	})
}

// Maintain replaces a socket that no longer listens, which concerns every
// slot, and restores the backlog of one that does.
func (l *shared) Maintain() error {
	l.found.flush()
	return l.locked("maintain", func() error {
		if !l.at.stream {
			return nil
		}
		state, err := tcpListening(l.only.fd)
		switch {
		case err != nil:
			return err
		case !state.on:
			return l.replace()
		case state.backlog != l.only.backlog:
			err := l.open(l.only)
			if err == nil && !l.told {
				l.told = true // once: some programs call listen at every start
				l.found.post(Adjusted, notSlot, fmt.Sprintf("the backlog had been set to %d, and is %d again",
					state.backlog, l.only.backlog))
			}
			return err
		}
		return nil
	})
}

// replace binds a fresh socket beside the broken one, which SO_REUSEADDR on
// both allows as long as only one listens, and gives it the same descriptor.
func (l *shared) replace() error {
	at := l.at
	fd, err := bindFirst(&at, func(int) error { return nil })
	if err != nil {
		return err
	}
	l.made++
	m := &member{fd: fd, number: l.made, slot: notSlot}
	err = l.open(m)
	if err == nil {
		err = unix.SetNonblock(fd, l.o.NonBlocking)
	}
	if err == nil && l.refused {
		err = l.refuse(fd)
	}
	if err == nil {
		err = l.watch.remove(l.only.fd)
	}
	if err == nil {
		err = unix.Dup3(fd, l.only.fd, unix.O_CLOEXEC)
	}
	unix.Close(fd) // either a duplicate now, or of no use
	if err != nil {
		return fmt.Errorf("replace socket: %w", err)
	}
	m.fd = l.only.fd
	l.only = m
	for slot := range l.slots {
		l.found.post(Broken, slot, "the socket all slots share was shut down or disconnected")
	}
	return l.watch.add(m.fd)
}

// Probe connects until the worker that owner knows was the one to accept.
func (l *shared) Probe(ctx context.Context, slot int, owner func(inode uint64) bool) error {
	return l.probe(ctx, slot, "probe", l.prober(owner))
}

var errDeferred = fmt.Errorf("%w before a request: TCP_DEFER_ACCEPT is set", ErrNoProof)

// Dial is Probe that keeps the connection. Where the worker has
// TCP_DEFER_ACCEPT it will not accept before a request has come, and none can be
// sent before it is known who accepts.
func (l *shared) Dial(ctx context.Context, slot int, owner func(inode uint64) bool) (net.Conn, error) {
	if l.at.stream && l.defers() {
		return nil, l.fail("dial", errDeferred)
	}
	p := l.prober(owner)
	return p.dial(func() error { return l.probe(ctx, slot, "dial", p) })
}

// probe lets p run, from each address that may do.
func (l *shared) probe(ctx context.Context, slot int, doing string, p *prober) error {
	if !l.at.stream || p.owner == nil {
		return l.fail(doing, ErrNoProof)
	}
	err := l.with(slot, doing, func() error {
		l.probes.Add(1)
		return nil
	})
	if err != nil {
		return err
	}
	defer l.probes.Done()
	for _, p.origin = range l.origins {
		// An address the machine does not have fails at once, the other one may do.
		if err = p.run(ctx, slot); !unavailable(err) {
			return err
		}
	}
	return err
}

func (l *shared) prober(owner func(inode uint64) bool) *prober {
	return &prober{base: &l.base, done: l.done, hold: l.hold, owner: owner, volleys: true, defers: l.defers, full: l.full}
}

func (l *shared) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && queueFull(l.only.fd)
}

// hold keeps Close waiting until let is called.
func (l *shared) hold() (let func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false
	}
	l.probes.Add(1)
	return l.probes.Done, true
}

func (l *shared) defers() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && defersAccept(l.only.fd)
}

func (l *shared) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.done)
	l.mu.Unlock()

	l.watch.close()
	l.probes.Wait()
	if l.only.foreign != nil && l.refused {
		_ = l.hear(l.only.fd) // that would be for the next Adopt to do
	}
	unix.Close(l.only.fd) // the connections still queued end here, as Close says
	l.found.close()
	return nil
}

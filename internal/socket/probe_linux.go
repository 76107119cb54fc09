package socket

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// prober connects until a worker has accepted. A connection waiting in the
// accept queue has inode 0 in sock_diag; any other inode is given by accept
// alone (sock_graft), so it is proof, and needs nothing from the worker.
type prober struct {
	*base
	origin  netip.Addr
	done    <-chan struct{}              // the listener is closing
	hold    func() (let func(), ok bool) // Close waits until let; false once it has begun
	isolate isolator                     // nil: the connection may go anywhere
	volleys bool                         // others may accept: where one connection was in vain, make several
	landing bool                         // no acceptance is waited for: it is enough that the handshake is the slot's
	owner   func(inode uint64) bool      // nil: any acceptance will do
	defers  func() bool                  // the slot has TCP_DEFER_ACCEPT
	full    func() bool                  // the slot's accept queue is, so that no connection can be made
	gone    func(from netip.AddrPort)    // told that it is not; or nil
	keep    keeper                       // takes the connection over; nil: it is closed
}

type (
	// isolator lets what comes from from go to the slot until release. left is to be
	// called of a connection that may still be queued there.
	isolator func(from netip.AddrPort) (release, left func(), err error)
	// keeper takes a connection over; left is the isolator's, or nil.
	keeper func(fd int, from netip.AddrPort, left func()) error
)

const (
	firstLook = time.Millisecond // then doubling
	lastLook  = 10 * time.Millisecond
	// patience with one connection that is not even established: a full accept
	// queue lets the SYN be repeated at ever longer intervals, a new one is sooner.
	patience = time.Second
	// ownerPatience is for the time between accept and the descriptor that
	// shows in /proc, and for the reading of /proc itself.
	ownerPatience = 50 * time.Millisecond
	// partingPatience is how long a worker may take to close the probe's
	// connection, so that no reset disturbs it.
	partingPatience = time.Second
	// partingBytes is how much a worker that still sends may send meanwhile.
	partingBytes = 1 << 20
	// courtesy is how long a worker that was talked to may take to close first,
	// as it does after an answer with Connection: close. Whoever closes first
	// keeps the pair of ports in TIME_WAIT.
	courtesy = 100 * time.Millisecond
)

// errAgain: the connection was reset, taken by another, or not answered, which
// is no proof either way.
var errAgain = errors.New("no proof either way")

func (p *prober) run(ctx context.Context, slot int) error {
	pause := firstLook
	for tries := 0; ; tries++ {
		n := 1
		if p.volleys {
			n = volleySize(tries)
		}
		err := volley(ctx, n, p.attempt)
		if err == nil {
			return nil
		}
		if errors.Is(err, errAgain) {
			err = p.sleep(ctx, time.Duration(n)*pause)
			pause = min(2*pause, lastLook)
		}
		if err != nil {
			what := "no connection was accepted"
			if p.landing {
				what = "no connection came about"
			}
			return p.end(ctx, slot, what, err)
		}
	}
}

// end is the error of a prober that gives up.
func (p *prober) end(ctx context.Context, slot int, what string, err error) error {
	doing := "probe"
	if p.keep != nil {
		doing = "dial"
	}
	switch {
	case ctx.Err() == nil:
	case p.full():
		err = fmt.Errorf("%s: %w: %w", what, ErrQueueFull, ctx.Err())
	default:
		err = fmt.Errorf("%s: %w", what, ctx.Err())
	}
	return p.fail(fmt.Sprintf("%s slot %d of", doing, slot), err)
}

func (p *prober) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.done:
		return ErrClosed
	}
}

// attempt makes one connection, watches it, and keeps or closes it.
func (p *prober) attempt(ctx context.Context) error {
	fd, from, reused, err := p.ports.client(p.at, p.origin)
	if err != nil {
		return err
	}
	left, err := p.connect(ctx, fd, from)
	if reused && errors.Is(err, unix.EADDRNOTAVAIL) {
		unix.Close(fd) // the last connection between these ports is not over for the kernel
		return errAgain
	}
	if err == nil && p.keep != nil {
		return p.keep(fd, from, left)
	}
	p.part(fd, from, 0)
	return err
}

// connect lets the connection begin, isolated where that is asked for, and
// returns nil when it is proof. Until it returns the rule that isolates it stays:
// with SYN cookies the slot is chosen when the handshake ends, not before.
func (p *prober) connect(ctx context.Context, fd int, from netip.AddrPort) (left func(), err error) {
	if p.isolate != nil {
		var release func()
		if release, left, err = p.isolate(from); err != nil {
			return nil, err
		}
		defer release()
	}
	to, err := p.at.reach(p.origin)
	if err != nil {
		return nil, err
	}
	err = unix.Connect(fd, to)
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil, errAgain
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, fmt.Errorf("connect from %s: %w", from, err)
	}
	err = p.await(ctx, fd, from)
	if left != nil && err != nil {
		left()
	}
	return left, err
}

// await looks at the connection from both ends until it is proof, or never will be.
func (p *prober) await(ctx context.Context, fd int, from netip.AddrPort) error {
	began, wait, asked := time.Now(), firstLook, false
	var taken time.Time // when somebody's acceptance was first seen
	for {
		state, err := observe(fd)
		if err != nil {
			return err
		}
		switch {
		case state == reset, state == connecting && time.Since(began) > patience:
			return errAgain
		case state == answered && p.owner == nil:
			return nil
		}
		if state == open && !asked && p.keep == nil && p.defers() {
			asked = true
			// An error shows at the next look.
			_, _ = unix.Write(fd, []byte("GET / HTTP/1.0\r\n\r\n"))
		}
		s, ok, err := diag.Get(unix.IPPROTO_TCP, p.at.target(p.origin), from)
		if err != nil {
			return err
		}
		switch {
		case ok && p.landing && state != connecting:
			return nil // the other end exists, and so has its slot
		case !ok && p.landing && time.Since(began) > patience:
			return errAgain // a SYN cookie whose ACK found the queue full
		case ok && s.Inode != 0 && (p.owner == nil || p.owner(s.Inode)), ok && s.Orphaned() && p.owner == nil:
			return nil
		case ok && s.Inode != 0 && taken.IsZero():
			taken = time.Now()
		case ok && s.Orphaned(), state == answered && (!ok || s.Inode == 0):
			return errAgain // closed before its owner could be told
		case !taken.IsZero() && time.Since(taken) > ownerPatience:
			return errAgain // another took it
		}
		if err := p.sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, lastLook)
	}
}

// clientState is the probe's own end of the connection.
type clientState int

const (
	connecting clientState = iota
	open
	answered // data or the end of it came, which nobody sends who has not accepted
	reset
)

func observe(fd int) (clientState, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return reset, fmt.Errorf("read TCP_INFO: %w", err)
	}
	switch info.State {
	case unix.BPF_TCP_SYN_SENT:
		return connecting, nil
	case unix.BPF_TCP_CLOSE:
		return reset, nil
	}
	var b [1]byte
	_, _, err = unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == nil:
		return answered, nil
	case errors.Is(err, unix.EAGAIN):
		return open, nil
	}
	return reset, nil
}

// part closes a connection of ours, in a goroutine of its own, and gives its
// port back. The goroutine ends when the worker has closed its side too, after
// partingPatience and what it is given to close first, or with the listener.
func (p *prober) part(fd int, from netip.AddrPort, first time.Duration) {
	if s, err := observe(fd); err != nil || s == connecting || s == reset {
		unix.Close(fd) // there is no connection to part from
		return
	}
	let, ok := p.hold()
	if !ok {
		unix.Close(fd) // a listener that closes waits for nobody's goodbye
		return
	}
	go func() {
		defer let()
		if !goodbye(fd, p.done, first) {
			return
		}
		if p.gone != nil {
			p.gone(from)
		}
		p.ports.give(from.Port())
	}()
}

// goodbye closes fd without a reset: it says that nothing more will come, at
// once or when the other end has not closed within first, waits until it has,
// and reads what it still sends. It tells whether the other end has closed.
func goodbye(fd int, done <-chan struct{}, first time.Duration) bool {
	defer unix.Close(fd) // whatever it says, the connection is over
	began, said, read := time.Now(), false, 0
	tick := time.NewTicker(lastLook)
	defer tick.Stop()
	buf := make([]byte, 16<<10)
	for read < partingBytes {
		if !said && time.Since(began) >= first {
			said = true
			if unix.Shutdown(fd, unix.SHUT_WR) != nil {
				return false // reset
			}
		}
		n, err := unix.Read(fd, buf)
		switch {
		case n == 0 && err == nil:
			return true
		case err == nil:
			read += n
			continue
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR), time.Since(began) > first+partingPatience:
			return false
		}
		select {
		case <-tick.C:
		case <-done:
			return false
		}
	}
	return false
}

// queueFull tells whether the kernel drops what would begin a connection: with
// more queued than the backlog (sk_acceptq_is_full in include/net/sock.h).
func queueFull(fd int) bool {
	l, err := tcpListening(fd)
	return err == nil && l.on && l.queued > l.backlog
}

func defersAccept(fd int) bool {
	v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT)
	return err == nil && v > 0
}

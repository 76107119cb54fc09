package socket

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
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
	done    <-chan struct{}                                       // the listener is closing
	running *sync.WaitGroup                                       // what Close waits for; the caller has added itself
	isolate func(from netip.AddrPort) (release func(), err error) // nil: the connection may go anywhere
	owner   func(inode uint64) bool                               // nil: any acceptance will do
	defers  func() bool                                           // the slot has TCP_DEFER_ACCEPT
	left    func(from netip.AddrPort)                             // told of a connection that may still be queued; or nil
}

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
)

// verdict is what became of one connection.
type verdict int

const (
	accepted verdict = iota
	again            // reset, taken by another, or not answered: no proof either way
)

func (p *prober) run(ctx context.Context, slot int) error {
	pause := firstLook
	for {
		v, err := p.attempt(ctx)
		if err == nil && v == accepted {
			return nil
		}
		if err == nil {
			err = p.sleep(ctx, pause)
			pause = min(2*pause, lastLook)
		}
		if err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("no connection was accepted: %w", ctx.Err())
			}
			return p.fail(fmt.Sprintf("probe slot %d of", slot), err)
		}
	}
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

// attempt makes one connection and watches it.
func (p *prober) attempt(ctx context.Context) (verdict, error) {
	fd, from, err := p.at.client(p.origin)
	if err != nil {
		return again, err
	}
	defer p.part(fd)
	if p.isolate != nil {
		release, err := p.isolate(from)
		if err != nil {
			return again, err
		}
		defer release()
	}
	to, err := p.at.reach(p.origin)
	if err != nil {
		return again, err
	}
	err = unix.Connect(fd, to)
	if errors.Is(err, unix.ECONNREFUSED) {
		return again, nil
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return again, fmt.Errorf("connect from %s: %w", from, err)
	}
	v, err := p.await(ctx, fd, from)
	if p.left != nil && (err != nil || v != accepted) {
		p.left(from)
	}
	return v, err
}

// await looks at the connection from both ends until there is a verdict.
func (p *prober) await(ctx context.Context, fd int, from netip.AddrPort) (verdict, error) {
	began, wait, asked := time.Now(), firstLook, false
	var taken time.Time // when somebody's acceptance was first seen
	for {
		state, err := observe(fd)
		if err != nil {
			return again, err
		}
		switch {
		case state == reset, state == connecting && time.Since(began) > patience:
			return again, nil
		case state == answered && p.owner == nil:
			return accepted, nil
		}
		if state == open && !asked && p.defers() {
			asked = true
			// An error shows at the next look.
			_, _ = unix.Write(fd, []byte("GET / HTTP/1.0\r\n\r\n"))
		}
		s, ok, err := diag.Get(unix.IPPROTO_TCP, p.at.target(p.origin), from)
		if err != nil {
			return again, err
		}
		switch {
		case ok && s.Inode != 0 && (p.owner == nil || p.owner(s.Inode)), ok && s.Orphaned() && p.owner == nil:
			return accepted, nil
		case ok && s.Inode != 0 && taken.IsZero():
			taken = time.Now()
		case ok && s.Orphaned(), state == answered && (!ok || s.Inode == 0):
			return again, nil // closed before its owner could be told
		case !taken.IsZero() && time.Since(taken) > ownerPatience:
			return again, nil // another took it
		}
		if err := p.sleep(ctx, wait); err != nil {
			return again, err
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

// part closes the probe's connection without a reset: it says that nothing
// more will come and waits, in a goroutine of its own, until the worker has
// closed its side too. The goroutine ends after partingPatience or with the
// listener.
func (p *prober) part(fd int) {
	if s, err := observe(fd); err != nil || s == connecting || s == reset || unix.Shutdown(fd, unix.SHUT_WR) != nil {
		unix.Close(fd) // there is no connection to part from
		return
	}
	p.running.Add(1)
	go func() {
		defer p.running.Done()
		defer unix.Close(fd) // whatever it says, the connection is over
		ctx, cancel := context.WithTimeout(context.Background(), partingPatience)
		defer cancel()
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(fd, buf)
			if n == 0 && err == nil || err != nil && !errors.Is(err, unix.EAGAIN) {
				return
			}
			if err != nil && p.sleep(ctx, lastLook) != nil {
				return
			}
		}
	}()
}

func defersAccept(fd int) bool {
	v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT)
	return err == nil && v > 0
}

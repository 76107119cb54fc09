package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// Nothing tells a client that it was accepted, so Probe asks, at first often.
const (
	probePause    = time.Millisecond
	maxProbePause = 20 * time.Millisecond
)

// unixEnded is RCV_SHUTDOWN (include/net/sock.h): nothing more will come, as when
// the other end is closed.
const unixEnded = 1

// Pending is the length of the accept queue. Who connected and left again
// before being accepted still counts.
func (l *unixListener) Pending(number int) (Pending, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.slot(number)
	if err != nil {
		return Pending{}, l.fail("queue of", err)
	}
	// Asking sock_diag takes longer the more unix sockets the machine has.
	if idle(s.fd) {
		return Pending{}, nil
	}
	d, ok, err := diag.UnixListening(s.inode)
	if err == nil && !ok {
		err = fmt.Errorf("slot %d does not listen", number)
	}
	var given int
	if err == nil {
		given, err = s.unaccepted()
	}
	if err != nil {
		return Pending{}, l.fail("queue of", err)
	}
	return Pending{Queued: max(int(d.RQueue)-given, 0)}, nil
}

// idle tells that a listening socket has an empty queue.
func idle(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 0
}

// unaccepted counts the connections of given-up probes that are still in the
// slot's queue, and closes the others. They were kept open until now because
// the kernel tells nothing of a queued connection whose client has closed.
func (s *unixSlot) unaccepted() (int, error) {
	var still []givenUp
	for _, g := range s.given {
		client, err := socketInode(g.fd)
		if err != nil {
			return 0, err
		}
		d, err := seen(client)
		if err != nil {
			return 0, err
		}
		if d.Peer == 0 && d.Shutdown&unixEnded == 0 {
			still = append(still, g)
		}
	}
	for _, g := range s.given {
		if !slices.Contains(still, g) {
			unix.Close(g.fd) // it carried nothing
		}
	}
	s.given = still
	return len(still), nil
}

// forget closes what probes have left.
func (s *unixSlot) forget() {
	for _, g := range s.given {
		unix.Close(g.fd) // it carried nothing
	}
	s.given = nil
}

// HalfOpen is empty: connect(2) queues the connection or fails.
func (l *unixListener) HalfOpen() (Handshakes, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, l.fail("half-open handshakes of", ErrClosed)
	}
	return nil, nil
}

// Remaining is 0, for there were none.
func (l *unixListener) Remaining(Handshakes) (int, error) {
	_, err := l.HalfOpen()
	return 0, err
}

// Connections finds the listener's by the name that accepted sockets have from
// the listening one. One that the client has closed counts until the worker
// closes it too.
func (l *unixListener) Connections(owner func(inode uint64) bool) (int, error) {
	l.mu.Lock()
	closed := l.closed
	bound := make(map[string]bool, len(l.bound))
	for name := range l.bound {
		bound[name] = true
	}
	l.mu.Unlock()
	if closed {
		return 0, l.fail("connections of", ErrClosed)
	}
	n, err := diag.UnixConnections(func(name string) bool { return bound[name] }, owner)
	if err != nil {
		return 0, l.fail("connections of", err)
	}
	return n, nil
}

// Probe connects through the slot's private link, which nobody else can, so
// that it reaches the slot whether the path leads there or not. The connection
// carries nothing and is closed as soon as it was accepted.
func (l *unixListener) Probe(ctx context.Context, number int, owner func(inode uint64) bool) error {
	return l.insist(ctx, number, "probe", func(ctx context.Context) error {
		fd, inode, err := l.prove(ctx, number, owner)
		if err == nil {
			unix.Close(fd) // it carried nothing
		} else if fd >= 0 {
			l.abandon(ctx, number, inode, fd)
		}
		return err
	})
}

// Dial connects as Probe does and keeps the connection; where the socket is the
// slot's alone, whether it was accepted or waits in the slot's queue.
func (l *unixListener) Dial(ctx context.Context, number int, owner func(inode uint64) bool) (net.Conn, error) {
	several := l.several(number)
	if several && owner == nil {
		return nil, l.fail("dial", ErrNoProof)
	}
	var kept oneConn
	return kept.after(l.insist(ctx, number, "dial", func(ctx context.Context) error {
		var fd int
		var inode uint64
		var err error
		if !several {
			fd, inode, err = l.connect(number)
		} else {
			fd, inode, err = l.prove(ctx, number, owner)
		}
		if err == nil {
			return kept.take(fd, func(fd int) { l.part(number, inode, fd) })
		}
		if fd >= 0 {
			l.abandon(ctx, number, inode, fd)
		}
		return err
	}))
}

// insist repeats try until it succeeds or ctx ends.
func (l *unixListener) insist(ctx context.Context, number int, doing string, try func(ctx context.Context) error) error {
	var last error
	most := 0
	if doing == "dial" {
		most = mostDialed
	}
	pause := probePause
	for tries := 0; ; tries++ {
		n := 1
		if l.several(number) {
			n = volleySize(tries)
		}
		err := l.outlasted(number, most)
		if err == nil {
			err = volley(ctx, n, try)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrClosed) || errors.Is(err, ErrNoSlot):
			return l.fail(doing, err)
		case ctx.Err() == nil:
			last = err
		}
		late := wait(ctx, time.Duration(n)*pause)
		pause = min(2*pause, maxProbePause)
		if late != nil {
			if last != nil {
				late = fmt.Errorf("%w (%w)", late, last)
			}
			return l.fail(fmt.Sprintf("%s slot %d of", doing, number), late)
		}
	}
}

// outlasted is an error while more than most connections of earlier probes are in the
// slot's queue: as for a steered listener's outlast.
func (l *unixListener) outlasted(number, most int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.slot(number)
	if err != nil || len(s.given) <= most {
		return err
	}
	n, err := s.unaccepted()
	if err == nil && n > most {
		err = errors.New("the last probe's connection was not accepted")
		if full(s) {
			err = fmt.Errorf("%w: %w", err, ErrQueueFull)
		}
	}
	return err
}

// full tells whether nobody can connect: with more queued than the backlog
// (unix_recvq_full in net/unix/af_unix.c).
func full(s *unixSlot) bool {
	d, ok, err := diag.UnixListening(s.inode)
	return err == nil && ok && d.RQueue > d.WQueue
}

// prove makes one connection and returns nil when it was accepted, by owner where
// several slots have the socket. The connection stays open while owner looks: a worker closes its end
// as soon as this one is closed, and then nobody owns it. With an error fd is -1,
// or a connection to abandon.
func (l *unixListener) prove(ctx context.Context, number int, owner func(inode uint64) bool) (fd int, inode uint64, err error) {
	if fd, inode, err = l.connect(number); err != nil {
		return -1, 0, err
	}
	accepted, err := acceptance(ctx, fd)
	if err == nil && owner != nil && l.several(number) && !owner(accepted) {
		err = errors.New("accepted by another worker")
	}
	return fd, inode, err
}

// abandon ends what came of a try that failed.
func (l *unixListener) abandon(ctx context.Context, number int, inode uint64, fd int) {
	if ctx.Err() != nil {
		l.giveUp(number, inode, fd)
	} else {
		unix.Close(fd) // it carried nothing
	}
}

// part closes a connection that Dial had returned: in a goroutine of its own, so
// that the worker sees no reset when it still sends, or with the queue it is in.
// The goroutine ends as goodbye does.
func (l *unixListener) part(number int, inode uint64, fd int) {
	client, err := socketInode(fd)
	if err == nil {
		var s diag.UnixSock
		if s, err = seen(client); err == nil && s.Peer == 0 && s.Shutdown&unixEnded == 0 {
			// So that whoever accepts it finds its end; an error, that it has gone.
			_ = unix.Shutdown(fd, unix.SHUT_WR)
			l.giveUp(number, inode, fd)
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		unix.Close(fd) // a listener that closes waits for nobody's goodbye
		return
	}
	l.partings.Go(func() { goodbye(fd, l.done, courtesy) })
}

// acceptance waits until the connection has been accepted.
func acceptance(ctx context.Context, fd int) (uint64, error) {
	client, err := socketInode(fd)
	if err != nil {
		return 0, err
	}
	for pause := probePause; ; pause = min(2*pause, maxProbePause) {
		s, err := seen(client)
		switch {
		case err != nil:
			return 0, err
		case s.Peer != 0:
			return s.Peer, nil
		case s.Shutdown != 0:
			return 0, ended(fd)
		}
		if err := wait(ctx, pause); err != nil {
			return 0, err
		}
	}
}

// giveUp keeps the connection of a probe that was given up, as long as the
// socket it went to is there, so that Pending can leave it out.
func (l *unixListener) giveUp(number int, inode uint64, fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.slot(number)
	if err != nil || s.inode != inode {
		unix.Close(fd) // the queue it was in has gone
		return
	}
	l.count++
	s.given = append(s.given, givenUp{fd: fd, id: l.count})
}

// ended tells how a connection ended that we did not close: accepted and
// closed (nil), or reset with the queue it was in (unix_release_sock in
// net/unix/af_unix.c sets ECONNRESET for what was not accepted).
func ended(fd int) error {
	_, err := unix.Read(fd, make([]byte, 1))
	return err
}

// connect connects to a slot and tells the inode of its socket. It does not
// wait.
func (l *unixListener) connect(number int) (fd int, inode uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.slot(number)
	if err != nil {
		return -1, 0, err
	}
	directory, name, ok := l.whereIs(s)
	if !ok {
		return -1, 0, unix.ENOENT
	}
	fd, err = connectUnix(l.place.dial(directory, name))
	if errors.Is(err, unix.EAGAIN) {
		err = ErrQueueFull
	}
	return fd, s.inode, err
}

// wait returns ctx's error, or nil after the pause.
func wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

package testkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// firstFD is where LISTEN_FDS begins (sd_listen_fds(3)).
const firstFD = 3

// socket is one listening socket of the target. It can stop accepting without
// being closed, which net/http knows no way to do.
type socket struct {
	net.Listener
	fd     int // the descriptor as inherited, kept for abuse; -1 when it was not
	index  int
	greet  bool
	closed chan struct{}
	once   sync.Once
	parked chan struct{} // closed when Accept has seen that it is stopped
	park   sync.Once

	mu      sync.Mutex
	stopped bool
}

// Accept blocks until Close once the socket has been stopped.
func (s *socket) Accept() (net.Conn, error) {
	for {
		s.mu.Lock()
		stopped := s.stopped
		s.mu.Unlock()
		if stopped {
			s.park.Do(func() { close(s.parked) })
			<-s.closed
			return nil, net.ErrClosed
		}
		c, err := s.Listener.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // stop woke it
		}
		if err == nil && s.greet {
			fmt.Printf("generation %s met %s\n", generation(), c.RemoteAddr())
		}
		return c, err
	}
}

func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Listener.Close()
}

// stop ends accepting; the socket stays open and its queue fills. It returns when
// nothing is accepted any more: an accept(2) that was just being made when the
// deadline passed may still take one connection.
func (s *socket) stop() error {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	err := s.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Unix(1, 0))
	if err != nil {
		return err
	}
	select {
	case <-s.parked:
	case <-s.closed:
	}
	return nil
}

// open takes what LISTEN_FDS gives, if it is meant for this process.
func (w *worker) open() error {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		n = 0
	}
	for i := range n {
		if err := w.inherit(i); err != nil {
			return err
		}
	}
	if address, ok := w.behave["listen"]; ok && n == 0 {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		if err != nil {
			return err
		}
		w.add(l, -1)
	}
	if len(w.sockets)+len(w.packets) == 0 {
		return fmt.Errorf("no sockets: LISTEN_FDS=%q LISTEN_PID=%q, and this is %d",
			os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID"), os.Getpid())
	}
	return nil
}

// inherit makes descriptor 3+i a listener, as any program that knows systemd's
// protocol does: net.FileListener has a copy of its own.
func (w *worker) inherit(i int) error {
	fd := firstFD + i
	syscall.CloseOnExec(fd)
	kind, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE)
	if err != nil {
		return fmt.Errorf("descriptor %d: %w", fd, err)
	}
	copied, err := syscall.Dup(fd)
	if err != nil {
		return fmt.Errorf("descriptor %d: %w", fd, err)
	}
	f := os.NewFile(uintptr(copied), "socket")
	defer f.Close()
	if kind == syscall.SOCK_DGRAM {
		p, err := net.FilePacketConn(f)
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
		w.packets = append(w.packets, p)
		return nil
	}
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("descriptor %d: %w", fd, err)
	}
	w.add(l, fd)
	return nil
}

func (w *worker) add(l net.Listener, fd int) {
	s := &socket{Listener: l, fd: fd, index: len(w.sockets), closed: make(chan struct{}), parked: make(chan struct{})}
	if u, ok := l.(*net.UnixListener); ok {
		_, unlink := w.behave["unlink"]
		u.SetUnlinkOnClose(unlink)
	}
	_, s.greet = w.behave["greet"]
	if _, hang := w.behave["hang"]; hang || w.behave["ready"] == "never" {
		s.stopped = true
	}
	w.sockets = append(w.sockets, s)
}

// echo answers each datagram with the pid, a space, and the datagram.
func (w *worker) echo(p net.PacketConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := p.ReadFrom(buffer)
		if err != nil {
			w.fail(err)
			return
		}
		_, _ = p.WriteTo(append(fmt.Appendf(nil, "%d ", os.Getpid()), buffer[:n]...), from) // the client asks again
	}
}

// acceptLoop is the server without shutdown code: it accepts, answers, closes,
// and whatever it holds dies with the process. A serial one holds one at most.
func (w *worker) acceptLoop(s *socket) {
	for {
		c, err := s.Accept()
		if err != nil {
			w.fail(err)
			return
		}
		if w.behave["server"] == "serial" {
			minimal(c)
			continue
		}
		go minimal(c) // ends with its one request
	}
}

// hold does nothing, holding what it was given, for the time its argument says
// or until it is killed.
func hold(args []string) {
	limit := time.Minute
	if len(args) > 0 {
		limit = duration(args[0])
	}
	<-time.After(limit)
	os.Exit(0)
}

// leaveChild starts a process that outlives this one and holds its sockets, its
// output, or both.
func (w *worker) leaveChild() error {
	what, ok := w.behave["child"]
	if !ok {
		return nil
	}
	pid, err := w.spawnHolder(what)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "target: child %d\n", pid)
	return err
}

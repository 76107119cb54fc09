package socket

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// dial lets the prober run and returns the connection it ended with.
func (p *prober) dial(run func() error) (net.Conn, error) {
	var kept oneConn
	p.keep = func(fd int, from netip.AddrPort, left func()) error {
		return kept.take(fd, func(fd int) {
			if s, err := observe(fd); left != nil && err == nil && s == open {
				left() // nothing has come back: it may not be accepted yet
			}
			p.part(fd, from, courtesy)
		})
	}
	return kept.after(run())
}

// oneConn takes the first connection of those made at once.
type oneConn struct {
	mu sync.Mutex
	c  net.Conn
}

// take takes fd over; of a second one it parts at once.
func (o *oneConn) take(fd int, part func(fd int)) (err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.c != nil {
		part(fd)
		return nil
	}
	o.c, err = takeOver(fd, part)
	return err
}

// after is what Dial returns when all tries are over with err.
func (o *oneConn) after(err error) (net.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return o.c, nil
}

// ownConn is a connection of the launcher's own whose end is left to part.
type ownConn struct {
	net.Conn
	part func(fd int) // takes the descriptor over and does not wait
}

// takeOver makes a connection of fd and closes it as part says.
func takeOver(fd int, part func(fd int)) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "probe")
	defer f.Close() // FileConn has a duplicate
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return &ownConn{Conn: c, part: part}, nil
}

// CloseWrite tells the worker that nothing more will come.
func (c *ownConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("close %s for writing: %w", c.RemoteAddr().Network(), unix.EOPNOTSUPP)
	}
	return half.CloseWrite()
}

// Close ends all use of the connection at once; the goodbye takes its time on a
// duplicate of the descriptor.
func (c *ownConn) Close() error {
	fd, err := duplicateOf(c.Conn)
	if err == nil {
		defer c.part(fd)
	}
	return c.Conn.Close() // with no duplicate to be had, this is the goodbye
}

func duplicateOf(c net.Conn) (fd int, err error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	var dup error
	err = raw.Control(func(of uintptr) { fd, dup = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(err, dup)
}

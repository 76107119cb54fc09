package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ports are those that connections of the launcher's own came from and that may
// serve again. A port that was bound is no user's for as long as one of its
// connections is in TIME_WAIT: connect(2) chooses none that anybody has bound,
// whatever the address. So a probe each second and worker, each from a new port,
// would take thousands of them away; but the kernel lets a connection over
// loopback follow one in TIME_WAIT between the same ports after a second
// (tcp_tw_reuse, tcp_twsk_unique in net/ipv4/tcp_ipv4.c). Where it does not, each
// connection has a new port.
type ports struct {
	mu   sync.Mutex
	rest []port // the one that has rested longest first
}

type port struct {
	number uint16
	since  time.Time
}

const (
	portRest = 1100 * time.Millisecond // beyond the kernel's second
	portLife = time.Minute             // then TIME_WAIT is over, and the port anybody's
)

// give says that the connection from the port is over at both ends.
func (p *ports) give(number uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, port{number: number, since: time.Now()})
}

// take returns a port that may serve again, or 0.
func (p *ports) take() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = slices.DeleteFunc(p.rest, func(q port) bool { return time.Since(q.since) > portLife })
	if len(p.rest) == 0 || time.Since(p.rest[0].since) < portRest {
		return 0
	}
	number := p.rest[0].number
	p.rest = p.rest[1:]
	return number
}

// client makes a socket bound to origin and a port that nobody else has; reused
// tells that it is not a new one. SO_REUSEPORT lets it follow our own last
// connection from there. The kernel's choice of a new port does not share
// (inet_csk_find_open_port), and of others only a process of the same user that
// asks for this very port could.
func (p *ports) client(e endpoint, origin netip.Addr) (fd int, from netip.AddrPort, reused bool, err error) {
	if number := p.take(); number != 0 {
		fd, from, err = e.clientAt(origin, number)
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return fd, from, true, err
		}
	}
	fd, from, err = e.clientAt(origin, 0)
	return fd, from, false, err
}

// clientAt makes a socket bound to origin and the port, one of the kernel's
// choice when it is 0.
func (e endpoint) clientAt(origin netip.Addr, number uint16) (fd int, from netip.AddrPort, err error) {
	c := e.from(origin, number)
	if fd, err = c.socket(); err != nil {
		return -1, from, err
	}
	err = reusePort(fd, 1)
	if err == nil {
		err = c.bind(fd)
	}
	if err == nil {
		from, err = boundTo(fd)
	}
	if err != nil {
		unix.Close(fd) // nothing was sent; close of a fresh socket tells nothing more
		return -1, from, fmt.Errorf("bind %s: %w", netip.AddrPortFrom(origin, number), err)
	}
	return fd, netip.AddrPortFrom(origin, from.Port()), nil
}

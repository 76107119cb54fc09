package socket

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

func listenInet(ctx context.Context, a Address, o Options) (Listener, error) {
	candidates, err := endpoints(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", a.endpoint(), err)
	}
	var l Listener
	for _, at := range candidates {
		if o.Shared {
			l, err = listenShared(a, at, o, `steering = "off"`)
		} else {
			l, err = listenSteered(a, at, o)
		}
		if !unavailable(err) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", a.endpoint(), explain(err, candidates[0]))
	}
	return l, nil
}

// bindFirst makes the socket that claims the address and fills in the port the
// kernel chose. It binds without SO_REUSEPORT, so that a port in use is
// EADDRINUSE, also where the other is a launcher like this one. before is done
// to the socket just before it is bound.
func bindFirst(at *endpoint, before func(fd int) error) (int, error) {
	fd, err := at.socket()
	if err != nil {
		return -1, err
	}
	err = at.prepare(fd)
	if err == nil {
		err = before(fd)
	}
	if err == nil {
		err = at.bind(fd)
	}
	var bound netip.AddrPort
	if err == nil {
		bound, err = boundTo(fd)
	}
	if err != nil {
		unix.Close(fd) // a socket that did not come to be has nothing to lose
		return -1, err
	}
	at.port = bound.Port()
	return fd, nil
}

// prepare sets what must be set before bind. SO_REUSEADDR lets a tcp listener
// bind over connections in TIME_WAIT; on udp it would let others steal the port.
func (e endpoint) prepare(fd int) error {
	if e.family() == unix.AF_INET6 {
		only := 1
		if e.dual {
			only = 0
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return fmt.Errorf("set IPV6_V6ONLY: %w", err)
		}
	}
	if e.stream {
		return reuseAddress(fd)
	}
	return nil
}

func reuseAddress(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	return nil
}

// bind returns the bare cause: the callers' "listen tcp :80" says the rest.
func (e endpoint) bind(fd int) error {
	sa, err := e.sockaddr(e.target(e.addr))
	if err != nil {
		return err
	}
	return unix.Bind(fd, sa)
}

func reusePort(fd int, on int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, on); err != nil {
		return fmt.Errorf("set SO_REUSEPORT: %w", err)
	}
	return nil
}

// explain adds to EADDRINUSE who holds the port, where that can be told.
func explain(err error, at endpoint) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	if who := holder(at); who != "" {
		return fmt.Errorf("%w (held by %s)", err, who)
	}
	return err
}

package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// endpoint is one address that sockets bind to, in the kernel's terms.
type endpoint struct {
	stream bool
	addr   netip.Addr // with a zone where link-local
	port   uint16
	dual   bool // IPv6 socket that takes IPv4 too
}

// endpoints resolves a to what may be bound, best first; a later one is meant
// only for a machine that cannot have the one before.
func endpoints(ctx context.Context, a Address) ([]endpoint, error) {
	base := endpoint{stream: a.stream(), port: uint16(a.Port)}
	at := func(addr netip.Addr) endpoint {
		e := base
		e.addr = addr
		e.dual = addr == netip.IPv6Unspecified() && !strings.HasSuffix(a.Network, "6")
		return e
	}
	if a.Host == "" {
		switch a.Network[len(a.Network)-1] {
		case '4':
			return []endpoint{at(netip.IPv4Unspecified())}, nil
		case '6':
			return []endpoint{at(netip.IPv6Unspecified())}, nil
		}
		return []endpoint{at(netip.IPv6Unspecified()), at(netip.IPv4Unspecified())}, nil
	}
	if ip, err := netip.ParseAddr(a.Host); err == nil {
		return []endpoint{at(ip)}, nil
	}
	ip, err := lookup(ctx, a)
	if err != nil {
		return nil, err
	}
	return []endpoint{at(ip)}, nil
}

// lookup resolves a host name, IPv4 first where both would do, as package net
// does for a listener.
func lookup(ctx context.Context, a Address) (netip.Addr, error) {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", a.Host)
	if err != nil {
		return netip.Addr{}, err
	}
	var v6 netip.Addr
	for _, ip := range ips {
		ip = ip.Unmap()
		if ip.Is4() && !strings.HasSuffix(a.Network, "6") {
			return ip, nil
		}
		if ip.Is6() && !strings.HasSuffix(a.Network, "4") && !v6.IsValid() {
			v6 = ip
		}
	}
	if !v6.IsValid() {
		return netip.Addr{}, fmt.Errorf("%s has no address for %s", a.Host, a.Network)
	}
	return v6, nil
}

// unavailable tells whether err means that the machine lacks the family.
func unavailable(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

func (e endpoint) family() int {
	if e.addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (e endpoint) protocol() int {
	if e.stream {
		return unix.IPPROTO_TCP
	}
	return unix.IPPROTO_UDP
}

// socket makes an unbound socket of the endpoint's kind. The protocol is named
// so that it is never MPTCP, which refuses steering programs.
func (e endpoint) socket() (int, error) {
	kind := unix.SOCK_STREAM
	if !e.stream {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(e.family(), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, e.protocol())
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	return fd, nil
}

// sockaddr is ap for the system calls of a socket of the endpoint's family.
func (e endpoint) sockaddr(ap netip.AddrPort) (unix.Sockaddr, error) {
	if e.family() == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().Unmap().As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	if zone := ap.Addr().Zone(); zone != "" {
		id, err := zoneID(zone)
		if err != nil {
			return nil, err
		}
		sa.ZoneId = id
	}
	return sa, nil
}

func zoneID(zone string) (uint32, error) {
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index), nil
	}
	n, err := strconv.ParseUint(zone, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("no network interface %q", zone)
	}
	return uint32(n), nil
}

// origins are the addresses from which the endpoint can be reached without
// leaving the machine, each both source and destination, best first.
func (e endpoint) origins() []netip.Addr {
	loop4, loop6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	switch {
	case !e.addr.IsUnspecified():
		return []netip.Addr{e.addr}
	case e.dual:
		return []netip.Addr{loop6, loop4}
	case e.addr.Is6():
		return []netip.Addr{loop6}
	}
	return []netip.Addr{loop4}
}

// from is the endpoint's like at origin, for a client that is to reach it.
func (e endpoint) from(origin netip.Addr, port uint16) endpoint {
	return endpoint{stream: e.stream, addr: origin, port: port}
}

// client makes a socket bound to origin and a port of the kernel's choice.
func (e endpoint) client(origin netip.Addr) (fd int, from netip.AddrPort, err error) {
	c := e.from(origin, 0)
	if fd, err = c.socket(); err != nil {
		return -1, from, err
	}
	if err = c.bind(fd); err == nil {
		from, err = boundTo(fd)
	}
	if err != nil {
		unix.Close(fd) // nothing was sent; close of a fresh socket tells nothing more
		return -1, from, fmt.Errorf("bind %s: %w", origin, err)
	}
	return fd, netip.AddrPortFrom(origin, from.Port()), nil
}

// lasting is client with a port that outlives a disconnect, which the kernel
// grants only to one that was asked for by number.
func (e endpoint) lasting(origin netip.Addr) (int, netip.AddrPort, error) {
	first, from, err := e.client(origin)
	if err != nil {
		return -1, from, err
	}
	defer unix.Close(first) // it only chose the port
	c := e.from(origin, from.Port())
	fd, err := c.socket()
	if err != nil {
		return -1, from, err
	}
	err = reuseAddress(first)
	if err == nil {
		err = reuseAddress(fd)
	}
	if err == nil {
		err = c.bind(fd)
	}
	if err != nil {
		unix.Close(fd) // nothing was sent
		return -1, from, fmt.Errorf("bind %s: %w", from, err)
	}
	return fd, from, nil
}

// reach is where a client from origin connects to.
func (e endpoint) reach(origin netip.Addr) (unix.Sockaddr, error) {
	return e.from(origin, 0).sockaddr(e.target(origin))
}

// target is where a client from origin connects to.
func (e endpoint) target(origin netip.Addr) netip.AddrPort {
	return netip.AddrPortFrom(origin, e.port)
}

// boundTo is getsockname, without the zone.
func boundTo(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("getsockname: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, errors.New("getsockname: not an internet address")
}

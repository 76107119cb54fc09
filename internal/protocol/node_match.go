package protocol

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nodeAsk is what a worker wants to listen on: one listen() or bind() of its
// program.
type nodeAsk struct {
	class   string // tcp, udp, unix, or fd
	address string // "": none given; the path of a unix socket
	port    int
	family  int // 4 or 6, of tcp and udp
	only6   bool
	fd      int
	index   int
}

// uvIPv6Only is UV_TCP_IPV6ONLY and UV_UDP_IPV6ONLY (libuv, uv.h).
const uvIPv6Only = 1

// ask reads a queryServer.
func (m *nodeMessage) ask() (nodeAsk, error) {
	a := nodeAsk{index: m.Index, only6: m.Flags&uvIPv6Only != 0, fd: -1}
	if m.Address != nil {
		a.address = *m.Address
	}
	if m.FD != nil && *m.FD >= 0 { // dgram says -1 when it has none
		a.class, a.fd = "fd", *m.FD
		return a, nil
	}
	if m.Port == nil {
		return a, fmt.Errorf("asks for neither a port nor a descriptor")
	}
	a.port = *m.Port
	switch m.AddressType {
	case 4.0:
		a.class, a.family = "tcp", 4
	case 6.0:
		a.class, a.family = "tcp", 6
	case "udp4":
		a.class, a.family = "udp", 4
	case "udp6":
		a.class, a.family = "udp", 6
	case -1.0:
		a.class, a.port = "unix", 0
		if a.address == "" || strings.ContainsRune(a.address, 0) {
			return a, fmt.Errorf("asks for a unix socket without a path")
		}
		return a, nil
	default:
		return a, fmt.Errorf("asks for an address of unknown type %v", m.AddressType)
	}
	if a.port < 0 || a.port > 65535 {
		return a, fmt.Errorf("asks for port %d", a.port)
	}
	return a, nil
}

// String is how a listener's address is written: ":3000", "127.0.0.1:53/udp",
// "/run/app.sock", "descriptor 3".
func (a nodeAsk) String() string {
	switch a.class {
	case "fd":
		return fmt.Sprintf("descriptor %d", a.fd)
	case "unix":
		return harmless(a.address)
	case "udp":
		return harmless(a.hostPort()) + "/udp"
	}
	return harmless(a.hostPort())
}

func (a nodeAsk) hostPort() string { return net.JoinHostPort(a.address, strconv.Itoa(a.port)) }

// listener is how the address would be written in the configuration.
func (a nodeAsk) listener() string {
	network, address := a.network()
	return harmless(network + "://" + address)
}

// network and address are what the program means, in the words of package net. A
// program that names no host gets all of both families, as from node itself; and
// so does one that names ::, unless it asks for IPv6 only.
func (a nodeAsk) network() (network, address string) {
	switch {
	case a.class == "unix":
		return "unix", a.address
	case a.family == 4 && a.address != "":
		return a.class + "4", a.hostPort()
	case a.family == 6 && a.only6:
		return a.class + "6", a.hostPort()
	}
	return a.class, a.hostPort()
}

// same is equal for workers that ask for the same: node's own primary keeps shared
// data by it, and tells apart those who ask for any port.
func (a nodeAsk) same() string {
	s := fmt.Sprintf("%s %s %d %d", a.class, a.hostPort(), a.family, a.fd)
	if a.port == 0 && a.class != "unix" {
		s += fmt.Sprintf(" %d", a.index)
	}
	return s
}

// nodeSocket is a worker's socket as node's questions are matched to it.
type nodeSocket struct {
	Socket
	own   int            // the launcher's private duplicate; -1: none
	bound netip.AddrPort // of tcp and udp; not valid if it cannot be told
	lent  bool           // the worker has it, and has not closed it
}

func (s *nodeSocket) class() string { return strings.TrimRight(s.Network, "46") }

// look asks the kernel where the socket is bound.
func (s *nodeSocket) look() {
	sa, err := unix.Getsockname(s.own)
	if err != nil {
		return // then only its number can be asked for
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		s.bound = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		s.bound = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
}

// fit says how well the socket is what is asked for; 0: it is not.
//
// A program may ask for an address that is narrower than the listener's, or wider:
// the configuration decides, so the port is what must be equal. But two different
// addresses of this machine are two sockets. "localhost" comes as 127.0.0.1 or as
// ::1, as the resolver likes: either is the other.
func (s *nodeSocket) fit(a nodeAsk) int {
	if s.class() != a.class {
		return 0
	}
	if a.class == "unix" {
		if filepath.Clean(s.Address) == filepath.Clean(a.address) {
			return 1
		}
		return 0
	}
	if !s.bound.IsValid() || a.port == 0 || int(s.bound.Port()) != a.port {
		return 0
	}
	here, wide := s.bound.Addr().Unmap(), s.bound.Addr().IsUnspecified()
	if a.class == "udp" && a.family == 6 && here.Is4() {
		return 0 // it would be sent to with addresses that it does not take
	}
	asked := netip.IPv6Unspecified()
	if a.address != "" {
		var err error
		if asked, err = netip.ParseAddr(a.address); err != nil {
			return 0
		}
		asked = asked.Unmap().WithZone("")
	}
	if a.address == "" && a.class == "udp" && a.family == 4 {
		asked = netip.IPv4Unspecified()
	}
	sameFamily := here.Is4() == asked.Is4()
	switch {
	case here == asked:
		return 6
	case asked.IsUnspecified() && wide && (sameFamily || a.address == ""), wide && sameFamily:
		return 5
	case asked.IsUnspecified() && wide, wide && asked.Is4(): // the wildcard of IPv6 takes both
		return 4
	case here.IsLoopback() && asked.IsLoopback(), wide && asked.IsLoopback():
		return 2
	case asked.IsUnspecified():
		return 1
	}
	return 0
}

// pick finds the socket for what is asked: its number, -1 if none is meant. inUse
// says that there is one, and the worker has it already.
func pick(sockets []nodeSocket, a nodeAsk, first int) (found int, inUse bool) {
	found = -1
	if a.class == "fd" {
		i := a.fd - first
		if i < 0 || i >= len(sockets) {
			return -1, false
		}
		return i, sockets[i].lent
	}
	best := 0
	for i := range sockets {
		s := &sockets[i]
		fit := s.fit(a)
		if fit == 0 {
			continue
		}
		if s.lent {
			inUse = true
			continue
		}
		if fit > best {
			found, best = i, fit
		}
	}
	return found, inUse && found < 0
}

// pickAny finds the first socket that the worker has not got, for a program whose
// own port does not matter; -1 if there is none. One that asks for a tcp port is
// also given a unix socket, which node serves as well.
func pickAny(sockets []nodeSocket, a nodeAsk) int {
	classes := []string{a.class}
	switch a.class {
	case "tcp":
		classes = append(classes, "unix")
	case "udp":
	default: // a path, or a descriptor: it means that one
		return -1
	}
	for _, class := range classes {
		for i := range sockets {
			if sockets[i].class() == class && !sockets[i].lent {
				return i
			}
		}
	}
	return -1
}

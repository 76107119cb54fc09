package diag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Sizes and places in include/uapi/linux/inet_diag.h.
const (
	sizeofInetRequest = 56 // struct inet_diag_req_v2
	sizeofInetMessage = 72 // struct inet_diag_msg

	offsetRequestID = 8 // struct inet_diag_sockid in the request
	offsetMessageID = 4 // and in the answer

	attributeSockopt = 22 // INET_DIAG_SOCKOPT: sent without being asked for since Linux 5.10
)

// Dump returns the sockets of a protocol (unix.IPPROTO_TCP or IPPROTO_UDP), of
// both address families, that are in one of the states and have the local
// port; any local port if localPort is 0. The kernel does the choosing
// (inet_diag_dump_icsk honours idiag_sport and idiag_states).
//
// The kernel walks its whole table of connections, a bucket at a time and not
// as one snapshot: a socket that came or went meanwhile may be in or not, but
// none is in twice.
func Dump(proto int, states uint32, localPort uint16) ([]Sock, error) {
	q, err := open()
	if err != nil {
		return nil, err
	}
	defer q.close()

	var socks []Sock
	for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		request := inetRequest{family: family, proto: uint8(proto), states: states,
			source: netip.AddrPortFrom(netip.Addr{}, localPort)}
		messages, err := q.dump(request.bytes())
		if errors.Is(err, unix.ENOENT) && family == unix.AF_INET6 {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("sock_diag %s port %d: %w", protoName(proto), localPort, err)
		}
		if socks == nil {
			socks = make([]Sock, 0, len(messages))
		}
		for _, m := range messages {
			if s, ok := parseInet(m.Data); ok {
				socks = append(socks, s)
			}
		}
	}
	return distinct(socks), nil
}

// distinct removes, in place, what the kernel told twice: a socket that went
// from one bucket to another, or up in its own, while it was walking. The
// later word stands.
func distinct(socks []Sock) []Sock {
	if len(socks) < 2 {
		return socks
	}
	at := make(map[uint64]int, len(socks))
	kept := socks[:0]
	for _, s := range socks {
		if i, told := at[s.Cookie]; told {
			kept[i] = s
			continue
		}
		at[s.Cookie] = len(kept)
		kept = append(kept, s)
	}
	return kept
}

// Get returns the one connection between the two addresses, seen from the
// local end; false if there is none. A TCP connection is also found while it
// is half open and before it is accepted, and by the same IPv4 addresses
// whether its listening socket is an IPv4 or a dual-stack one. Addresses may
// be v4-in-v6. A link-local address needs its zone, name or number.
func Get(proto int, local, remote netip.AddrPort) (Sock, bool, error) {
	local, remote = unmap(local), unmap(remote)
	if local.Addr().Is4() != remote.Addr().Is4() {
		return Sock{}, false, fmt.Errorf("sock_diag %s %v from %v: addresses of two families",
			protoName(proto), local, remote)
	}
	zone, err := zoneIndex(local.Addr(), remote.Addr())
	if err != nil {
		return Sock{}, false, fmt.Errorf("sock_diag %s %v from %v: %w", protoName(proto), local, remote, err)
	}
	q, err := open()
	if err != nil {
		return Sock{}, false, err
	}
	defer q.close()

	// The lookup by IPv4 addresses does not look at the family of the socket
	// it finds (__inet_lookup_established), so one question is enough for
	// both kinds of listening socket.
	request := inetRequest{family: unix.AF_INET, proto: uint8(proto), states: StateAll,
		source: local, destination: remote, zone: zone}
	if !local.Addr().Is4() {
		request.family = unix.AF_INET6
	}
	if proto == unix.IPPROTO_UDP {
		// udp_dump_one has the ends swapped, "for historical reasons".
		request.source, request.destination = remote, local
	}
	messages, err := q.ask(request.bytes(), 0)
	if errors.Is(err, unix.ENOENT) {
		return Sock{}, false, nil
	}
	if err != nil {
		return Sock{}, false, fmt.Errorf("sock_diag %s %v from %v: %w", protoName(proto), local, remote, err)
	}
	return exactly(messages, local, remote)
}

// exactly picks the connection asked for. Where there is none the kernel
// answers with the socket that would receive it, a listening or unconnected
// one, which is no answer here.
func exactly(messages []netlink.Message, local, remote netip.AddrPort) (Sock, bool, error) {
	for _, m := range messages {
		s, ok := parseInet(m.Data)
		if ok && sameEnd(s.Local, local) && sameEnd(s.Remote, remote) {
			return s, true, nil
		}
	}
	return Sock{}, false, nil
}

// sameEnd compares without the zone: the kernel was asked with it, and a
// socket not bound to the interface says none.
func sameEnd(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().WithZone("") == b.Addr().WithZone("")
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func protoName(proto int) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	}
	return "protocol " + strconv.Itoa(proto)
}

// zoneIndex returns the interface of the first address that names one, or 0.
func zoneIndex(addrs ...netip.Addr) (uint32, error) {
	for _, a := range addrs {
		if a.Zone() == "" {
			continue
		}
		if n, err := strconv.ParseUint(a.Zone(), 10, 32); err == nil {
			return uint32(n), nil
		}
		i, err := net.InterfaceByName(a.Zone())
		if err != nil {
			return 0, err
		}
		return uint32(i.Index), nil
	}
	return 0, nil
}

// An inetRequest is struct inet_diag_req_v2. A zero address or port asks for
// any.
type inetRequest struct {
	family, proto       uint8
	states              uint32
	source, destination netip.AddrPort
	zone                uint32
}

func (r inetRequest) bytes() []byte {
	b := make([]byte, sizeofInetRequest)
	b[0], b[1] = r.family, r.proto
	native.PutUint32(b[4:], r.states)
	id := b[offsetRequestID:]
	binary.BigEndian.PutUint16(id[0:], r.source.Port())
	binary.BigEndian.PutUint16(id[2:], r.destination.Port())
	copy(id[4:20], r.source.Addr().AsSlice())
	copy(id[20:36], r.destination.Addr().AsSlice())
	native.PutUint32(id[36:], r.zone)
	// INET_DIAG_NOCOOKIE: whichever socket it is.
	native.PutUint32(id[40:], ^uint32(0))
	native.PutUint32(id[44:], ^uint32(0))
	return b
}

// parseInet reads struct inet_diag_msg; false if b is too short for one.
func parseInet(b []byte) (Sock, bool) {
	if len(b) < sizeofInetMessage {
		return Sock{}, false
	}
	id := b[offsetMessageID:]
	s := Sock{
		Family: b[0],
		State:  b[1],
		Cookie: uint64(native.Uint32(id[40:])) | uint64(native.Uint32(id[44:]))<<32,
		RQueue: native.Uint32(b[56:]),
		WQueue: native.Uint32(b[60:]),
		UID:    native.Uint32(b[64:]),
		Inode:  uint64(native.Uint32(b[68:])),
	}
	zone := native.Uint32(id[36:])
	s.Local = parseEnd(s.Family, id[4:20], id[0:2], zone)
	s.Remote = parseEnd(s.Family, id[20:36], id[2:4], zone)
	attributes(b[sizeofInetMessage:], func(kind uint16, value []byte) {
		if kind == attributeSockopt {
			copy(s.Sockopt[:], value)
		}
	})
	return s, true
}

func parseEnd(family uint8, addr, port []byte, zone uint32) netip.AddrPort {
	var a netip.Addr
	if family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(addr))
	} else {
		a = netip.AddrFrom16([16]byte(addr)).Unmap()
		if zone != 0 && a.IsLinkLocalUnicast() && a.Is6() {
			a = a.WithZone(strconv.FormatUint(uint64(zone), 10))
		}
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}

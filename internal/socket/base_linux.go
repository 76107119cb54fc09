package socket

import (
	"fmt"
	"log/slog"
	"net/netip"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// base is what a tcp or udp listener has whether it is steered or shared.
type base struct {
	name  string
	addr  Address  // with the port that was bound
	at    endpoint // the same in the kernel's terms
	found *findings
	ports *ports // that connections of the launcher's own come from
	log   *slog.Logger
}

func newBase(a Address, at endpoint, o Options) base {
	a.Port = int(at.port)
	return base{name: o.Name, addr: a, at: at, found: newFindings(o.Name), ports: new(ports), log: o.logger().With("listener", o.Name)}
}

func (b *base) Name() string             { return b.name }
func (b *base) Address() Address         { return b.addr }
func (b *base) Findings() <-chan Finding { return b.found.out }

// fail names the listener in an error of one of its methods.
func (b *base) fail(doing string, err error) error {
	return fmt.Errorf("%s %s: %w", doing, b.addr.endpoint(), err)
}

// HalfOpen lists SYN_RECV on the port. With SYN cookies a handshake is nowhere
// until its ACK, which is then steered like a new connection.
func (b *base) HalfOpen() (Handshakes, error) {
	if !b.at.stream {
		return nil, nil
	}
	socks, err := diag.Dump(unix.IPPROTO_TCP, diag.StateSynRecv, b.at.port)
	if err != nil {
		return nil, b.fail("half-open handshakes of", err)
	}
	set := make(Handshakes)
	for _, s := range socks {
		if b.serves(s.Local.Addr()) {
			set[Handshake{Local: s.Local, Remote: s.Remote}] = struct{}{}
		}
	}
	return set, nil
}

func (b *base) Remaining(before Handshakes) (int, error) {
	if len(before) == 0 {
		return 0, nil
	}
	now, err := b.HalfOpen()
	if err != nil {
		return 0, err
	}
	n := 0
	for h := range before {
		if _, ok := now[h]; ok {
			n++
		}
	}
	return n, nil
}

func (b *base) Connections(owner func(inode uint64) bool) (int, error) {
	if !b.at.stream {
		return 0, nil
	}
	socks, err := diag.Dump(unix.IPPROTO_TCP, diag.StateConnections, b.at.port)
	if err != nil {
		return 0, b.fail("connections of", err)
	}
	n := 0
	for _, s := range socks {
		if s.Inode != 0 && b.serves(s.Local.Addr()) && owner(s.Inode) {
			n++
		}
	}
	return n, nil
}

// serves tells whether a connection to addr can be the listener's.
func (b *base) serves(addr netip.Addr) bool {
	addr = addr.Unmap()
	switch {
	case !b.at.addr.IsUnspecified():
		return addr.WithZone("") == b.at.addr.WithZone("")
	case b.at.dual:
		return true
	}
	return addr.Is4() == b.at.addr.Is4()
}

// pending is what waits unread or unaccepted on one socket.
func (b *base) pending(fd int) (Pending, error) {
	if !b.at.stream {
		m, err := meminfo(fd)
		return Pending{Queued: int(m.received)}, err
	}
	l, err := tcpListening(fd)
	return Pending{Queued: l.queued}, err
}

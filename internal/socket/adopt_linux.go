package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// Adopt makes a Listener of a listening socket that came from elsewhere: from systemd,
// which keeps it too. fd is the Listener's from then on, also when there is an error. a is what
// it is called, and is not compared with what it is (AddressOf).
//
// The socket is slot 0, with what it has queued. For tcp and udp others join it in a
// group, where the kernel lets them: not if the socket is another user's. It is
// then older than any guard, so what stands at the group's end protects the order as
// ever, but for IPv6, where the kernel finds a group by its oldest socket, a worker that
// clears SO_REUSEPORT on slot 0 has all connections until Maintain. Between the first
// join and the program some microseconds pass in which a new connection may reach a
// guard; its client tries again after a second.
//
// A unix socket is shared: to steer by name is to put other files in the place
// of the one that its owner made, and would find gone when it is started next.
//
// Close gives the socket back as it was, with whatever is queued on it, for the next that its
// owner gives it to: it listens on, and its path is not touched.
func Adopt(ctx context.Context, fd int, a Address, o Options) (Listener, error) {
	if o.Name == "" {
		o.Name = a.String()
	}
	is, err := AddressOf(fd)
	if err == nil {
		err = ctx.Err()
	}
	var l Listener
	if err == nil {
		unix.CloseOnExec(fd)
		if is.Network == "unix" {
			l, err = adoptUnix(fd, is, a, o)
		} else {
			l, err = adoptInet(fd, a, o)
		}
	}
	if err != nil {
		unix.Close(fd) // its owner has it still
		return nil, fmt.Errorf("adopt %s: %w", a.endpoint(), err)
	}
	return l, nil
}

// AddressOf tells where a socket listens (for udp: is bound): with the network tcp4 or
// udp4 for IPv4, tcp6 or udp6 for an IPv6 socket that takes no IPv4, and else tcp or udp. The
// host of a wildcard is "".
func AddressOf(fd int) (Address, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return Address{}, fmt.Errorf("address of descriptor %d: %w", fd, err)
	}
	a, err := addressOf(fd, kind)
	if err != nil {
		return Address{}, fmt.Errorf("address of descriptor %d: %w", fd, err)
	}
	return a, nil
}

func addressOf(fd, kind int) (Address, error) {
	if kind == unix.SOCK_STREAM {
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
			return Address{}, errors.New("the socket does not listen")
		}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return Address{}, fmt.Errorf("getsockname: %w", err)
	}
	if sa, ok := sa.(*unix.SockaddrUnix); ok {
		if kind != unix.SOCK_STREAM || !filepath.IsAbs(sa.Name) {
			return Address{}, fmt.Errorf("a unix socket %q of type %d; only a stream's with a path serves", sa.Name, kind)
		}
		return Address{Network: "unix", Path: filepath.Clean(sa.Name)}, nil
	}
	e, err := endpointOf(fd, kind, sa)
	if err != nil {
		return Address{}, err
	}
	a := Address{Network: "udp", Port: int(e.port)}
	if e.stream {
		a.Network = "tcp"
	}
	switch {
	case e.addr.Is4():
		a.Network += "4"
	case !e.dual:
		a.Network += "6"
	}
	if !e.addr.IsUnspecified() {
		a.Host = e.addr.String()
	}
	return a, nil
}

// endpointOf is where an internet socket is bound.
func endpointOf(fd, kind int, sa unix.Sockaddr) (e endpoint, err error) {
	if kind != unix.SOCK_STREAM && kind != unix.SOCK_DGRAM {
		return e, fmt.Errorf("a socket of type %d", kind)
	}
	e.stream = kind == unix.SOCK_STREAM
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		e.addr, e.port = netip.AddrFrom4(sa.Addr), uint16(sa.Port)
	case *unix.SockaddrInet6:
		e.addr, e.port = netip.AddrFrom16(sa.Addr), uint16(sa.Port)
		if sa.ZoneId != 0 {
			e.addr = e.addr.WithZone(strconv.Itoa(int(sa.ZoneId)))
		}
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return e, fmt.Errorf("read IPV6_V6ONLY: %w", err)
		}
		e.dual = only == 0 && e.addr == netip.IPv6Unspecified()
	default:
		return e, errors.New("neither tcp, udp nor unix")
	}
	if e.port == 0 {
		return e, errors.New("the socket is not bound")
	}
	return e, nil
}

// adoptInet leaves fd to the caller when it fails.
func adoptInet(fd int, a Address, o Options) (Listener, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, err
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	at, err := endpointOf(fd, kind, sa)
	if err != nil {
		return nil, err
	}
	m := &member{fd: fd, number: 1, slot: notSlot, foreign: new(Foreign)}
	if err := m.look(at, &o); err != nil {
		return nil, err
	}
	reason := `steering = "off"`
	if !o.Shared {
		l, err := adoptSteered(m, newBase(a, at, o), o)
		if err == nil {
			return l, nil
		}
		if exhausted(err) {
			return nil, err
		}
		reason = "the socket came from outside: " + err.Error()
	}
	l := &shared{
		base: newBase(a, at, o), reason: reason, origins: at.origins(), done: make(chan struct{}),
		o: o, only: m, made: m.number, slots: map[int]bool{0: true},
	}
	m.slot = notSlot
	if err := unix.SetNonblock(fd, o.NonBlocking); err != nil {
		return nil, fmt.Errorf("set O_NONBLOCK: %w", err)
	}
	return l, l.startWatch()
}

// look finds out how the socket was when it came, and undoes what a launcher that
// was killed had done to refuse on it. The backlog stays its owner's unless the
// options name one.
func (m *member) look(at endpoint, o *Options) (err error) {
	if m.inode, err = inodeOf(m.fd); err != nil {
		return err
	}
	reuse, err := unix.GetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	if err != nil {
		return fmt.Errorf("read SO_REUSEPORT: %w", err)
	}
	m.foreign.ReusePort = reuse != 0
	if err := at.undeafen(m.fd); err != nil || !at.stream {
		return err
	}
	if slices.Equal(filter(m.fd), dropSYN()) {
		if err := detachFilter(m.fd); err != nil {
			return err
		}
	}
	l, err := tcpListening(m.fd)
	if err == nil && o.Backlog == 0 {
		o.Backlog = l.backlog
	} else if err == nil {
		err = unix.Listen(m.fd, o.Backlog)
	}
	if err == nil {
		l, err = tcpListening(m.fd)
	}
	m.backlog = l.backlog
	return err
}

// adoptSteered lets guards join the socket. Where that fails the socket is as it was.
func adoptSteered(m *member, b base, o Options) (Listener, error) {
	g := newSteered(o)
	g.base, g.made, g.order = b, m.number, []*member{m}
	g.slots[0], m.slot = m, 0
	err := reusePort(m.fd, 1)
	if err == nil {
		err = g.surround()
	}
	if err == nil {
		err = g.startWatch()
	}
	if err != nil {
		g.giveBack()
		return nil, err
	}
	return g, nil
}

// surround makes the guards and proves that the program steers among all.
func (g *steered) surround() error {
	if err := g.join(); err != nil {
		return err
	}
	if err := g.attach(); err != nil {
		return err
	}
	for g.guardsMissing() > 0 {
		if err := g.join(); err != nil {
			return err
		}
	}
	if err := g.look(); err != nil { // a socket that was there before us is in the order
		return err
	}
	var err error
	for _, g.origin = range g.at.origins() {
		var order []*member
		if order, err = g.prove(); err != nil {
			err = fmt.Errorf("self-test from %s: %w", g.origin, err)
			continue
		}
		if slices.ContainsFunc(g.order, func(m *member) bool { return !slices.Contains(order, m) }) {
			return fmt.Errorf("self-test from %s: the socket is in no group", g.origin)
		}
		g.order, g.doubt = order, false
		return g.maintain()
	}
	return err
}

// giveBack closes all sockets but one that is systemd's, which is alone then and as it was.
// It returns that one.
func (g *steered) giveBack() (theirs *member) {
	for i, m := range g.order {
		if m.foreign == nil {
			continue
		}
		theirs = m
		// The program stays: who else has a socket in the group, a worker that lives on,
		// is not to be given by chance what is theirs. Alone, it changes nothing.
		if p, err := compile(nil, []share{{index: i, weight: 1}}, byChance); err == nil && len(g.order) > 1 {
			_ = attachSteering(m.fd, p) // refused where there is no group
		}
		_ = g.at.hear(m.fd) // as it was when it came, or else it is broken
	}
	for _, m := range slices.Backward(g.order) {
		if !m.stranger() && m != theirs {
			unix.Close(m.fd) // the connections still queued end here, as Close says
		}
	}
	if theirs != nil {
		restoreReusePort(theirs)
	}
	g.order = nil
	return theirs
}

func restoreReusePort(m *member) {
	if !m.foreign.ReusePort {
		_ = reusePort(m.fd, 0) // it listens on either way
	}
}

// adoptUnix leaves fd to the caller when it fails.
func adoptUnix(fd int, is, a Address, o Options) (Listener, error) {
	o.Mode, o.UID, o.GID = 0, -1, -1 // its owner's business
	l := newUnix(a, o)
	l.reason = "the socket came from outside, and so its path is not ours to steer by"
	s := &unixSlot{fd: fd, id: 1, names: -1}
	l.made, l.count, l.at, l.slots[0], l.bound[is.Path] = 1, 1, s, s, true
	sa, err := unix.Getsockname(fd)
	if err == nil {
		l.bound[sa.(*unix.SockaddrUnix).Name] = true
		s.inode, err = socketInode(fd)
	}
	if err == nil {
		err = l.lookAt(s, is.Path)
	}
	if err == nil {
		err = l.handOver(s)
	}
	if err == nil {
		err = l.resumeWatch()
	}
	if err == nil {
		l.mu.Lock() // it may be told of at once
		err = l.watch.socket(fd)
		l.mu.Unlock()
	}
	if err != nil && l.watch != nil {
		l.watch.close()
	}
	if err != nil && l.place != nil {
		l.place.release()
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// lookAt finds the file of a socket that came from outside, which is to be reached by
// it.
func (l *unixListener) lookAt(s *unixSlot, path string) (err error) {
	if l.place, err = foreignPlace(path); err != nil {
		return err
	}
	st, err := l.place.shown()
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	s.file, s.plain = identify(&st), fs.FileMode(st.Mode)&0o666
	// Without sock_diag nobody can compare; that is no reason not to serve.
	if d, ok, err := diag.UnixListening(s.inode); err == nil && ok {
		s.backlog = d.WQueue
		if l.o.Backlog == 0 {
			l.o.Backlog = int(d.WQueue)
		}
	}
	if l.o.Backlog == 0 {
		return nil
	}
	return l.listen(s)
}

// foreignPlace is where a socket is whose path is not ours: nothing is made there, and
// nothing taken away.
func foreignPlace(path string) (*unixPlace, error) {
	p := &unixPlace{path: path, base: filepath.Base(path), private: -1, foreign: true}
	dir := filepath.Dir(path)
	var err error
	if p.parent, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	p.noLinks = errors.New("not ours")
	return p, nil
}

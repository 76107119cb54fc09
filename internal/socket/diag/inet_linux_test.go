package diag

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dropAll is a classic filter that lets no packet in: a client socket that
// carries it never sees the SYN-ACK, and the server's end stays half open.
var dropAll = bpf.RetConstant{Val: 0}

// await waits until done reports true; it fails the test after a minute.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("after 5s: still not %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// listen returns a plain TCP or UDP socket (never MPTCP) as the descriptor it
// is, bound to host with a port of the kernel's choice.
func listen(t *testing.T, kind int, host string, dual bool) (fd int, at netip.AddrPort) {
	t.Helper()
	a := netip.MustParseAddr(host)
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	if a.Is6() {
		only := 1
		if dual {
			only = 0
		}
		check(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only))
	}
	check(t, unix.Bind(fd, sockaddr(netip.AddrPortFrom(a, 0))))
	if kind == unix.SOCK_STREAM {
		check(t, unix.Listen(fd, 4096))
	}
	return fd, name(t, fd)
}

// name is getsockname(2).
func name(t *testing.T, fd int) netip.AddrPort {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	check(t, err)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	t.Fatalf("getsockname: %T", sa)
	return netip.AddrPort{}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// dial opens a connection and closes it with the test.
func dial(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	d := net.Dialer{Timeout: time.Minute}
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", to.String())
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// halfOpen begins a handshake that the client's filter never lets end.
func halfOpen(t *testing.T, to netip.AddrPort) (fd int) {
	t.Helper()
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	program, err := bpf.Assemble([]bpf.Instruction{dropAll})
	check(t, err)
	filter := []unix.SockFilter{{Code: program[0].Op, Jt: program[0].Jt, Jf: program[0].Jf, K: program[0].K}}
	check(t, unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: 1, Filter: &filter[0]}))
	if err := unix.Connect(fd, sockaddr(to)); err != unix.EINPROGRESS {
		t.Fatalf("connect %v: %v, want in progress", to, err)
	}
	return fd
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inode is what fstat(2) says of a descriptor.
func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Fstat(fd, &st))
	return st.Ino
}

func local(t *testing.T, c net.Conn) netip.AddrPort {
	t.Helper()
	return c.LocalAddr().(*net.TCPAddr).AddrPort()
}

// get is Get of a connection that must exist.
func get(t *testing.T, server, client netip.AddrPort) Sock {
	t.Helper()
	s, found, err := Get(unix.IPPROTO_TCP, server, client)
	check(t, err)
	if !found {
		t.Fatalf("no connection %v from %v", server, client)
	}
	return s
}

func TestAThousandConnectionsAreCountedExactly(t *testing.T) {
	raiseFileLimit(t, 3000)
	listener, at := listen(t, unix.SOCK_STREAM, "127.0.0.1", false)
	_, other := listen(t, unix.SOCK_STREAM, "127.0.0.1", false)
	held := make(map[uint64]bool)
	for i := range 1000 {
		dial(t, at)
		if i%10 == 0 {
			dial(t, other) // another port must not be counted
		}
		if i%2 == 0 {
			fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
			check(t, err)
			t.Cleanup(func() { _ = unix.Close(fd) })
			held[inode(t, fd)] = true
		}
	}
	socks, err := Dump(unix.IPPROTO_TCP, StateConnections, at.Port())
	check(t, err)
	var accepted, waiting int
	for _, s := range socks {
		if s.Local != at || !s.In(StateEstablished) {
			t.Errorf("%+v is not an established connection of %v", s, at)
		}
		switch {
		case s.Unaccepted():
			waiting++
		case held[s.Inode]:
			accepted++
		}
	}
	if len(socks) != 1000 || accepted != 500 || waiting != 500 {
		t.Errorf("%d connections, %d accepted, %d waiting; want 1000, 500, 500", len(socks), accepted, waiting)
	}
	listening, err := Dump(unix.IPPROTO_TCP, StateListen, at.Port())
	check(t, err)
	if len(listening) != 1 || listening[0].Inode != inode(t, listener) || listening[0].RQueue != 500 || listening[0].WQueue != 4096 {
		t.Errorf("listening %+v; want inode %d with 500 of 4096 queued", listening, inode(t, listener))
	}
}

func raiseFileLimit(t *testing.T, n uint64) {
	t.Helper()
	var was, want syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was))
	if was.Cur >= n {
		return
	}
	want = syscall.Rlimit{Cur: n, Max: max(n, was.Max)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		t.Skipf("%d descriptors allowed, %d needed: %v", was.Cur, n, err)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was) })
}

func TestHalfOpenHandshakesAreSeen(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			_, at := listen(t, unix.SOCK_STREAM, host, false)
			dial(t, at)
			want := make(map[netip.AddrPort]bool)
			for range 5 {
				want[name(t, halfOpen(t, at))] = true
			}
			var socks []Sock
			await(t, "five half open", func() bool {
				var err error
				socks, err = Dump(unix.IPPROTO_TCP, StateSynRecv, at.Port())
				check(t, err)
				return len(socks) == 5
			})
			for _, s := range socks {
				if !s.HalfOpen() || s.Unaccepted() || s.Orphaned() || s.Local != at || !want[s.Remote] {
					t.Errorf("%+v is not a half-open handshake of ours", s)
				}
				if one := get(t, at, s.Remote); !one.HalfOpen() || one.Cookie != s.Cookie {
					t.Errorf("asked for by its addresses: %+v, dumped: %+v", one, s)
				}
			}
		})
	}
}

func TestAConnectionHasAnInodeOnlyBetweenAcceptAndClose(t *testing.T) {
	for _, c := range []struct {
		name, listen, connect string
		dual                  bool
		family                uint8
	}{
		{"v4", "127.0.0.1", "127.0.0.1", false, unix.AF_INET},
		{"v6", "::1", "::1", false, unix.AF_INET6},
		{"dual stack by v4", "::", "127.0.0.1", true, unix.AF_INET6},
		{"dual stack by v6", "::", "::1", true, unix.AF_INET6},
	} {
		t.Run(c.name, func(t *testing.T) {
			listener, bound := listen(t, unix.SOCK_STREAM, c.listen, c.dual)
			at := netip.AddrPortFrom(netip.MustParseAddr(c.connect), bound.Port())
			client := dial(t, at)
			from := local(t, client)

			s := get(t, at, from)
			if !s.Unaccepted() || s.Orphaned() || s.Family != c.family {
				t.Errorf("before accept: %+v", s)
			}
			if s.Local != at || s.Remote != from {
				t.Errorf("addresses %v from %v, want %v from %v", s.Local, s.Remote, at, from)
			}
			fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
			check(t, err)
			if s = get(t, at, from); s.Inode != inode(t, fd) || s.Unaccepted() || s.Sockopt == [2]byte{} {
				t.Errorf("after accept: %+v, want inode %d", s, inode(t, fd))
			}
			check(t, unix.Close(fd))
			if s = get(t, at, from); !s.Orphaned() || s.Unaccepted() {
				t.Errorf("after close: %+v", s)
			}
		})
	}
}

func TestAV4InV6AddressFindsTheSameConnection(t *testing.T) {
	_, bound := listen(t, unix.SOCK_STREAM, "::", true)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), bound.Port())
	from := local(t, dial(t, at))
	mapped := func(a netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}
	if a, b := get(t, at, from), get(t, mapped(at), mapped(from)); a.Cookie != b.Cookie {
		t.Errorf("%+v by IPv4, %+v by v4-in-v6", a, b)
	}
}

func TestAnUnacceptedConnectionThatTheClientClosedIsStillUnaccepted(t *testing.T) {
	_, at := listen(t, unix.SOCK_STREAM, "127.0.0.1", false)
	client := dial(t, at)
	from := local(t, client)
	check(t, client.CloseWrite())
	var s Sock
	await(t, "in CLOSE_WAIT", func() bool { s = get(t, at, from); return s.In(StateCloseWait) })
	if !s.Unaccepted() || s.Orphaned() {
		t.Errorf("%+v: unaccepted %v, orphaned %v", s, s.Unaccepted(), s.Orphaned())
	}
}

func TestGetTakesNoListeningSocketForAConnection(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		_, at := listen(t, unix.SOCK_STREAM, host, false)
		nobody := netip.AddrPortFrom(at.Addr(), 1)
		if s, found, err := Get(unix.IPPROTO_TCP, at, nobody); found || err != nil {
			t.Errorf("%v from %v: %+v, %v, %v", at, nobody, s, found, err)
		}
		closed := netip.AddrPortFrom(at.Addr(), 1)
		if s, found, err := Get(unix.IPPROTO_TCP, closed, nobody); found || err != nil {
			t.Errorf("%v from %v: %+v, %v, %v", closed, nobody, s, found, err)
		}
	}
}

func TestGetRefusesAddressesOfTwoFamilies(t *testing.T) {
	_, _, err := Get(unix.IPPROTO_TCP, netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[::1]:1"))
	if err == nil {
		t.Error("no error")
	}
}

func TestUDPSocketsAreTold(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			server, at := listen(t, unix.SOCK_DGRAM, host, false)
			client, from := listen(t, unix.SOCK_DGRAM, host, false)
			check(t, unix.Connect(client, sockaddr(at)))
			check(t, unix.Send(client, []byte("question"), 0))

			socks, err := Dump(unix.IPPROTO_UDP, StateClosed, at.Port())
			check(t, err)
			if len(socks) != 1 || socks[0].Inode != inode(t, server) || socks[0].RQueue == 0 {
				t.Errorf("server: %+v; want inode %d with something to read", socks, inode(t, server))
			}
			s, found, err := Get(unix.IPPROTO_UDP, from, at)
			check(t, err)
			if !found || s.Inode != inode(t, client) || !s.In(StateEstablished) {
				t.Errorf("client: %+v, %v; want inode %d", s, found, inode(t, client))
			}
			if s, found, err = Get(unix.IPPROTO_UDP, at, from); found || err != nil {
				t.Errorf("the server is not connected, yet Get found %+v, %v", s, err)
			}
		})
	}
}

func TestASocketToldTwiceIsCountedOnce(t *testing.T) {
	got := distinct([]Sock{{Cookie: 1, State: 3}, {Cookie: 2}, {Cookie: 1, State: 1}, {Cookie: 3}})
	if len(got) != 3 || got[0] != (Sock{Cookie: 1, State: 1}) || got[1].Cookie != 2 || got[2].Cookie != 3 {
		t.Errorf("%+v", got)
	}
}

func TestCallsLeaveNoDescriptorOpen(t *testing.T) {
	_, at := listen(t, unix.SOCK_STREAM, "127.0.0.1", false)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return len(entries)
	}
	before := count()
	for range 20 {
		_, err := Dump(unix.IPPROTO_TCP, StateListen, at.Port())
		check(t, err)
		_, _, err = Get(unix.IPPROTO_TCP, at, at)
		check(t, err)
		_, _, err = UnixPeer(1)
		check(t, err)
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func BenchmarkGet(b *testing.B) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	from := c.LocalAddr().(*net.TCPAddr).AddrPort()
	for b.Loop() {
		if _, found, err := Get(unix.IPPROTO_TCP, at, from); !found || err != nil {
			b.Fatal(found, err)
		}
	}
}

// BenchmarkDump asks for one port's connections: most of it is the kernel's
// walk through its table, whatever is in it.
func BenchmarkDump(b *testing.B) {
	for _, c := range []struct {
		name   string
		states uint32
	}{{"listen", StateListen}, {"half-open", StateSynRecv}, {"connections", StateConnections}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Dump(unix.IPPROTO_TCP, c.states, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen is what each call pays for a netlink socket of its own.
func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		q, err := open()
		if err != nil {
			b.Fatal(err)
		}
		q.close()
	}
}

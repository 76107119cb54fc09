package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// outside makes a listening socket as systemd does, and keeps it; given is what the
// service gets.
func outside(t *testing.T, address string) (kept, given int, a Address) {
	t.Helper()
	_, a, err := ParseAddress(address)
	must(t, err)
	if a.Network == "unix" {
		kept, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		must(t, err)
		must(t, unix.Bind(kept, &unix.SockaddrUnix{Name: a.Path}))
		must(t, unix.Listen(kept, 77))
	} else {
		all, err := endpoints(t.Context(), a)
		must(t, err)
		kept, err = bindFirst(&all[0], func(int) error { return nil })
		must(t, err)
		if a.stream() {
			must(t, unix.Listen(kept, 77))
		}
		a.Port = int(all[0].port)
	}
	t.Cleanup(func() { unix.Close(kept) })
	given, err = unix.Dup(kept)
	must(t, err)
	return kept, given, a
}

func adopt(t *testing.T, fd int, a Address, o Options) Listener {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	l, err := Adopt(t.Context(), fd, a, o)
	must(t, err)
	t.Cleanup(func() {
		if err := l.Close(); !errors.Is(err, ErrClosed) {
			must(t, err)
		}
		goleak.VerifyNone(t, leaks)
	})
	return l
}

// hearsStill sees that a client that connects is queued on the socket.
func hearsStill(t *testing.T, kept int, network, address string) {
	t.Helper()
	c, err := net.Dial(network, address)
	must(t, err)
	defer c.Close()
	eventually(t, "it is queued", func() bool {
		fd, _, err := unix.Accept(kept)
		if err == nil {
			unix.Close(fd)
		}
		return err == nil
	})
}

func TestAnAdoptedSocketIsSteeredWithWhatItHasQueued(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			_, given, a := outside(t, c.listen)
			first, err := net.Dial("tcp", net.JoinHostPort(c.client, strconv.Itoa(a.Port))) // what activated the service
			must(t, err)
			defer first.Close()
			l := adopt(t, given, a, Options{})
			g, ok := l.(*steered)
			if !ok {
				t.Fatalf("%s: %s", l.Mode(), l.Reason())
			}
			if g.Address() != a {
				t.Errorf("the address is %s, not %s", g.Address(), a)
			}
			eventually(t, "the first one is queued on slot 0", func() bool {
				p, err := g.Pending(0)
				must(t, err)
				return p.Queued == 1
			})
			serve(t, g, 0)
			for slot := 1; slot < 4; slot++ {
				must(t, g.Reserve(slot))
				serve(t, g, slot)
			}
			allReached(t, g, c.client, 4)
			for _, m := range g.taken() {
				if m.backlog != 77 {
					t.Errorf("backlog %d of slot %d, not what the socket came with", m.backlog, m.slot)
				}
			}
			again := leave(t, g).resume().(*steered)
			allReached(t, again, c.client, 4)
		})
	}
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// At a full stop nobody is accepted any more, and yet whoever comes is queued for the
// service's next start.
func TestAnAdoptedSocketListensOnAfterTheListener(t *testing.T) {
	for _, c := range loopbacks {
		for _, o := range []Options{{}, {Shared: true}} {
			t.Run(fmt.Sprintf("%s, shared %v", c.name, o.Shared), func(t *testing.T) {
				kept, given, a := outside(t, c.listen)
				l := adopt(t, given, a, o)
				must(t, l.Reserve(1))
				must(t, l.Steer(to(1)))
				must(t, l.Unite(0, 1)) // slot 0's socket is nobody's then, and deaf
				must(t, l.Refuse(0, 1))
				must(t, l.Close())
				if on, err := unix.GetsockoptInt(kept, unix.SOL_SOCKET, unix.SO_REUSEPORT); err != nil || on != 0 {
					t.Errorf("SO_REUSEPORT is %d, %v", on, err)
				}
				hearsStill(t, kept, "tcp", target(l, c.client))
				// And the next start of the service.
				given, err := unix.Dup(kept)
				must(t, err)
				next := adopt(t, given, a, o)
				serve(t, next, 0)
				if slot := mustAsk(t, target(next, c.client)); slot != 0 {
					t.Errorf("slot %d answered", slot)
				}
			})
		}
	}
}

// A launcher that was killed while it refused leaves a socket that hears again as soon as
// it is adopted.
func TestAnAdoptedSocketThatWasLeftDeafHearsAgain(t *testing.T) {
	kept, given, a := outside(t, "tcp4://127.0.0.1:0")
	l := adopt(t, given, a, Options{Shared: true})
	must(t, l.Refuse(0))
	drop(t, l)
	given, err := unix.Dup(kept)
	must(t, err)
	adopt(t, given, a, Options{Shared: true})
	hearsStill(t, kept, "tcp", target(l, "127.0.0.1"))
}

func TestAnAdoptedSocketOfAnotherUserIsShared(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give a socket to another user")
	}
	kept, given, a := outside(t, ":0")
	must(t, unix.Fchown(kept, 12345, 12345))
	l := adopt(t, given, a, Options{})
	if l.Mode() != Shared || !strings.Contains(l.Reason(), "address already in use") {
		t.Errorf("%s: %s", l.Mode(), l.Reason())
	}
	if on, err := unix.GetsockoptInt(kept, unix.SOL_SOCKET, unix.SO_REUSEPORT); err != nil || on != 0 {
		t.Errorf("SO_REUSEPORT is %d, %v", on, err)
	}
	serve(t, l, 0)
	mustAsk(t, target(l, "127.0.0.1"))
	again := leave(t, l).resume()
	mustAsk(t, target(again, "127.0.0.1"))
}

func TestAnAdoptedDatagramSocketIsSteered(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		_, given, a := outside(t, "udp://"+bracketed(host)+":0")
		l := adopt(t, given, a, Options{})
		if l.Mode() != Steered {
			t.Fatalf("%s: %s", l.Mode(), l.Reason())
		}
		must(t, l.Reserve(1))
		for slot := range 2 {
			must(t, l.Steer(to(slot)))
			received(t, l, target(l, host), slot)
		}
		again := leave(t, l).resume()
		received(t, again, target(again, host), 1)
	}
}

// received sends a datagram and sees that the slot has it.
func received(t *testing.T, l Listener, address string, slot int) {
	t.Helper()
	c, err := net.Dial("udp", address)
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("x"))
	must(t, err)
	fd := duplicate(t, l, slot)
	defer unix.Close(fd)
	eventually(t, fmt.Sprintf("slot %d has it", slot), func() bool {
		n, _, err := unix.Recvfrom(fd, make([]byte, 8), unix.MSG_DONTWAIT)
		return err == nil && n == 1
	})
}

func TestAnAdoptedUnixSocketIsSharedAndItsPathLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	kept, given, a := outside(t, "unix://"+path)
	before, err := os.Lstat(path)
	must(t, err)
	l := adopt(t, given, a, unixOptions())
	if l.Mode() != Shared || !strings.Contains(l.Reason(), "from outside") {
		t.Errorf("%s: %s", l.Mode(), l.Reason())
	}
	must(t, l.Reserve(1))
	must(t, l.Steer(to(1)))
	must(t, l.Maintain())
	stop := unixWorker(t, l.(*unixListener), 1, "it")
	wantAnswer(t, l.(*unixListener), "it")
	must(t, l.Probe(t.Context(), 1, func(uint64) bool { return true }))
	again := leave(t, l).resume().(*unixListener)
	wantAnswer(t, again, "it")
	must(t, again.Probe(t.Context(), 1, func(uint64) bool { return true }))
	must(t, again.Refuse(0, 1))
	stop()
	must(t, again.Close())
	after, err := os.Lstat(path)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the path: %v", err)
	}
	hearsStill(t, kept, "unix", path)
}

func TestAnAdoptedUnixSocketThatIsShutDownIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	kept, given, a := outside(t, "unix://"+path)
	l := adopt(t, given, a, unixOptions())
	must(t, unix.Shutdown(kept, unix.SHUT_RDWR))
	if err := l.Maintain(); err == nil || !strings.Contains(err.Error(), "not ours to replace") {
		t.Errorf("%v", err)
	}
}

func TestAnAdoptedSocketThatAWorkerShutDownIsReplaced(t *testing.T) {
	kept, given, a := outside(t, "tcp4://127.0.0.1:0")
	l := adopt(t, given, a, Options{})
	must(t, unix.Shutdown(kept, unix.SHUT_RDWR))
	finding(t, l, Broken)
	serve(t, l, 0)
	mustAsk(t, target(l, "127.0.0.1"))
}

func TestTheAddressOfADescriptor(t *testing.T) {
	for listen, want := range map[string]string{
		":0": "tcp://:%d", "tcp4://:0": "tcp4://:%d", "tcp6://:0": "tcp6://:%d",
		"127.0.0.1:0": "tcp4://127.0.0.1:%d", "[::1]:0": "tcp6://[::1]:%d",
		"udp://:0": "udp://:%d", "udp4://127.0.0.1:0": "udp4://127.0.0.1:%d",
	} {
		_, given, a := outside(t, listen)
		got, err := AddressOf(given)
		must(t, err)
		if want := fmt.Sprintf(want, a.Port); got.String() != want {
			t.Errorf("%s is %s, not %s", listen, got, want)
		}
		if !a.Same(got) || !got.Same(a) {
			t.Errorf("%s is not the same as %s", a, got)
		}
		unix.Close(given)
	}
	path := filepath.Join(t.TempDir(), "s")
	_, given, a := outside(t, "unix://"+path)
	if got, err := AddressOf(given); err != nil || got != a {
		t.Errorf("%v, %v", got, err)
	}
	unix.Close(given)
}

func TestWhatCannotBeAdoptedIsSaid(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	plain, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	must(t, err)
	abstract, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	must(t, unix.Bind(abstract, &unix.SockaddrUnix{Name: "@baton-test"}))
	must(t, unix.Listen(abstract, 1))
	packets, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	must(t, err)
	unbound, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	must(t, err)
	pipe, err := unix.Dup(int(r.Fd()))
	must(t, err)
	for fd, want := range map[int]string{
		pipe: "non-socket", plain: "does not listen", abstract: "with a path", packets: "with a path", unbound: "not bound",
	} {
		l, err := Adopt(t.Context(), fd, Address{Network: "tcp", Port: 1}, Options{})
		if l != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Errorf("%q: the descriptor is left open", want)
		}
	}
}

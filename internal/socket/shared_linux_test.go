package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSharedModeHasOneSocketAndSteersNothing(t *testing.T) {
	l := listenAt(t, ":0", Options{Shared: true})
	must(t, l.Reserve(1))
	if l.Mode() != Shared || l.Reason() != `steering = "off"` {
		t.Errorf("%s: %q", l.Mode(), l.Reason())
	}
	a, err := l.FD(0)
	must(t, err)
	b, err := l.FD(1)
	must(t, err)
	if a != b {
		t.Errorf("descriptors %d and %d", a, b)
	}
	must(t, l.Steer(to(1)))
	serve(t, l, 0)
	if got := mustAsk(t, target(l, "::1")); got != 0 {
		t.Errorf("slot %d answered", got)
	}
	if err := l.Steer(to(2)); err == nil {
		t.Error("steered to a slot that does not exist")
	}
	if _, err := l.FD(2); err == nil {
		t.Error("a descriptor for a slot that does not exist")
	}
}

// Where steering does not work the listener does without, on the same port,
// and says why. Here it cannot work because the loopback address that the
// self-test comes from is another program's.
func TestAFailedSelfTestLeavesASharedSocketThatServes(t *testing.T) {
	at := endpoint{stream: true, addr: netip.IPv4Unspecified()}
	fd, err := bindGroup(&at)
	must(t, err)
	l, err := steerAnchor(t, at, fd)
	must(t, err)
	other := endpoint{stream: true, addr: netip.MustParseAddr("127.0.0.1"), port: at.port}
	stranger := intrude(t, other) // a specific address beats the wildcard
	defer unix.Close(stranger)
	if err := l.selfTest(); err == nil {
		t.Fatal("the self-test reached its sockets")
	} else {
		sharedFrom(t, l, err.Error())
	}
}

func sharedFrom(t *testing.T, g *steered, reason string) {
	t.Helper()
	l, err := g.intoShared(reason)
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	if l.Mode() != Shared || l.Reason() != reason || reason == "" {
		t.Errorf("%s: %q", l.Mode(), l.Reason())
	}
	serve(t, l, 0)
	// 127.0.0.2 is not the stranger's.
	if got := mustAsk(t, target(l, "127.0.0.2")); got != 0 {
		t.Errorf("slot %d answered", got)
	}
	if fd, err := unix.GetsockoptInt(first(l.FD(0)), unix.SOL_SOCKET, unix.SO_REUSEPORT); err != nil || fd != 0 {
		t.Errorf("SO_REUSEPORT is %d: %v", fd, err)
	}
}

func first[T any](v T, _ error) T { return v }

func steerAnchor(t *testing.T, at endpoint, fd int) (*steered, error) {
	t.Helper()
	g := newSteered(Options{})
	g.base = newBase(Address{Network: "tcp4"}, at, Options{})
	return g, g.build(fd)
}

func TestASharedSocketThatIsBrokenIsReplaced(t *testing.T) {
	for _, do := range []func(fd int) error{
		func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) },
		disconnect,
	} {
		l := listenAt(t, ":0", Options{Shared: true})
		must(t, l.Reserve(1))
		before, err := l.FD(0)
		must(t, err)
		fd := duplicate(t, l, 1)
		must(t, do(fd))
		slots := map[int]bool{finding(t, l, Broken).Slot: true}
		slots[finding(t, l, Broken).Slot] = true
		if !slots[0] || !slots[1] {
			t.Errorf("broken: %v", slots)
		}
		must(t, unix.Close(fd))
		if after, err := l.FD(1); err != nil || after != before {
			t.Errorf("descriptor %d became %d: %v", before, after, err)
		}
		serve(t, l, 1)
		if got := mustAsk(t, target(l, "127.0.0.1")); got != 1 {
			t.Errorf("slot %d answered", got)
		}
	}
}

func TestASharedSocketsBacklogIsRestored(t *testing.T) {
	l := listenAt(t, "127.0.0.1:0", Options{Shared: true, Backlog: 99})
	fd := duplicate(t, l, 0)
	defer unix.Close(fd)
	must(t, unix.Listen(fd, 1))
	must(t, l.Maintain())
	if f := finding(t, l, Adjusted); f.Slot != -1 {
		t.Errorf("%+v", f)
	}
	if state, err := tcpListening(fd); err != nil || state.backlog != 99 {
		t.Errorf("backlog %d: %v", state.backlog, err)
	}
}

// Node and asyncio call listen themselves at every start: it is put right each
// time, and told once.
func TestARestoredBacklogIsToldOnce(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,shared=%t", address, shared), func(t *testing.T) {
				l := listenAt(t, address, Options{UID: -1, GID: -1, Shared: shared})
				fd := duplicate(t, l, 0)
				defer unix.Close(fd)
				for range 3 {
					must(t, unix.Listen(fd, 1))
					must(t, l.Maintain())
				}
				finding(t, l, Adjusted)
				select {
				case f := <-l.Findings():
					t.Errorf("told again: %+v", f)
				default:
				}
			})
		}
	}
}

// What has run out for a moment says nothing of the machine: with ever more
// descriptors to be had, Listen fails until it steers.
func TestAListenerThatLacksDescriptorsFailsAndIsNotShared(t *testing.T) {
	dir := unixDirectory(t)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		_, a, err := ParseAddress(address)
		must(t, err)
		failed := 0
		for n := uint64(3); ; n++ {
			must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: limit.Max}))
			l, err := Listen(t.Context(), a, Options{UID: -1, GID: -1})
			must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
			if err != nil {
				failed++
				if !errors.Is(err, unix.EMFILE) || n > 200 {
					t.Fatalf("%s with descriptors up to %d: %v", address, n, err)
				}
				continue
			}
			if l.Mode() != Steered || failed == 0 {
				t.Errorf("%s with descriptors up to %d is %s: %s", address, n, l.Mode(), l.Reason())
			}
			must(t, l.Close())
			break
		}
	}
}

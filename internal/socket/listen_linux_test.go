package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func tryListen(t *testing.T, address string, o Options) (Listener, error) {
	t.Helper()
	_, a, err := ParseAddress(address)
	must(t, err)
	l, err := Listen(t.Context(), a, o)
	if err == nil {
		t.Cleanup(func() { must(t, l.Close()) })
	}
	return l, err
}

func TestAPortInUseIsRefusedAndItsHolderNamed(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		for _, mine := range []Options{{}, {Shared: true}} {
			first, err := tryListen(t, network+"://:0", Options{})
			must(t, err)
			port := first.Address().Port
			// A second launcher, which makes its sockets as the first did.
			for _, host := range []string{"", "127.0.0.1", "[::1]", "0.0.0.0"} {
				_, err := tryListen(t, fmt.Sprintf("%s://%s:%d", network, host, port), mine)
				if !errors.Is(err, unix.EADDRINUSE) {
					t.Fatalf("%s %q beside ours: %v", network, host, err)
				}
				if want := fmt.Sprintf("held by pid %d ", os.Getpid()); !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q", err, want)
				}
				if want := fmt.Sprintf("listen %s ", network); !strings.HasPrefix(err.Error(), want) {
					t.Errorf("%v; want %q first", err, want)
				}
			}
		}
	}
}

func TestAPortAnotherProgramSharesIsRefusedToo(t *testing.T) {
	at := endpoint{stream: true, addr: netip.MustParseAddr("127.0.0.1")}
	fd := intrude(t, at) // with SO_REUSEPORT set
	defer unix.Close(fd)
	bound, err := boundTo(fd)
	must(t, err)
	if _, err := tryListen(t, bound.String(), Options{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("%v", err)
	}
}

func TestTheAddressCarriesThePortThatWasBound(t *testing.T) {
	for _, address := range []string{":0", "127.0.0.1:0", "tcp6://:0", "localhost:0", "udp://:0", "udp4://127.0.0.1:0"} {
		l, err := tryListen(t, address, Options{})
		must(t, err)
		_, again, err := ParseAddress(l.Address().String())
		must(t, err)
		if l.Address().Port == 0 || again != l.Address() || l.Mode() != Steered || l.Reason() != "" {
			t.Errorf("%s became %s, %s %q", address, l.Address(), l.Mode(), l.Reason())
		}
		_, asked, err := ParseAddress(address)
		must(t, err)
		if l.Name() != asked.String() {
			t.Errorf("%s is named %q", address, l.Name())
		}
	}
}

func TestFamiliesAreKeptApart(t *testing.T) {
	tests := []struct {
		address string
		v4, v6  bool
	}{
		{":0", true, true},
		{"[::]:0", true, true},
		{"0.0.0.0:0", true, false},
		{"tcp4://:0", true, false},
		{"tcp6://:0", false, true},
		{"tcp6://[::]:0", false, true},
	}
	for _, c := range tests {
		l, err := tryListen(t, c.address, Options{})
		must(t, err)
		for host, want := range map[string]bool{"127.0.0.1": c.v4, "::1": c.v6} {
			conn, err := net.Dial("tcp", target(l, host))
			if err == nil {
				conn.Close()
			}
			if got := err == nil; got != want {
				t.Errorf("%s reached from %s: %v", c.address, host, err)
			}
		}
	}
}

// A machine without IPv6 gets IPv4 for an address without a host.
func TestWithoutIPv6TheWildcardIsIPv4(t *testing.T) {
	list, err := endpoints(t.Context(), Address{Network: "tcp", Port: 80})
	must(t, err)
	if len(list) != 2 || !list[0].dual || !list[1].addr.Is4() || !list[1].addr.IsUnspecified() {
		t.Fatalf("%+v", list)
	}
	for _, cause := range []error{unix.EAFNOSUPPORT, unix.EADDRNOTAVAIL} {
		if !unavailable(fmt.Errorf("socket: %w", cause)) {
			t.Errorf("%v does not fall back", cause)
		}
	}
	for _, cause := range []error{nil, unix.EADDRINUSE, unix.EACCES} {
		if unavailable(cause) {
			t.Errorf("%v falls back", cause)
		}
	}
}

func TestAnAddressTheMachineDoesNotHave(t *testing.T) {
	_, err := tryListen(t, "192.0.2.1:0", Options{})
	if !errors.Is(err, unix.EADDRNOTAVAIL) || err.Error() != "listen tcp 192.0.2.1:0: cannot assign requested address" {
		t.Errorf("%v", err)
	}
	_, err = tryListen(t, "no-such-host.invalid:80", Options{})
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		t.Errorf("%v", err)
	}
}

func TestListenGivesUpAHostNameWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Listen(ctx, Address{Network: "tcp", Host: "no-such-host.invalid", Port: 80}, Options{}); err == nil {
		t.Error("resolved")
	}
}

// The descriptors are close-on-exec, non-blocking, and keep their number.
func TestDescriptorsAreBareAndSafeToInherit(t *testing.T) {
	for _, o := range []Options{{}, {Shared: true}} {
		l := listenAt(t, "127.0.0.1:0", o)
		must(t, l.Reserve(1))
		for slot := range 2 {
			fd, err := l.FD(slot)
			must(t, err)
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			must(t, err)
			if flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("slot %d would survive an exec", slot)
			}
			inode, err := l.Inode(slot)
			must(t, err)
			link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			must(t, err)
			if want := fmt.Sprintf("socket:[%d]", inode); link != want {
				t.Errorf("slot %d is %s, Inode says %s", slot, link, want)
			}
		}
	}
}

// nonblocking reads O_NONBLOCK of the open file description.
func nonblocking(t *testing.T, fd int) bool {
	t.Helper()
	status, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	must(t, err)
	return status&unix.O_NONBLOCK != 0
}

// A worker finds a slot's socket as it is configured, blocking where nothing is,
// whatever the slot's last worker made of it; a shared one is another
// generation's too, and stays as that has it.
func TestEveryWorkerFindsItsSocketBlockingAsConfigured(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "udp://127.0.0.1:0", "unix://" + dir + "/s"} {
		for _, o := range []Options{{}, {NonBlocking: true}, {Shared: true}, {Shared: true, NonBlocking: true}} {
			t.Run(fmt.Sprintf("%s,shared=%t,nonblocking=%t", address, o.Shared, o.NonBlocking), func(t *testing.T) {
				o.UID, o.GID = -1, -1
				l := listenAt(t, address, o)
				must(t, l.Reserve(1))
				for slot := range 2 {
					_, err := l.FD(slot)
					must(t, err)
					fd := duplicate(t, l, slot)
					if got := nonblocking(t, fd); got != o.NonBlocking {
						t.Errorf("slot %d: non-blocking %t for the first worker", slot, got)
					}
					must(t, unix.SetNonblock(fd, !o.NonBlocking))
					must(t, l.Maintain())
					if nonblocking(t, fd) == o.NonBlocking {
						t.Errorf("slot %d: Maintain changed the socket of a running worker", slot)
					}
					_, err = l.FD(slot)
					must(t, err)
					if changed := nonblocking(t, fd) == o.NonBlocking; changed == o.Shared {
						t.Errorf("slot %d: set again for the successor: %t", slot, changed)
					}
					must(t, unix.SetNonblock(fd, o.NonBlocking))
					must(t, unix.Close(fd))
				}
			})
		}
	}
}

func TestAReloadChangesBlockingForTheNextWorkerUnlessShared(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,shared=%t", address, shared), func(t *testing.T) {
				o := Options{UID: -1, GID: -1, Shared: shared}
				l := listenAt(t, address, o)
				_, err := l.FD(0)
				must(t, err)
				fd := duplicate(t, l, 0)
				defer unix.Close(fd)
				o.NonBlocking = true
				if err := l.Apply(o); (err != nil) != shared {
					t.Errorf("apply: %v", err)
				}
				if nonblocking(t, fd) {
					t.Error("the socket of a running worker was changed")
				}
				_, err = l.FD(0)
				must(t, err)
				if got := nonblocking(t, fd); got == shared {
					t.Errorf("for the next worker: non-blocking %t", got)
				}
			})
		}
	}
}

// The replacement of a shared socket is as the first one was when it was made.
func TestAReplacedSharedSocketBlocksAsConfigured(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		for _, want := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,nonblocking=%t", address, want), func(t *testing.T) {
				l := listenAt(t, address, Options{UID: -1, GID: -1, Shared: true, NonBlocking: want})
				fd := duplicate(t, l, 0)
				must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
				finding(t, l, Broken)
				if got := nonblocking(t, first(l.FD(0))); got != want {
					t.Errorf("non-blocking %t", got)
				}
				must(t, unix.Close(fd))
			})
		}
	}
}

func TestClosedListenerSaysSoAndLeavesNothing(t *testing.T) {
	before := descriptors(t)
	for _, address := range []string{"127.0.0.1:0", ":0", "udp://127.0.0.1:0"} {
		for _, o := range []Options{{}, {Shared: true}} {
			_, a, err := ParseAddress(address)
			must(t, err)
			l, err := Listen(t.Context(), a, o)
			must(t, err)
			must(t, l.Reserve(3))
			must(t, l.Close())
			must(t, l.Close())
			if _, open := <-l.Findings(); open {
				t.Error("a finding after Close")
			}
			for doing, err := range map[string]error{
				"Steer": l.Steer(to(0)), "Maintain": l.Maintain(), "Reserve": l.Reserve(9), "Apply": l.Apply(o),
				"Refuse": l.Refuse(0), "FD": second(l.FD(0)), "Pending": second(l.Pending(0)), "Inode": second(l.Inode(0)),
			} {
				if !errors.Is(err, ErrClosed) {
					t.Errorf("%s after Close: %v", doing, err)
				}
			}
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func second[T any](_ T, err error) error { return err }

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	return len(names)
}

func TestSomethingTheKernelRefusesLeavesNoDescriptor(t *testing.T) {
	l, err := tryListen(t, "127.0.0.1:0", Options{})
	must(t, err)
	before := descriptors(t)
	for range 5 {
		if _, err := tryListen(t, l.Address().String(), Options{}); err == nil {
			t.Fatal("the port was taken twice")
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestApplyChangesTheBacklogOfEverySlot(t *testing.T) {
	for _, o := range []Options{{Backlog: 17}, {Backlog: 17, Shared: true}} {
		l := listenAt(t, "127.0.0.1:0", o)
		must(t, l.Reserve(1))
		check := func(want int) {
			t.Helper()
			for slot := range 2 {
				fd, err := l.FD(slot)
				must(t, err)
				state, err := tcpListening(fd)
				must(t, err)
				if state.backlog != want {
					t.Errorf("%s: slot %d has a backlog of %d, want %d", l.Mode(), slot, state.backlog, want)
				}
			}
		}
		check(17)
		must(t, l.Apply(Options{Backlog: 33, Shared: o.Shared}))
		must(t, l.Maintain())
		check(33)
		if err := l.Apply(Options{Shared: !o.Shared}); err == nil {
			t.Errorf("%s: steering was switched on an open socket", l.Mode())
		}
	}
}

const asNobody = "BATON_TEST_AS_NOBODY"

// Everything works for a uid without any capability: the test runs the tests
// of steering, abuse and proof again as nobody.
func TestUnprivilegedUIDsMayDoAllOfThis(t *testing.T) {
	if os.Getenv(asNobody) != "" {
		t.Skip("this is the unprivileged run")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to become nobody; the other tests have shown it for this uid")
	}
	dir, err := os.MkdirTemp("/tmp", "baton-socket-") // t.TempDir is closed to others
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o755))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	binary := filepath.Join(dir, "socket.test")
	must(t, os.WriteFile(binary, self, fs.FileMode(0o755)))

	cmd := exec.CommandContext(t.Context(), binary, "-test.run",
		"TestSteerChoosesTheSlot|TestProbeProves|TestAStrangerThat|TestAbuseIsReportedOnce|TestEverySlotBroken")
	cmd.Env = append(os.Environ(), asNobody+"=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

package launcher

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"baton/handoff"
	"baton/internal/keep"
	"baton/internal/socket"
	"baton/internal/systemd"
)

// bound is a descriptor of a socket that listens, and its address.
func bound(t *testing.T, network, address string) (fd int, at string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // nobody connects
	if u, is := l.(*net.UnixListener); is {
		u.SetUnlinkOnClose(false)
	}
	f, err := l.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = f.Control(func(n uintptr) { fd, _ = syscall.Dup(int(n)) })
	if err != nil || fd <= 0 {
		t.Fatalf("%d: %v", fd, err)
	}
	a, err := socket.AddressOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, a.String()
}

func planned(t *testing.T, specs ...string) (all []handoff.ListenerPlan) {
	t.Helper()
	for _, s := range specs {
		name, a, err := socket.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, handoff.ListenerPlan{Address: a, Options: socket.Options{Name: name}})
	}
	return all
}

func same(t *testing.T, a, b int) bool {
	t.Helper()
	var x, y syscall.Stat_t
	if err := syscall.Fstat(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Fstat(b, &y); err != nil {
		t.Fatal(err)
	}
	return x.Ino == y.Ino
}

func nobody(string) bool { return false }

// By name and address, by address alone, and never twice; what differs is refused.
func TestAListenerGetsTheSocketThatIsItsOwn(t *testing.T) {
	web, webAt := bound(t, "tcp", "127.0.0.1:0")
	api, apiAt := bound(t, "tcp", "127.0.0.1:0")
	path := filepath.Join(t.TempDir(), "s")
	file, fileAt := bound(t, "unix", path)
	g := newGiven([]systemd.Given{{Name: "web", FD: web}, {Name: "web", FD: api}, {Name: "app.socket", FD: file}})

	all := planned(t, "web="+webAt, "other="+apiAt, "file="+fileAt, "new=127.0.0.1:1")
	if err := g.check(all); err != nil {
		t.Fatal(err)
	}
	has := make(map[string]bool)
	for i, want := range []int{web, api, file, -1} {
		fd, err := g.give(all[i], all, func(key string) bool { return has[key] })
		switch {
		case err != nil:
			t.Errorf("%s: %v", all[i].Options.Name, err)
		case want < 0 && fd >= 0, want >= 0 && (fd < 0 || fd == want || !same(t, fd, want)):
			t.Errorf("%s has %d, want one of %d", all[i].Options.Name, fd, want)
		}
		if fd >= 0 {
			has[all[i].Address.String()] = true
			_ = syscall.Close(fd) // a duplicate
		}
	}
	// Again once the listener is gone, and not before by another spelling.
	respelled := planned(t, "web="+strings.Replace(webAt, "tcp4://", "tcp://", 1))
	if _, err := g.give(respelled[0], respelled, func(key string) bool { return has[key] }); err == nil || !strings.Contains(err.Error(), "restart to spell it") {
		t.Errorf("one socket for two listeners: %v", err)
	}
	if fd, err := g.give(respelled[0], respelled, nobody); err != nil || !same(t, fd, web) {
		t.Errorf("%d, %v", fd, err)
	} else {
		_ = syscall.Close(fd) // a duplicate
	}

	moved := planned(t, "web=127.0.0.1:1")
	err := g.check(moved)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), webAt) || !strings.Contains(err.Error(), apiAt) {
		t.Errorf("a name at another address: %v", err)
	}
	if fd, gerr := g.give(moved[0], moved, nobody); fd != -1 || gerr == nil {
		t.Errorf("%d, %v", fd, gerr)
	}
	// A unit's name for all its sockets is no claim on those that others have.
	if err := g.check(planned(t, "web=127.0.0.1:1", "a="+webAt, "b="+apiAt)); err != nil {
		t.Error(err)
	}
}

// What nobody has is named once, and again when a reload has left it; what is no
// listening socket is no listener's.
func TestASocketThatNoListenerHasIsNamed(t *testing.T) {
	web, at := bound(t, "tcp", "127.0.0.1:0")
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pair[1])
	g := newGiven([]systemd.Given{{Name: "web", FD: web}, {Name: "odd", FD: pair[0]}})
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	g.warn(log, nil)
	g.warn(log, nil)
	for _, want := range []string{at, "[[listen]]", "odd"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in\n%s", want, said.String())
		}
	}
	if n := strings.Count(said.String(), "\n"); n != 2 {
		t.Errorf("%d lines:\n%s", n, said.String())
	}
	if err := g.check(planned(t, "odd=127.0.0.1:1")); err == nil || !strings.Contains(err.Error(), "none to serve on") {
		t.Errorf("%v", err)
	}

	said.Reset()
	all := planned(t, "x="+at)
	fd, err := g.give(all[0], all, nobody)
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(fd) // a duplicate
	if g.warn(log, all); said.Len() > 0 {
		t.Errorf("said of one that is used:\n%s", said.String())
	}
	if g.warn(log, nil); !strings.Contains(said.String(), at) {
		t.Errorf("nothing said of one that was left:\n%s", said.String())
	}
}

// Over an upgrade they keep their names, and who has them.
func TestGivenSocketsGoOn(t *testing.T) {
	web, at := bound(t, "tcp", "127.0.0.1:0")
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pair[1])
	var f keep.Files
	names := newGiven([]systemd.Given{{Name: "odd", FD: pair[0]}, {Name: "web", FD: web}}).keep(&f)
	if err := checkGiven(names, &f); err != nil {
		t.Fatal(err)
	}
	sockets, err := takeGiven(names, &f)
	if err != nil || len(sockets) != 1 || sockets[0] != (systemd.Given{Name: "web", FD: web}) || f.Len() != 0 {
		t.Fatalf("%v, %v", sockets, err)
	}
	if err := checkGiven(names, &f); err == nil {
		t.Error("one that is not there was not missed")
	}
	if _, err := takeGiven(names, &f); err == nil {
		t.Error("one that is not there was taken")
	}
	g := newGiven(sockets)
	var is syscall.Stat_t
	if err := syscall.Fstat(web, &is); err != nil {
		t.Fatal(err)
	}
	st := handoff.State{Listeners: []handoff.ListenerState{{Key: at, Socket: socket.State{Order: []socket.Socket{{Inode: is.Ino}}}}}}
	g.resumed(st, false)
	var said strings.Builder
	if g.warn(slog.New(slog.NewTextHandler(&said, nil)), planned(t, at)); said.Len() > 0 {
		t.Errorf("said of one that goes on:\n%s", said.String())
	}
	respelled := planned(t, strings.Replace(at, "tcp4://", "tcp://", 1))
	if _, err := g.give(respelled[0], respelled, func(key string) bool { return key == at }); err == nil {
		t.Error("one that is used was given")
	}
}

// A .socket unit may be called baton.socket, and its sockets by it.
func TestASocketUnitMayHaveBatonsName(t *testing.T) {
	web, _ := bound(t, "tcp", "127.0.0.1:0")
	i := &Inheritance{files: &keep.Files{}}
	if err := i.sort([]systemd.Given{{Name: "baton.socket", FD: web}}); err != nil || len(i.given) != 1 {
		t.Errorf("%v, %v", i.given, err)
	}
	for _, name := range []string{"baton.state", "baton.w11.systemd.socket", "baton.l3.m1", "baton.h.node.dir", "baton.r4.exe"} {
		if _, ours := stored(name); !ours {
			t.Errorf("%s is not taken for what was stored", name)
		}
	}
}

package diag

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// listenPath binds a Unix stream socket.
func listenPath(t *testing.T, path string, backlog int) (fd int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	check(t, unix.Listen(fd, backlog))
	return fd
}

func dialPath(t *testing.T, path string) (fd int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	check(t, unix.Connect(fd, &unix.SockaddrUnix{Name: path}))
	return fd
}

func TestTheQueueOfAUnixSocketIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd := listenPath(t, path, 7)
	for range 3 {
		dialPath(t, path)
	}
	s, found, err := UnixListening(inode(t, fd))
	check(t, err)
	if !found || s.RQueue != 3 || s.WQueue != 7 || s.Name != path {
		t.Errorf("%+v, %v; want %s with 3 of 7 queued", s, found, path)
	}
}

func TestASocketThatDoesNotListenIsNotFoundListening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listenPath(t, path, 7)
	client := dialPath(t, path)
	if s, found, err := UnixListening(inode(t, client)); found || err != nil {
		t.Errorf("a client: %+v, %v", s, err)
	}
	gone := inode(t, client)
	check(t, unix.Close(client))
	if s, found, err := UnixListening(gone); found || err != nil {
		t.Errorf("a closed one: %+v, %v", s, err)
	}
}

func TestAUnixSocketIsFoundByItsFileUnderAnyName(t *testing.T) {
	dir := t.TempDir()
	fd := listenPath(t, filepath.Join(dir, "a"), 7)
	listenPath(t, filepath.Join(dir, "other"), 7)
	check(t, unix.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	var st unix.Stat_t
	check(t, unix.Lstat(filepath.Join(dir, "b"), &st))
	socks, err := UnixListeners(FileOf(&st))
	check(t, err)
	if len(socks) != 1 || socks[0].Inode != inode(t, fd) || socks[0].Name != filepath.Join(dir, "a") {
		t.Errorf("%+v; want inode %d, bound as a", socks, inode(t, fd))
	}
}

func TestAnAbstractNameIsTold(t *testing.T) {
	name := "\x00baton-diag-test-" + filepath.Base(t.TempDir()) + t.Name()
	fd := listenPath(t, "@"+name[1:], 7)
	s, found, err := UnixListening(inode(t, fd))
	check(t, err)
	if !found || s.Name != name || s.File != (File{}) {
		t.Errorf("%+v, %v; want the name %q", s, found, name)
	}
}

func TestTheServersEndOfAUnixConnectionHasAnInodeOnceAccepted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener := listenPath(t, path, 7)
	client := inode(t, dialPath(t, path))
	peer := func() UnixSock {
		s, found, err := UnixPeer(client)
		check(t, err)
		if !found {
			t.Fatal("client not found")
		}
		return s
	}
	if s := peer(); s.Peer != 0 || s.Shutdown != 0 {
		t.Errorf("before accept: %+v", s)
	}
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	check(t, err)
	if s := peer(); s.Peer != inode(t, fd) || s.Shutdown != 0 {
		t.Errorf("after accept: %+v, want peer %d", s, inode(t, fd))
	}
	check(t, unix.Close(fd))
	if s := peer(); s.Peer != 0 || s.Shutdown != 3 {
		t.Errorf("after close: %+v", s)
	}
}

func TestUnixConnectionsAreCountedByNameAndOwner(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "s"), filepath.Join(dir, "other")
	listener, stray := listenPath(t, path, 100), listenPath(t, other, 100)
	ours := make(map[uint64]bool)
	for i := range 20 {
		dialPath(t, path)
		dialPath(t, path) // one of two stays in the queue
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		check(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		if i < 15 {
			ours[inode(t, fd)] = true
		}
		dialPath(t, other)
		fd, _, err = unix.Accept4(stray, unix.SOCK_CLOEXEC)
		check(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		ours[inode(t, fd)] = true
	}
	named := func(name string) bool { return name == path }
	n, err := UnixConnections(named, func(i uint64) bool { return ours[i] })
	check(t, err)
	all, err := UnixConnections(named, func(uint64) bool { return true })
	check(t, err)
	if n != 15 || all != 20 {
		t.Errorf("%d of %d connections are ours, want 15 of 20", n, all)
	}
}

package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func unixAddress(path string) Address { return Address{Network: "unix", Path: path} }

// unixRefused expects that a path cannot be listened on, for a cause and with
// words in the error, and that the attempt leaves nothing.
func unixRefused(t *testing.T, path string, o Options, cause error, words ...string) {
	t.Helper()
	before, readErr := os.ReadDir(filepath.Dir(path))
	l, err := listenUnix(t.Context(), unixAddress(path), o)
	if err == nil {
		_ = l.Close()
		t.Fatal("no error")
	}
	if !errors.Is(err, cause) {
		t.Errorf("%v; want %v", err, cause)
	}
	for _, w := range append(words, "listen unix "+path+": ") {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	after, againErr := os.ReadDir(filepath.Dir(path))
	if len(after) != len(before) || (readErr == nil) != (againErr == nil) {
		t.Errorf("%v before, %v after", before, after)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(unixDirectory(t), "s")
	ln, err := net.Listen("unix", path)
	unixCheck(t, err)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	unixCheck(t, ln.Close())
	l, err := listenUnix(t.Context(), unixAddress(path), unixOptions())
	unixCheck(t, err)
	unixConnected(t, path)
	unixCheck(t, l.Close())
}

func TestALiveServerKeepsItsPath(t *testing.T) {
	path := filepath.Join(unixDirectory(t), "s")
	ln, err := net.Listen("unix", path)
	unixCheck(t, err)
	defer ln.Close()
	unixRefused(t, path, unixOptions(), unix.EADDRINUSE, fmt.Sprintf("pid %d ", os.Getpid()))
	unixConnected(t, path)
}

func TestALiveServerWithAFullQueueKeepsItsPath(t *testing.T) {
	path := filepath.Join(unixDirectory(t), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	unixCheck(t, err)
	defer unix.Close(fd)
	unixCheck(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	unixCheck(t, unix.Listen(fd, 0))
	unixConnected(t, path)
	unixRefused(t, path, unixOptions(), unix.EADDRINUSE)
	unixCheck(t, os.Remove(path))
}

func TestADatagramSocketKeepsItsPath(t *testing.T) {
	path := filepath.Join(unixDirectory(t), "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	unixCheck(t, err)
	unixRefused(t, path, unixOptions(), unix.EADDRINUSE)
	unixCheck(t, c.Close())
	unixCheck(t, os.Remove(path))
}

func TestAFileThatIsNoSocketIsNotReplaced(t *testing.T) {
	path := filepath.Join(unixDirectory(t), "s")
	unixCheck(t, os.WriteFile(path, []byte("precious"), 0o600))
	unixRefused(t, path, unixOptions(), unix.EEXIST, "not a socket")
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
	unixCheck(t, os.Remove(path))
}

func TestASecondLauncherOnThePathIsRefusedByName(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	unixConnected(t, path)
	unixRefused(t, path, unixOptions(), unix.EADDRINUSE, fmt.Sprintf("held by pid %d ", os.Getpid()))
	// Also when the path itself has gone for a moment.
	unixCheck(t, l.Refuse(0))
	unixRefused(t, path, unixOptions(), unix.EADDRINUSE)
}

// The launcher that made the socket is a child that ends; its worker is whoever
// has inherited the descriptor, here a sleep.
func TestWhatWorkersOfADeadLauncherServeIsLeftAlone(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(unixDirectory(t), "s")
	hidden := filepath.Join(filepath.Dir(path), ".baton-s")
	unixCheck(t, os.Mkdir(hidden, 0o700))
	unixCheck(t, os.WriteFile(filepath.Join(hidden, "0"), nil, 0o600))
	out, err := exec.Command(python, "-c", `import socket, subprocess, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(9)
null = subprocess.DEVNULL
print(subprocess.Popen(["sleep", "1000"], stdin=null, stdout=null, stderr=null, pass_fds=[s.fileno()]).pid)`, path).Output()
	unixCheck(t, err)
	worker, err := strconv.Atoi(strings.TrimSpace(string(out)))
	unixCheck(t, err)
	defer unix.Kill(worker, unix.SIGKILL)
	unixRefused(t, path, unixOptions(), unix.EADDRINUSE, "left by a launcher that has ended")
	if _, err := os.Stat(filepath.Join(hidden, "0")); err != nil {
		t.Errorf("the workers' link: %v", err)
	}
	unixCheck(t, os.RemoveAll(hidden))
	unixCheck(t, os.Remove(path))
}

func TestWhatADeadLauncherLeftIsCleared(t *testing.T) {
	path := filepath.Join(unixDirectory(t), "s")
	hidden := filepath.Join(filepath.Dir(path), ".baton-s")
	unixCheck(t, os.MkdirAll(filepath.Join(hidden, "root", "run"), 0o755))
	outside := filepath.Join(filepath.Dir(path), "outside")
	unixCheck(t, os.MkdirAll(filepath.Join(outside, "kept"), 0o700))
	unixCheck(t, os.Symlink(outside, filepath.Join(hidden, "elsewhere")))
	for _, name := range []string{"0", "pid", "next", "root/run/s"} {
		unixCheck(t, os.WriteFile(filepath.Join(hidden, name), []byte("1"), 0o600))
	}
	l, err := listenUnix(t.Context(), unixAddress(path), unixOptions())
	unixCheck(t, err)
	st, err := os.Stat(hidden)
	unixCheck(t, err)
	if st.Mode().Perm() != 0o700 {
		t.Errorf("the private directory has mode %v", st.Mode())
	}
	unixConnected(t, path)
	unixCheck(t, l.Close())
	unixCheck(t, os.Remove(filepath.Join(outside, "kept"))) // no link was followed
	unixCheck(t, os.Remove(outside))
}

func TestADirectoryThatAnotherUserLeftIsMadeAnew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a directory to another user takes root")
	}
	path := filepath.Join(unixDirectory(t), "s")
	hidden := filepath.Join(filepath.Dir(path), ".baton-s")
	unixCheck(t, os.Mkdir(hidden, 0o700))
	unixCheck(t, os.WriteFile(filepath.Join(hidden, "pid"), []byte("1"), 0o600))
	unixCheck(t, os.Chown(hidden, 12345, 12345))
	l, err := listenUnix(t.Context(), unixAddress(path), unixOptions())
	unixCheck(t, err)
	var st unix.Stat_t
	unixCheck(t, unix.Stat(hidden, &st))
	if st.Uid != 0 {
		t.Errorf("the private directory belongs to %d", st.Uid)
	}
	unixCheck(t, l.Close())
}

func TestALinkInPlaceOfThePrivateDirectoryIsNotFollowed(t *testing.T) {
	dir := unixDirectory(t)
	elsewhere := t.TempDir()
	unixCheck(t, os.WriteFile(filepath.Join(elsewhere, "precious"), nil, 0o600))
	unixCheck(t, os.Symlink(elsewhere, filepath.Join(dir, ".baton-s")))
	unixRefused(t, filepath.Join(dir, "s"), unixOptions(), unix.ENOTDIR)
	if _, err := os.Lstat(filepath.Join(elsewhere, "precious")); err != nil {
		t.Error(err)
	}
	unixCheck(t, os.Remove(filepath.Join(dir, ".baton-s")))
}

func TestAPathInNoDirectoryIsAnError(t *testing.T) {
	unixRefused(t, filepath.Join(unixDirectory(t), "absent", "s"), unixOptions(), unix.ENOENT, "absent")
}

func TestAPathTooLongForTheKernelIsBoundAllTheSame(t *testing.T) {
	top := unixDirectory(t)
	dir := filepath.Join(top, strings.Repeat("d", 120))
	unixCheck(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, strings.Repeat("s", 80))
	l, err := listenUnix(t.Context(), unixAddress(path), unixOptions())
	unixCheck(t, err)
	unixCheck(t, l.Reserve(1))
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	if l.Mode() != Steered {
		t.Errorf("mode %s: %s", l.Mode(), l.Reason())
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	unixCheck(t, err)
	unixConnected(t, reach(fd, filepath.Base(path)))
	unixCheck(t, unix.Close(fd))
	if p, err := l.Pending(1); p.Queued != 1 {
		t.Errorf("%v, %v; want 1 queued", p, err)
	}
	unixRefused(t, path, unixOptions(), unix.EADDRINUSE)
	unixCheck(t, l.Close())
	fd, err = unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	unixCheck(t, err)
	stale, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	unixCheck(t, err)
	unixCheck(t, unix.Bind(stale, &unix.SockaddrUnix{Name: reach(fd, filepath.Base(path))}))
	unixCheck(t, unix.Close(stale))
	unixCheck(t, unix.Close(fd))
	l, err = listenUnix(t.Context(), unixAddress(path), unixOptions())
	unixCheck(t, err)
	unixCheck(t, l.Close())

	// Beyond that no client could ever name it.
	unixRefused(t, path+strings.Repeat("s", 30), unixOptions(), unix.ENAMETOOLONG, "110 are the name")
	unixCheck(t, os.Remove(dir))
}

func TestTheOwnerOfAnotherFileIsNotChanged(t *testing.T) {
	dir, err := unix.Open(t.TempDir(), unix.O_PATH|unix.O_CLOEXEC, 0)
	unixCheck(t, err)
	defer unix.Close(dir)
	name := reach(dir, "f")
	unixCheck(t, os.WriteFile(name, nil, 0o640))
	o := unixOptions()
	o.Mode = 0o600
	if err := own(dir, "f", fileID{1, 1}, o, 0); !errors.Is(err, unix.ESTALE) {
		t.Errorf("own: %v", err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

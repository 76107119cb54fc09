package socket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// unixOptions are options that leave the owner alone.
func unixOptions() Options { return Options{Name: "test", UID: -1, GID: -1} }

// unixWarned fails the test when something is logged as a warning.
type unixWarned struct{ t *testing.T }

func (w unixWarned) Write(line []byte) (int, error) {
	w.t.Errorf("logged: %s", line)
	return len(line), nil
}

// unixListen listens on a path of its own and, with the test, closes and sees
// that nothing is left: no goroutine, no descriptor, no file.
func unixListen(t *testing.T, o Options) *unixListener {
	t.Helper()
	dir := unixDirectory(t)
	o.Log = slog.New(slog.NewTextHandler(unixWarned{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	l, err := listenUnix(t.Context(), Address{Network: "unix", Path: filepath.Join(dir, "s")}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return l.(*unixListener)
}

// unixDirectory is a short directory, for paths that fit in a sockaddr_un,
// which must be empty in the end.
func unixDirectory(t *testing.T) string {
	t.Helper()
	before := unixDescriptors(t)
	// Goroutines of an earlier test are that one's to answer for.
	running := goleak.IgnoreCurrent()
	dir, err := os.MkdirTemp("", "b")
	unixCheck(t, err)
	t.Cleanup(func() {
		goleak.VerifyNone(t, running)
		left, err := os.ReadDir(dir)
		unixCheck(t, err)
		for _, e := range left {
			t.Errorf("%s is left behind", e.Name())
		}
		unixCheck(t, os.RemoveAll(dir))
		for fd, to := range unixDescriptors(t) {
			if before[fd] == "" {
				t.Errorf("descriptor %s to %s is left open", fd, to)
			}
		}
	})
	return dir
}

// unixDescriptors are this process's, but for those of the runtime's poller,
// which opens them once, and of the one that reads the directory.
func unixDescriptors(t *testing.T) map[string]string {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	unixCheck(t, err)
	open := make(map[string]string)
	for _, n := range names {
		to, err := os.Readlink("/proc/self/fd/" + n.Name())
		if err != nil || to == "anon_inode:[eventpoll]" || to == "anon_inode:[eventfd]" {
			continue
		}
		open[n.Name()] = to
	}
	return open
}

func unixCheck(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unixAwait waits until done reports true; it fails the test after a minute.
func unixAwait(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: still not %s", what)
		}
	}
}

// unixFinding waits for a finding of a kind.
func unixFinding(t *testing.T, l *unixListener, kind FindingKind) Finding {
	t.Helper()
	for {
		select {
		case f, ok := <-l.Findings():
			if !ok {
				t.Fatalf("findings are closed, without %s", kind)
			}
			if f.Listener != l.Name() {
				t.Errorf("%+v is not of listener %s", f, l.Name())
			}
			if f.Kind == kind {
				return f
			}
			t.Errorf("unexpected %+v", f)
		case <-time.After(time.Minute):
			t.Fatalf("after 5s: no finding %s", kind)
		}
	}
}

// unixNoFinding reports what was found though nothing should be.
func unixNoFinding(t *testing.T, l *unixListener) {
	t.Helper()
	select {
	case f, ok := <-l.Findings():
		if ok {
			t.Errorf("unexpected %+v", f)
		}
	default:
	}
}

// unixDup is a worker's duplicate of a slot's descriptor.
func unixDup(t *testing.T, l *unixListener, slot int) int {
	t.Helper()
	fd, err := l.FD(slot)
	unixCheck(t, err)
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	unixCheck(t, err)
	return dup
}

// unixWorker serves a slot: whoever connects is told the worker's name, a line
// at a time, for each line he sends. It ends with the test, or with stop, and
// its connections with it.
func unixWorker(t *testing.T, l *unixListener, slot int, name string) (stop func()) {
	t.Helper()
	f := os.NewFile(uintptr(unixDup(t, l, slot)), name)
	ln, err := net.FileListener(f)
	unixCheck(t, err)
	unixCheck(t, f.Close())
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { // ends when ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() { // ends when either end closes
				defer context.AfterFunc(ctx, func() { _ = c.Close() })()
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					if _, err := fmt.Fprintln(c, name); err != nil {
						return
					}
				}
			})
		}
	})
	stop = func() { cancel(); _ = ln.Close(); served.Wait() }
	t.Cleanup(stop)
	return stop
}

// unixAsk connects to the path and asks who is there.
func unixAsk(path string) (string, error) {
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, "who"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return line[:max(len(line)-1, 0)], err
}

// unixConnected is a client that stays connected until the test ends.
func unixConnected(t *testing.T, path string) int {
	t.Helper()
	fd, err := connectUnix(path)
	unixCheck(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func unixInode(t *testing.T, fd int) uint64 {
	t.Helper()
	inode, err := socketInode(fd)
	unixCheck(t, err)
	return inode
}

func unixName(t *testing.T, fd int) string {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	unixCheck(t, err)
	return sa.(*unix.SockaddrUnix).Name
}

// unixQueued is Pending, which must not fail.
func unixQueued(t *testing.T, l *unixListener, slot int) int {
	t.Helper()
	p, err := l.Pending(slot)
	unixCheck(t, err)
	return p.Queued
}

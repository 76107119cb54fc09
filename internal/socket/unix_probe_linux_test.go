package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAUnixProbeIsAnsweredByTheSlotItMeans(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	stop := unixWorker(t, l, 0, "0")
	// The path leads to slot 0, whose worker accepts; slot 1 has none.
	unixCheck(t, l.Probe(t.Context(), 0, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := l.Probe(ctx, 1, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("probe of a slot that nobody serves: %v", err)
	}
	unixWorker(t, l, 1, "1")
	unixCheck(t, l.Probe(t.Context(), 1, nil))
	stop()
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := l.Probe(ctx, 0, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("probe of a slot whose worker has stopped: %v", err)
	}
	if err := l.Probe(t.Context(), 7, nil); !errors.Is(err, ErrNoSlot) {
		t.Errorf("probe of no slot: %v", err)
	}
}

func TestAUnixProbeWaitsForTheWorkerToCome(t *testing.T) {
	l := unixListen(t, unixOptions())
	proved := make(chan error, 1)
	go func() { proved <- l.Probe(t.Context(), 0, nil) }() // ends once accepted
	unixAwait(t, "queued", func() bool { return unixQueued(t, l, 0) == 1 })
	select {
	case err := <-proved:
		t.Fatalf("proved before anybody accepted: %v", err)
	default:
	}
	unixWorker(t, l, 0, "0")
	unixCheck(t, <-proved)
}

func TestAUnixProbeAcceptedAndClosedAtOnceIsProof(t *testing.T) {
	l := unixListen(t, unixOptions())
	dup := unixDupClosed(t, l, 0)
	proved := make(chan error, 1)
	go func() { proved <- l.Probe(t.Context(), 0, nil) }() // ends once accepted
	unixAwait(t, "queued", func() bool { return unixQueued(t, l, 0) == 1 })
	fd, _, err := unix.Accept4(dup, unix.SOCK_CLOEXEC)
	unixCheck(t, err)
	unixCheck(t, unix.Close(fd))
	unixCheck(t, <-proved)
}

func TestAUnixProbeOutlivesABrokenSocket(t *testing.T) {
	l := unixListen(t, unixOptions())
	worker := unixDup(t, l, 0)
	proved := make(chan error, 1)
	go func() { proved <- l.Probe(t.Context(), 0, nil) }() // ends once accepted
	unixAwait(t, "queued", func() bool { return unixQueued(t, l, 0) == 1 })
	unixCheck(t, unix.Shutdown(worker, unix.SHUT_RDWR))
	unixFinding(t, l, Broken)
	unix.Close(worker) // which resets what it had queued: no proof
	unixAwait(t, "queued on the fresh socket", func() bool { return unixQueued(t, l, 0) == 1 })
	unixWorker(t, l, 0, "0")
	unixCheck(t, <-proved)
}

func TestAUnixProbeThatWasGivenUpIsNotPending(t *testing.T) {
	l := unixListen(t, unixOptions())
	giveUp := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := l.Probe(ctx, 0, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("probe of a slot that nobody serves: %v", err)
		}
	}
	giveUp()
	unixConnected(t, l.Address().Path)
	giveUp()
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d pending, want the one that is no probe", n)
	}
	stop := unixWorker(t, l, 0, "0")
	unixAwait(t, "every probe closed", func() bool {
		unixCheck(t, l.Maintain())
		return len(l.slots[0].given) == 0
	})
	stop()
	giveUp()
	unixCheck(t, unix.Shutdown(unixDupClosed(t, l, 0), unix.SHUT_RDWR))
	unixFinding(t, l, Broken)
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d pending on the fresh socket, want 1", n)
	}
	giveUp() // and Close closes it
}

func TestASharedUnixProbeCountsOnlyTheOwner(t *testing.T) {
	o := unixOptions()
	o.Shared = true
	l := unixListen(t, o)
	unixCheck(t, l.Reserve(1))
	unixWorker(t, l, 0, "0")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	denied := 0
	err := l.Probe(ctx, 1, func(uint64) bool {
		if denied++; denied == 3 {
			cancel() // it has seen that another accepts, more than once
		}
		return false
	})
	if !errors.Is(err, context.Canceled) || denied < 3 || !strings.Contains(err.Error(), "another worker") {
		t.Errorf("accepted by another: %v", err)
	}
	asked := 0
	unixCheck(t, l.Probe(t.Context(), 1, func(inode uint64) bool {
		asked++
		return inode != 0 && asked == 3
	}))
}

// TestUnixWithoutHardLinksIsShared takes CAP_FOWNER away, so that linking a
// socket of another user is refused (fs.protected_hardlinks).
func TestUnixWithoutHardLinksIsShared(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a file to another user takes root")
	}
	if b, err := os.ReadFile("/proc/sys/fs/protected_hardlinks"); err != nil || string(bytes.TrimSpace(b)) != "1" {
		t.Skipf("fs.protected_hardlinks is %s, %v", b, err)
	}
	dir := unixDirectory(t)
	path := filepath.Join(dir, "s")
	o := unixOptions()
	o.UID = 12345
	l := unixWithoutFowner(t, func() (Listener, error) {
		return listenUnix(t.Context(), unixAddress(path), o)
	}).(*unixListener)
	if l.Mode() != Shared || !strings.Contains(l.Reason(), "link") || !strings.Contains(l.Reason(), "not permitted") {
		t.Errorf("mode %s: %s", l.Mode(), l.Reason())
	}
	unixCheck(t, l.Reserve(1))
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	unixConnected(t, path)
	unixCheck(t, l.Maintain())
	unixNoFinding(t, l)
	if n := unixQueued(t, l, 1); n != 1 {
		t.Errorf("%d queued, want 1", n)
	}
	unixCheck(t, os.Remove(path)) // its only name
	unixFinding(t, l, Broken)
	unixWorker(t, l, 0, "0")
	unixCheck(t, l.Probe(t.Context(), 0, nil))
	if who, err := unixAsk(path); who != "0" {
		t.Errorf("%q, %v answered", who, err)
	}
	unixFinding(t, l, Broken) // for the other number of the same socket
	inode, err := l.Inode(0)
	unixCheck(t, err)
	unixCheck(t, l.Refuse(0)) // takes its only name, and must not cost its queue
	unixCheck(t, l.Maintain())
	unixNoFinding(t, l)
	if now, err := l.Inode(0); now != inode {
		t.Errorf("inode %d was %d, %v", now, inode, err)
	}
	unixCheck(t, l.Reserve(0))
	unixFinding(t, l, Broken)
	unixConnected(t, path)
	unixCheck(t, l.Close())
}

// unixWithoutFowner calls do on a thread without CAP_FOWNER, which ends then.
func unixWithoutFowner(t *testing.T, do func() (Listener, error)) Listener {
	t.Helper()
	type result struct {
		l   Listener
		err error
	}
	done := make(chan result)
	go func() { // ends after do, and its thread with it
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		if err == nil {
			data[0].Effective &^= 1 << unix.CAP_FOWNER
			err = unix.Capset(&header, &data[0])
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		l, err := do()
		done <- result{l, err}
	}()
	r := <-done
	unixCheck(t, r.err)
	return r.l
}

// TestUnixAsAnUnprivilegedUser runs TestUnprivilegedUnix as nobody.
func TestUnixAsAnUnprivilegedUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	dir := unixDirectory(t)
	unixCheck(t, os.Mkdir(filepath.Join(dir, "nobody"), 0o700))
	unixCheck(t, os.Chown(filepath.Join(dir, "nobody"), 65534, 65534))
	unixCheck(t, os.Chmod(dir, 0o711))
	// By its name in /proc, since the way to the file itself is root's alone.
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestUnprivilegedUnix$", "-test.v")
	cmd.Env = append(os.Environ(), "BATON_UNIX_DIRECTORY="+filepath.Join(dir, "nobody"))
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestUnprivilegedUnix")) {
		t.Errorf("%v\n%s", err, out)
	}
	unixCheck(t, os.Remove(filepath.Join(dir, "nobody"))) // nothing was left in it
}

func TestUnprivilegedUnix(t *testing.T) {
	dir := os.Getenv("BATON_UNIX_DIRECTORY")
	if dir == "" {
		t.Skip("run by TestUnixAsAnUnprivilegedUser")
	}
	path := filepath.Join(dir, "s")
	o := unixOptions()
	o.UID = 0
	unixRefused(t, path, o, unix.EPERM, "chown 0:-1")

	ln, err := listenUnix(t.Context(), unixAddress(path), unixOptions())
	unixCheck(t, err)
	l := ln.(*unixListener)
	if l.Mode() != Steered {
		t.Fatalf("mode %s: %s", l.Mode(), l.Reason())
	}
	unixCheck(t, l.Reserve(1))
	fd, err := l.FD(1)
	unixCheck(t, err)
	if name, want := unixName(t, fd), filepath.Join(dir, ".baton-s", "fresh"); name != want {
		t.Errorf("bound to %s, want %s", name, want)
	}
	stop := unixWorker(t, l, 1, "1")
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	unixCheck(t, l.Probe(t.Context(), 1, nil))
	unixCheck(t, os.Remove(path))
	unixFinding(t, l, Unlinked)
	if who, err := unixAsk(path); who != "1" {
		t.Errorf("%q, %v answered", who, err)
	}
	client := unixConnected(t, path)
	unixAwait(t, "counted", func() bool {
		n, err := l.Connections(func(uint64) bool { return true })
		unixCheck(t, err)
		return n == 1
	})
	unix.Close(client)
	stop()
	unixRefused(t, path, unixOptions(), unix.EADDRINUSE, fmt.Sprintf("pid %d ", os.Getpid()))
	unixCheck(t, l.Close())
	unixRefused(t, filepath.Join(filepath.Dir(dir), "s"), unixOptions(), unix.EACCES, "mkdir")
}

// BenchmarkUnixSteer is one swap of the path; BenchmarkUnixMaintain the look
// that the engine takes each second, with two slots.
func BenchmarkUnixSteer(b *testing.B) {
	l := unixBench(b)
	for i := 0; b.Loop(); i++ {
		if err := l.Steer([]Share{{Slot: i % 2, Weight: 1}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnixMaintain(b *testing.B) {
	l := unixBench(b)
	for b.Loop() {
		if err := l.Maintain(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnixUnlinked is how long the path is gone after an unlink.
func BenchmarkUnixUnlinked(b *testing.B) {
	l := unixBench(b)
	path := l.Address().Path
	for b.Loop() {
		if err := os.Remove(path); err != nil {
			b.Fatal(err)
		}
		for _, err := os.Lstat(path); err != nil; _, err = os.Lstat(path) {
			runtime.Gosched() // or two processors may both be busy with this loop
		}
	}
}

// BenchmarkUnixListen makes a listener of one slot and closes it.
func BenchmarkUnixListen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "s")
	for b.Loop() {
		l, err := listenUnix(b.Context(), unixAddress(path), unixOptions())
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func unixBench(b *testing.B) Listener {
	b.Helper()
	l, err := listenUnix(b.Context(), unixAddress(filepath.Join(b.TempDir(), "s")), unixOptions())
	if err == nil {
		err = l.Reserve(1)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

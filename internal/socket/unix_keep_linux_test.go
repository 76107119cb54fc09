package socket

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func resumeUnixListener(h *handed) *unixListener {
	h.t.Helper()
	return h.resume().(*unixListener)
}

func wantAnswer(t *testing.T, l *unixListener, want string) {
	t.Helper()
	if got, err := unixAsk(l.address.Path); err != nil || got != want {
		t.Errorf("answered by %q, %v; want %s", got, err, want)
	}
}

func TestAUnixListenerGoesOn(t *testing.T) {
	l := unixListen(t, unixOptions())
	must(t, l.Reserve(1))
	must(t, l.Steer(to(1)))
	queued := unixConnected(t, l.address.Path) // nobody has accepted it yet
	unixWorker(t, l, 0, "old")
	l2 := resumeUnixListener(leave(t, l))
	if n := unixQueued(t, l2, 1); n != 1 {
		t.Errorf("%d connections queued", n)
	}
	unixWorker(t, l2, 1, "new")
	_, err := unix.Write(queued, []byte("who\n"))
	must(t, err)
	unixAwait(t, "answered from the queue", func() bool {
		n, err := unix.Read(queued, make([]byte, 16))
		return err == nil && n == 4
	})
	wantAnswer(t, l2, "new")
	must(t, l2.Steer(to(0)))
	wantAnswer(t, l2, "old")
	must(t, l2.Reserve(2)) // a socket that no other one's file or name is taken from
	unixWorker(t, l2, 2, "third")
	must(t, l2.Steer(to(2)))
	wantAnswer(t, l2, "third")
	l3 := resumeUnixListener(leave(t, l2))
	wantAnswer(t, l3, "third")
	must(t, l3.Steer(to(1)))
	wantAnswer(t, l3, "new")
	unixNoFinding(t, l3)
}

// The lock is on the open file description, which comes along: nobody gets the path in
// between, and who asks after it is told of a launcher that is there.
func TestALockOnAUnixPathIsHeldThroughout(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.address.Path
	locked := func(when string) {
		t.Helper()
		if _, err := openPlace(path); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: %v", when, err)
		}
	}
	h := leave(t, l)
	locked("between")
	resumeUnixListener(h)
	locked("after")
}

func TestAUnixPathThatIsGoneMeanwhileIsPutBack(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixWorker(t, l, 0, "it")
	h := leave(t, l)
	must(t, os.Remove(l.address.Path))
	l2 := resumeUnixListener(h)
	wantAnswer(t, l2, "it")
	unixFinding(t, l2, Unlinked)
	must(t, os.Remove(l2.address.Path)) // and again, told by the new watch
	unixFinding(t, l2, Unlinked)
	wantAnswer(t, l2, "it")
}

// Without a descriptor store only sockets come back, from workers that are alive; the
// lock has gone with the launcher, the links have not.
func TestAUnixListenerGoesOnWithSomeOfItsSockets(t *testing.T) {
	l := unixListen(t, unixOptions())
	must(t, l.Reserve(1))
	must(t, l.Reserve(2))
	unixWorker(t, l, 1, "one")
	must(t, l.Steer(to(1)))
	h := leave(t, l)
	h.lose("l1.m1", "l1.m3", "l1.dir")
	l2 := resumeUnixListener(h)
	wantAnswer(t, l2, "one")
	for range 2 {
		if f := unixFinding(t, l2, Broken); f.Slot != 0 && f.Slot != 2 {
			t.Errorf("%+v", f)
		}
	}
	unixWorker(t, l2, 2, "two")
	must(t, l2.Steer(to(2)))
	wantAnswer(t, l2, "two")
	must(t, l2.Steer(to(1)))
	wantAnswer(t, l2, "one")
	if _, err := openPlace(l2.address.Path); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("the lock: %v", err)
	}
}

func TestAUnixListenerIsNotResumedBesideAnother(t *testing.T) {
	l := unixListen(t, unixOptions())
	h := leave(t, l)
	h.lose("l1.dir")
	p, err := resumePlace(l.address.Path, -1) // another launcher has the lock
	must(t, err)
	if _, err := Resume(h.state, "l1", &h.files, nil); !errors.Is(err, unix.EADDRINUSE) ||
		!strings.Contains(err.Error(), "held by pid") {
		t.Errorf("%v", err)
	}
	must(t, p.remove())
	must(t, os.Remove(l.address.Path))
}

func TestTurnsGoOn(t *testing.T) {
	l := unixListen(t, unixOptions())
	must(t, l.Reserve(1))
	unixWorker(t, l, 0, "a")
	unixWorker(t, l, 1, "b")
	must(t, l.Steer([]Share{{Slot: 0, Weight: 1}, {Slot: 1, Weight: 1}}))
	l2 := resumeUnixListener(leave(t, l))
	for _, want := range []string{"a", "b", "a"} {
		unixAwait(t, want+"'s turn", func() bool {
			got, err := unixAsk(l2.address.Path)
			return err == nil && got == want
		})
	}
}

func TestUnitedAndRefusedUnixSlotsStaySo(t *testing.T) {
	l := unixListen(t, unixOptions())
	must(t, l.Unite(1, 2))
	must(t, l.Steer(to(1)))
	must(t, l.Refuse(1))
	l2 := resumeUnixListener(leave(t, l))
	if got := l2.Sharing(2); len(got) != 2 {
		t.Errorf("united are %v", got)
	}
	if _, err := os.Lstat(l2.address.Path); !os.IsNotExist(err) {
		t.Errorf("the path of a refused socket: %v", err)
	}
	must(t, l2.Reserve(1))
	unixWorker(t, l2, 1, "it")
	wantAnswer(t, l2, "it")
}

// A socket that no slot has any more is kept until its queue is empty.
func TestAnOldUnixSocketsQueueOutlivesTheLauncher(t *testing.T) {
	l := unixListen(t, unixOptions())
	c := unixConnected(t, l.address.Path)
	must(t, l.Reserve(1))
	must(t, l.Steer(to(1)))
	worker := unixDup(t, l, 0)
	defer unix.Close(worker)
	must(t, l.Unite(0, 1)) // which have slot 1's from now on
	l2 := resumeUnixListener(leave(t, l))
	must(t, l2.Maintain())
	if len(l2.old) != 1 {
		t.Fatalf("%d old sockets", len(l2.old))
	}
	fd, _, err := unix.Accept(worker)
	must(t, err)
	unix.Close(fd)
	if n, err := unix.Read(c, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the queued connection: %d, %v", n, err)
	}
	must(t, l2.Maintain())
	if len(l2.old) != 0 {
		t.Error("an empty one is kept")
	}
}

func TestTheWatchOfAResumedUnixSocketIsThere(t *testing.T) {
	l2 := resumeUnixListener(leave(t, unixListen(t, unixOptions())))
	fd := unixDup(t, l2, 0)
	defer unix.Close(fd)
	must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	unixFinding(t, l2, Broken)
}

func TestWhatAProbeLeftInAUnixQueueIsStillNotCounted(t *testing.T) {
	l := unixListen(t, unixOptions())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Probe(ctx, 0, nil); err == nil {
		t.Fatal("accepted by nobody")
	}
	l2 := resumeUnixListener(leave(t, l))
	if n := unixQueued(t, l2, 0); n != 0 {
		t.Errorf("%d queued", n)
	}
	unixWorker(t, l2, 0, "it")
	unixCheck(t, l2.Probe(t.Context(), 0, nil))
}

func TestAUnixListenerInSharedModeGoesOn(t *testing.T) {
	o := unixOptions()
	o.Shared = true
	l := unixListen(t, o)
	must(t, l.Reserve(3))
	unixWorker(t, l, 3, "it")
	l2 := resumeUnixListener(leave(t, l))
	if l2.Mode() != Shared || l2.Reason() != l.Reason() || len(l2.Sharing(3)) != 2 {
		t.Errorf("%s, %q, %v", l2.Mode(), l2.Reason(), l2.Sharing(3))
	}
	wantAnswer(t, l2, "it")
}

func TestAMovedUnixDirectoryIsFoundAgain(t *testing.T) {
	dir := filepath.Join(unixDirectory(t), "d")
	must(t, os.Mkdir(dir, 0o755))
	l, err := listenUnix(t.Context(), Address{Network: "unix", Path: filepath.Join(dir, "s")}, unixOptions())
	must(t, err)
	u := l.(*unixListener)
	unixWorker(t, u, 0, "it")
	t.Cleanup(func() { must(t, errors.Join(os.Remove(dir), os.Remove(dir+"2"))) })
	h := leave(t, l)
	must(t, os.Rename(dir, dir+"2"))
	must(t, os.Mkdir(dir, 0o755))
	l2 := resumeUnixListener(h)
	wantAnswer(t, l2, "it")
}

package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// unixBlind ends the watch of names, so that only Maintain can see a change.
func unixBlind(t *testing.T, l *unixListener) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sockets() {
		l.watch.unname(s.names)
		s.names = -1
	}
}

func TestAUnixSocketUnlinkedByAChildComesBack(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	unixWorker(t, l, 0, "0")
	for range 20 {
		unixCheck(t, os.Remove(path))
		began := time.Now()
		unixAwait(t, "back", func() bool {
			_, err := os.Lstat(path)
			return err == nil
		})
		t.Logf("back after %v", time.Since(began))
		if f := unixFinding(t, l, Unlinked); f.Slot != 0 {
			t.Errorf("%+v, want slot 0", f)
		}
		if who, err := unixAsk(path); who != "0" {
			t.Errorf("%q, %v answered", who, err)
		}
	}
}

func TestAUnixSocketRenamedAwayComesBack(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	for range 10 {
		unixQuiet(t, l)
		unixCheck(t, os.Rename(path, path+".old"))
		unixFinding(t, l, Unlinked)
		unixConnected(t, path)
		unixCheck(t, os.Remove(path+".old"))
	}
}

func TestAChangeOfNamesWakesTheWatchOnce(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, os.Remove(l.Address().Path))
	unixFinding(t, l, Unlinked)
	unixQuiet(t, l)
}

// unixQuiet waits until the watch has seen every change of names so far.
func unixQuiet(t *testing.T, l *unixListener) {
	t.Helper()
	unixAwait(t, "without events left", func() bool {
		l.mu.Lock() // not while one is being acted upon
		defer l.mu.Unlock()
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(l.watch.inotify), Events: unix.POLLIN}}, 0)
		unixCheck(t, err)
		return n == 0
	})
}

func TestSteeringLeavesNoNamesBehind(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	for _, slot := range []int{0, 1, 1, 0, 0} {
		unixCheck(t, l.Steer([]Share{{Slot: slot, Weight: 1}}))
		var st unix.Stat_t
		unixCheck(t, unix.Lstat(l.Address().Path, &st))
		if st.Nlink != 2 {
			t.Errorf("slot %d has %d names, want the path and the private one", slot, st.Nlink)
		}
	}
}

func TestUnixMaintainLinksThePathBackWithoutTheWatch(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixBlind(t, l)
	unixCheck(t, os.Remove(l.Address().Path))
	unixCheck(t, l.Maintain())
	unixFinding(t, l, Unlinked)
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d queued, want 1", n)
	}
	unixCheck(t, l.Maintain())
	unixNoFinding(t, l)
}

func TestASteeredSlotUnlinkedIsTheOneThatComesBack(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	unixCheck(t, os.Remove(l.Address().Path))
	if f := unixFinding(t, l, Unlinked); f.Slot != 1 {
		t.Errorf("%+v, want slot 1", f)
	}
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 1); n != 1 {
		t.Errorf("%d queued on slot 1, want 1", n)
	}
}

func TestAPathTakenByAStrangerIsTakenBack(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	takers := map[string]func(name string) error{
		"pid ": func(name string) error {
			ln, err := net.Listen("unix", name)
			if err != nil {
				return err
			}
			ln.(*net.UnixListener).SetUnlinkOnClose(false)
			t.Cleanup(func() { _ = ln.Close() })
			return nil
		},
		"not a socket": func(name string) error { return os.WriteFile(name, nil, 0o600) },
	}
	for detail, take := range takers {
		unixCheck(t, take(path+".new"))
		unixCheck(t, os.Rename(path+".new", path))
		// One of the two may be left to Maintain, for they come at once.
		unixAwait(t, "taken back", func() bool {
			unixCheck(t, l.Maintain())
			st, err := l.place.shown()
			return err == nil && identify(&st) == l.slots[0].file
		})
		if f := unixFinding(t, l, Stranger); f.Slot != -1 || !strings.Contains(f.Detail, detail) {
			t.Errorf("%+v, want one that says %q", f, detail)
		}
	}
	unixConnected(t, path)
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d queued, want 1", n)
	}
}

func TestTheWatchTakesAPathBackAtOnceAndThenPauses(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	take := func() {
		unixCheck(t, os.WriteFile(path+".new", nil, 0o600))
		unixCheck(t, os.Rename(path+".new", path))
	}
	take()
	unixFinding(t, l, Stranger)
	l.mu.Lock()
	l.taken = time.Now().Add(time.Hour) // just now, and for the length of the test
	l.mu.Unlock()
	take()
	l.woken()
	if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
		t.Errorf("the path was taken back without a pause: %v, %v", st, err)
	}
	unixCheck(t, l.Maintain())
	unixFinding(t, l, Stranger)
}

func TestADirectoryAtThePathIsAnErrorAndStays(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	l.mu.Lock() // one change, not two
	unixCheck(t, os.Remove(path))
	unixCheck(t, os.Mkdir(path, 0o700))
	l.mu.Unlock()
	if err := l.Maintain(); !errors.Is(err, unix.EISDIR) {
		t.Errorf("maintain: %v", err)
	}
	l.mu.Lock() // not while the watch looks
	unixCheck(t, os.Remove(path))
	l.mu.Unlock()
	unixCheck(t, l.Maintain())
	unixFinding(t, l, Unlinked)
	unixConnected(t, path)
}

func TestABrokenUnixSlotHasAFreshSocket(t *testing.T) {
	for what, how := range map[string]int{"read": unix.SHUT_RD, "both": unix.SHUT_RDWR} {
		t.Run(what, func(t *testing.T) {
			l := unixListen(t, unixOptions())
			unixCheck(t, l.Reserve(1))
			path := l.Address().Path
			unixConnected(t, path)
			fd, err := l.FD(0)
			unixCheck(t, err)
			inode := unixInode(t, fd)
			worker := unixDup(t, l, 0)
			defer unix.Close(worker)

			unixCheck(t, unix.Shutdown(worker, how))
			if f := unixFinding(t, l, Broken); f.Slot != 0 {
				t.Errorf("%+v, want slot 0", f)
			}
			again, err := l.FD(0)
			unixCheck(t, err)
			now, err := l.Inode(0)
			unixCheck(t, err)
			if again != fd || now == inode || now != unixInode(t, fd) {
				t.Errorf("descriptor %d was %d, inode %d was %d", again, fd, now, inode)
			}
			unixConnected(t, path)
			if n := unixQueued(t, l, 0); n != 1 {
				t.Errorf("%d queued on the fresh socket, want 1", n)
			}
			// What the old one had queued its worker can still accept.
			accepted, _, err := unix.Accept4(worker, unix.SOCK_CLOEXEC)
			unixCheck(t, err)
			unix.Close(accepted)

			unixCheck(t, unix.Shutdown(unixDupClosed(t, l, 0), how)) // again, the fresh one
			unixFinding(t, l, Broken)
			unixCheck(t, os.Remove(path))
			unixFinding(t, l, Unlinked)
			unixConnected(t, path)
		})
	}
}

// unixDupClosed is a duplicate that the test closes in the end.
func unixDupClosed(t *testing.T, l *unixListener, slot int) int {
	t.Helper()
	fd := unixDup(t, l, slot)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestABrokenUnixSocketIsWatchedNoMore(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	watched := func() (n int) {
		for _, fd := range []int{l.watch.set, l.watch.inotify} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
			unixCheck(t, err)
			n += strings.Count(string(b), "tfd:") + strings.Count(string(b), "inotify wd:")
		}
		return n
	}
	before := watched() // inotify, two sockets, their files
	for i := range 6 {  // a worker keeps the old socket, and with it whatever watches it
		unixCheck(t, unix.Shutdown(unixDupClosed(t, l, i%2), unix.SHUT_RDWR))
		unixFinding(t, l, Broken)
	}
	if after := watched(); after != before || before != 5 {
		t.Errorf("%d watches before, %d after, want 5", before, after)
	}
}

func TestAPrivateLinkRemovedIsPutBackFromThePath(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	unixConnected(t, path)
	unixCheck(t, os.Remove(l.place.sibling(l.place.hidden, "0")))
	unixCheck(t, l.Maintain())
	unixCheck(t, os.Remove(path))
	unixFinding(t, l, Unlinked)
	unixConnected(t, path)
	if n := unixQueued(t, l, 0); n != 2 {
		t.Errorf("%d queued, want 2", n)
	}
	unixNoFinding(t, l)
}

func TestABrokenUnixSlotThatIsNotSteeredLeavesThePathAlone(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	unixCheck(t, unix.Shutdown(unixDupClosed(t, l, 1), unix.SHUT_RDWR))
	if f := unixFinding(t, l, Broken); f.Slot != 1 {
		t.Errorf("%+v, want slot 1", f)
	}
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d queued on slot 0, want 1", n)
	}
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 1); n != 1 {
		t.Errorf("%d queued on slot 1, want 1", n)
	}
}

func TestABrokenSharedUnixSocketIsBrokenForEverySlot(t *testing.T) {
	o := unixOptions()
	o.Shared = true
	l := unixListen(t, o)
	unixCheck(t, l.Reserve(1))
	unixCheck(t, unix.Shutdown(unixDupClosed(t, l, 1), unix.SHUT_RDWR))
	told := map[int]bool{unixFinding(t, l, Broken).Slot: true, unixFinding(t, l, Broken).Slot: true}
	if !told[0] || !told[1] {
		t.Errorf("broken: %v, want slots 0 and 1", told)
	}
	unixConnected(t, l.Address().Path)
}

func TestUnixMaintainListensAgainWithTheConfiguredBacklog(t *testing.T) {
	l := unixListen(t, unixOptions())
	inode, err := l.Inode(0)
	unixCheck(t, err)
	before, _, err := diag.UnixListening(inode)
	unixCheck(t, err)
	unixCheck(t, unix.Listen(unixDupClosed(t, l, 0), 1))
	unixCheck(t, l.Maintain())
	after, _, err := diag.UnixListening(inode)
	unixCheck(t, err)
	if after.WQueue != before.WQueue || after.WQueue < 2 {
		t.Errorf("backlog %d, was %d", after.WQueue, before.WQueue)
	}
	if f := unixFinding(t, l, Adjusted); f.Slot != 0 || !strings.Contains(f.Detail, "backlog was 1") {
		t.Errorf("%+v", f)
	}
	unixCheck(t, l.Maintain())
	unixNoFinding(t, l)
}

func TestAPrivateDirectoryRemovedIsMadeAnew(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	path := l.Address().Path
	unixConnected(t, path)
	l.mu.Lock() // one change, not many
	unixCheck(t, os.RemoveAll(l.place.sibling(l.place.hidden)))
	l.mu.Unlock()
	// Slot 0 is linked over from the path; slot 1 had no other name.
	if f := unixFinding(t, l, Broken); f.Slot != 1 {
		t.Errorf("%+v, want slot 1", f)
	}
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d queued on slot 0, want 1", n)
	}
	unixCheck(t, os.Remove(path))
	unixFinding(t, l, Unlinked)
	unixConnected(t, path)
	if n := unixQueued(t, l, 0); n != 2 {
		t.Errorf("%d queued on slot 0, want 2", n)
	}
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	unixConnected(t, path)
	if n := unixQueued(t, l, 1); n != 1 {
		t.Errorf("%d queued on slot 1, want 1", n)
	}
}

// unixListenIn listens on a path in a directory that the test may replace.
func unixListenIn(t *testing.T, dir string) *unixListener {
	t.Helper()
	unixCheck(t, os.Mkdir(dir, 0o700))
	l, err := listenUnix(t.Context(), Address{Network: "unix", Path: filepath.Join(dir, "s")}, unixOptions())
	unixCheck(t, err)
	t.Cleanup(func() {
		unixCheck(t, l.Close())
		unixCheck(t, os.Remove(dir)) // and it must be empty
	})
	return l.(*unixListener)
}

func TestADirectoryRemovedAndMadeAnewIsSettledAgain(t *testing.T) {
	dir := filepath.Join(unixDirectory(t), "run")
	l := unixListenIn(t, dir)
	unixBlind(t, l)
	unixCheck(t, os.RemoveAll(dir))
	if err := l.Maintain(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("maintain without the directory: %v", err)
	}
	unixCheck(t, os.Mkdir(dir, 0o700))
	unixCheck(t, l.Maintain())
	unixFinding(t, l, Broken)
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d queued, want 1", n)
	}
	unixCheck(t, l.Maintain())
	unixNoFinding(t, l)
}

func TestADirectoryMovedAwayIsLeftAndTheSocketsComeAlong(t *testing.T) {
	parent := unixDirectory(t)
	dir, old := filepath.Join(parent, "run"), filepath.Join(parent, "old")
	l := unixListenIn(t, dir)
	unixConnected(t, l.Address().Path)
	unixCheck(t, os.Rename(dir, old))
	unixCheck(t, os.Mkdir(dir, 0o700))
	unixCheck(t, l.Maintain())
	unixFinding(t, l, Unlinked)
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 0); n != 2 {
		t.Errorf("%d queued, want 2", n)
	}
	unixCheck(t, os.Remove(old)) // nothing was left in it
}

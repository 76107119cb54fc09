package socket

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUnixSlotsAreSocketsOfTheirOwnUnderOneName(t *testing.T) {
	l := unixListen(t, unixOptions())
	if os.Geteuid() != 0 {
		t.Skip("binding under the real name takes CAP_SYS_CHROOT")
	}
	if l.Mode() != Steered || l.Reason() != "" {
		t.Fatalf("mode %s: %s", l.Mode(), l.Reason())
	}
	inodes := make(map[uint64]bool)
	for slot := range 4 {
		unixCheck(t, l.Reserve(slot))
		unixCheck(t, l.Reserve(slot))
		fd, err := l.FD(slot)
		unixCheck(t, err)
		inode, err := l.Inode(slot)
		unixCheck(t, err)
		if inodes[inode] || inode != unixInode(t, fd) {
			t.Errorf("slot %d has inode %d, its descriptor %d", slot, inode, unixInode(t, fd))
		}
		inodes[inode] = true
		if name := unixName(t, fd); name != l.Address().Path {
			t.Errorf("slot %d is bound to %s, want %s", slot, name, l.Address().Path)
		}
		fdFlags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		unixCheck(t, err)
		if fdFlags&unix.FD_CLOEXEC == 0 {
			t.Errorf("slot %d would survive an exec", slot)
		}
	}
}

func TestNoThreadKeepsTheScratchRoot(t *testing.T) {
	l := unixListen(t, unixOptions())
	for slot := range 8 {
		unixCheck(t, l.Reserve(slot))
	}
	unixAwait(t, "every thread's root the real one", func() bool {
		threads, err := os.ReadDir("/proc/self/task")
		unixCheck(t, err)
		for _, thread := range threads {
			root, err := os.Readlink("/proc/self/task/" + thread.Name() + "/root")
			if err == nil && root != "/" {
				return false
			}
		}
		return true
	})
	if root, err := os.Readlink("/proc/self/root"); err != nil || root != "/" {
		t.Errorf("the process's root is %s, %v", root, err)
	}
}

func TestUnixConnectionsBeforeTheFirstSteeringWaitOnSlotZero(t *testing.T) {
	l := unixListen(t, unixOptions())
	for range 3 {
		unixConnected(t, l.Address().Path)
	}
	if n := unixQueued(t, l, 0); n != 3 {
		t.Errorf("%d queued on slot 0, want 3", n)
	}
	unixWorker(t, l, 0, "first")
	unixAwait(t, "served", func() bool { return unixQueued(t, l, 0) == 0 })
}

func TestUnixSteeringUnderClientsLosesNobody(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	unixWorker(t, l, 0, "0")
	unixWorker(t, l, 1, "1")
	path := l.Address().Path

	var asked, lost atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() { // ends with stop
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				if _, err := unixAsk(path); err != nil {
					lost.Add(1)
					t.Errorf("lost: %v", err)
				}
			}
		})
	}
	const swaps = 200
	for swap := range swaps {
		to := (swap + 1) % 2
		unixCheck(t, l.Steer([]Share{{Slot: to, Weight: 1}}))
		// Whoever begins to connect now reaches the new slot and no other.
		who, err := unixAsk(path)
		if err != nil || who != strconv.Itoa(to) {
			t.Fatalf("swap %d: %q, %v answered; want %d", swap, who, err, to)
		}
	}
	close(stop)
	clients.Wait()
	t.Logf("%d connections, %d swaps, %d lost", asked.Load(), swaps, lost.Load())
	unixNoFinding(t, l)
}

func TestUnixConnectionsQueuedOnTheOldSlotStayThere(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	for range 3 {
		unixConnected(t, l.Address().Path)
	}
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	unixConnected(t, l.Address().Path)
	if old, fresh := unixQueued(t, l, 0), unixQueued(t, l, 1); old != 3 || fresh != 1 {
		t.Errorf("%d queued on the old slot, %d on the new; want 3, 1", old, fresh)
	}
	unixWorker(t, l, 0, "old")
	unixAwait(t, "drained", func() bool { return unixQueued(t, l, 0) == 0 })
	if n := unixQueued(t, l, 1); n != 1 {
		t.Errorf("%d queued on the new slot, want 1", n)
	}
}

func TestUnixSteersToTheLargestWeightFirst(t *testing.T) {
	l := unixListen(t, unixOptions())
	l.period = time.Hour // that is, only
	unixCheck(t, l.Reserve(1))
	unixCheck(t, l.Reserve(2))
	for _, c := range []struct {
		table []Share
		want  int
	}{
		{[]Share{{Slot: 0, Weight: 1}, {Slot: 1, Weight: 5}, {Slot: 2, Weight: 3}}, 1},
		{[]Share{{Slot: 2, Weight: 2}, {Slot: 0, Weight: 2}, {Slot: 1, Weight: 1}}, 2}, // as large: the first
		{[]Share{{Slot: 0, Weight: 95}, {Slot: 1, Weight: 5}}, 0},
	} {
		unixCheck(t, l.Steer(c.table))
		before := unixQueued(t, l, c.want)
		unixConnected(t, l.Address().Path)
		if after := unixQueued(t, l, c.want); after != before+1 {
			t.Errorf("%v: slot %d has %d queued, then %d", c.table, c.want, before, after)
		}
	}
}

func TestUnixRefusesATableThatCannotBe(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixConnected(t, l.Address().Path)
	for _, table := range [][]Share{nil, {{Slot: 0}}, {{Slot: 0, Weight: 1}, {Slot: 0, Weight: -1}}, {{Slot: 0, Weight: 1, Side: 2}}} {
		if err := l.Steer(table); err == nil {
			t.Errorf("steering by %v is no error", table)
		}
	}
	if err := l.Steer([]Share{{Slot: 7, Weight: 1}}); !errors.Is(err, ErrNoSlot) {
		t.Errorf("steering to a slot that is not reserved: %v", err)
	}
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 0); n != 2 {
		t.Errorf("%d queued on slot 0, want 2", n)
	}
}

func TestAUnixSocketHasItsModeAndOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a file to another user takes root")
	}
	o := unixOptions()
	o.Mode, o.UID, o.GID = 0o620, 12345, 23456
	l := unixListen(t, o)
	unixCheck(t, l.Reserve(1))
	see := func(when string, mode fs.FileMode, uid, gid uint32) {
		t.Helper()
		for slot := range 2 {
			unixCheck(t, l.Steer([]Share{{Slot: slot, Weight: 1}}))
			var st unix.Stat_t
			unixCheck(t, unix.Lstat(l.Address().Path, &st))
			if fs.FileMode(st.Mode).Perm() != mode || st.Uid != uid || st.Gid != gid {
				t.Errorf("%s, slot %d: %04o %d:%d, want %04o %d:%d", when, slot,
					st.Mode&0o7777, st.Uid, st.Gid, mode, uid, gid)
			}
		}
	}
	see("at first", 0o620, 12345, 23456)
	o.Mode, o.UID, o.GID = 0o600, -1, 34567
	unixCheck(t, l.Apply(o))
	see("after a reload", 0o600, 12345, 34567)
	o.Mode = 0
	unixCheck(t, l.Apply(o))
	umask := fs.FileMode(unix.Umask(0))
	unix.Umask(int(umask))
	see("with the mode left out", 0o666&^umask, 12345, 34567)
}

func TestUnixApplyChangesTheBacklog(t *testing.T) {
	o := unixOptions()
	o.Backlog = 2
	l := unixListen(t, o)
	connect := func() error {
		fd, err := connectUnix(l.Address().Path)
		if err == nil {
			t.Cleanup(func() { unix.Close(fd) })
		}
		return err
	}
	for range 3 { // the kernel takes one more than it is told
		unixCheck(t, connect())
	}
	if err := connect(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("connect to a full queue: %v", err)
	}
	o.Backlog = 3
	unixCheck(t, l.Apply(o))
	unixCheck(t, connect())
	unixCheck(t, l.Maintain())
	unixNoFinding(t, l)
	if err := connect(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("connect to a full queue: %v", err)
	}
}

func TestUnixConnectionsAreCounted(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	other := unixListen(t, unixOptions())
	held := make(map[uint64]bool)
	accept := func(l *unixListener, slot int) {
		unixConnected(t, l.Address().Path)
		dup := unixDup(t, l, slot)
		defer unix.Close(dup)
		fd, _, err := unix.Accept4(dup, unix.SOCK_CLOEXEC)
		unixCheck(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		held[unixInode(t, fd)] = true
	}
	for slot := range 2 {
		unixCheck(t, l.Steer([]Share{{Slot: slot, Weight: 1}}))
		for range 3 {
			accept(l, slot)
			accept(other, 0)
		}
		unixConnected(t, l.Address().Path) // stays in the queue
	}
	for what, c := range map[string]struct {
		owner func(uint64) bool
		want  int
	}{
		"ours":   {func(i uint64) bool { return held[i] }, 6},
		"nobody": {func(uint64) bool { return false }, 0},
	} {
		if n, err := l.Connections(c.owner); err != nil || n != c.want {
			t.Errorf("%s: %d connections, %v; want %d", what, n, err, c.want)
		}
	}
	half, err := l.HalfOpen()
	if err != nil || len(half) != 0 {
		t.Errorf("half open: %v, %v", half, err)
	}
	if n, err := l.Remaining(half); err != nil || n != 0 {
		t.Errorf("remaining: %d, %v", n, err)
	}
}

func TestUnixRefuseTakesThePathAwayAndLeavesTheQueue(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	path := l.Address().Path
	unixConnected(t, path)
	unixCheck(t, l.Refuse(1)) // the path leads elsewhere, and stays
	unixConnected(t, path)
	unixCheck(t, l.Refuse(0))
	unixCheck(t, l.Maintain())
	if _, err := connectUnix(path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("connect after refuse: %v", err)
	}
	if n := unixQueued(t, l, 0); n != 2 {
		t.Errorf("%d queued, want 2", n)
	}
	unixWorker(t, l, 0, "last")
	unixAwait(t, "drained", func() bool { return unixQueued(t, l, 0) == 0 })
	if err := l.Steer([]Share{{Slot: 0, Weight: 1}}); err == nil {
		t.Error("steering to a refused slot is no error")
	}
	unixNoFinding(t, l)
}

func TestUnixReserveTakesBackARefuse(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	path := l.Address().Path
	unixCheck(t, l.Refuse(0))
	unixCheck(t, l.Refuse(1))
	unixCheck(t, l.Reserve(1)) // the path does not lead there
	if _, err := connectUnix(path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("connect: %v", err)
	}
	unixCheck(t, l.Reserve(0))
	unixConnected(t, path)
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d queued on slot 0, want 1", n)
	}
	unixCheck(t, l.Refuse(0))
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	unixConnected(t, path)
	if n := unixQueued(t, l, 1); n != 1 {
		t.Errorf("%d queued on slot 1, want 1", n)
	}
	unixNoFinding(t, l)
}

func TestUnixCloseRemovesEverythingOfOurs(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	path := l.Address().Path
	dup := unixDup(t, l, 0)
	defer unix.Close(dup)
	client := unixConnected(t, path)
	unixCheck(t, l.Close())
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, open := <-l.Findings(); open {
		t.Error("findings are not closed")
	}
	fd, _, err := unix.Accept4(dup, unix.SOCK_CLOEXEC)
	unixCheck(t, err) // the worker's duplicate has kept its queue
	unix.Close(fd)
	if n, err := unix.Read(client, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("client reads %d, %v", n, err)
	}
	_, fdErr := l.FD(0)
	_, pendingErr := l.Pending(0)
	for _, err := range []error{l.Close(), l.Maintain(), l.Reserve(5), l.Steer([]Share{{Slot: 0, Weight: 1}}),
		l.Refuse(0), l.Apply(unixOptions()), l.Probe(t.Context(), 0, nil), fdErr, pendingErr} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
}

func TestUnixCloseLeavesTheNextOwnersPath(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	next := path + ".next"
	unixCheck(t, os.WriteFile(next, []byte("next"), 0o600))
	l.mu.Lock()
	l.taken = time.Now().Add(time.Hour) // so that the watch does not take it back
	l.mu.Unlock()
	unixCheck(t, os.Rename(next, path))
	unixCheck(t, l.Close())
	if b, err := os.ReadFile(path); err != nil || string(b) != "next" {
		t.Errorf("%q, %v", b, err)
	}
	unixCheck(t, os.Remove(path))
}

func TestSharedUnixSlotsAreOneSocket(t *testing.T) {
	o := unixOptions()
	o.Shared = true
	l := unixListen(t, o)
	unixCheck(t, l.Reserve(1))
	if l.Mode() != Shared || !strings.Contains(l.Reason(), "steering") {
		t.Errorf("mode %s: %s", l.Mode(), l.Reason())
	}
	a, err := l.Inode(0)
	unixCheck(t, err)
	b, err := l.Inode(1)
	unixCheck(t, err)
	if a != b {
		t.Errorf("inodes %d, %d", a, b)
	}
	fd, err := l.FD(1)
	unixCheck(t, err)
	if same, err := l.FD(0); err != nil || same != fd {
		t.Errorf("descriptors %d and %d: %v", fd, same, err)
	}
	unixCheck(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d queued, want 1", n)
	}
}

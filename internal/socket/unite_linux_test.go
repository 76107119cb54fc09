package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func inodesOf(t *testing.T, l Listener, slots ...int) (inodes []uint64) {
	t.Helper()
	for _, slot := range slots {
		inode, err := l.Inode(slot)
		must(t, err)
		inodes = append(inodes, inode)
	}
	return inodes
}

func queuedOn(t *testing.T, l Listener, slot int) int {
	t.Helper()
	p, err := l.Pending(slot)
	must(t, err)
	return p.Queued
}

func clientOf(t *testing.T, l Listener, host string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", target(l, host), deadline)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(deadline)))
	return c
}

// Four workers that serve one client at a time have one each of four clients; when
// one is killed, the others serve what it would have, and so does its successor.
func TestUnitedWorkersOfAPortAllGetWork(t *testing.T) {
	for _, at := range loopbacks {
		t.Run(at.name, func(t *testing.T) {
			l := steeredAt(t, at.listen, 0)
			early := clientOf(t, l, at.client) // before any worker
			all := []int{0, 1, 2, 3}
			must(t, l.Unite(all...))
			workers := make(map[int]*os.Process)
			for _, slot := range all {
				must(t, l.Reserve(slot))
				p := oneAtATime(t, l, slot)
				workers[p.Pid] = p
			}
			must(t, l.Steer(to(all...)))
			eventually(t, "the early client is accepted", func() bool { return queuedOn(t, l, 3) == 0 })
			must(t, early.Close())

			round := func(n int) map[int]int {
				t.Helper()
				var clients []net.Conn
				for range n {
					clients = append(clients, clientOf(t, l, at.client))
				}
				// Nobody has said anything yet: each worker has its first.
				eventually(t, "each worker has one", func() bool { return queuedOn(t, l, 0) == max(0, n-len(workers)) })
				got := make(map[int]int)
				for _, c := range clients {
					pid, err := who(c)
					must(t, err)
					got[pid]++
				}
				return got
			}
			if got := round(4); len(got) != 4 {
				t.Errorf("four clients at once were served by %v", got)
			}
			for pid, p := range workers {
				must(t, p.Kill())
				eventually(t, "dead", func() bool {
					stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
					if err != nil {
						return true
					}
					// Its first thread is a zombie before the others have ended, one of which
					// may still be accepting.
					threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
					return strings.Contains(string(stat), ") Z ") && (err != nil || len(threads) <= 1)
				})
				delete(workers, pid)
				break
			}
			if got := round(6); len(got) != 3 {
				t.Errorf("six clients were served by %v", got)
			}
			p := oneAtATime(t, l, 2)
			workers[p.Pid] = p
			must(t, l.Probe(t.Context(), 2, owns(t, p.Pid)))
			if got := round(4); len(got) != 4 || got[p.Pid] != 1 {
				t.Errorf("four clients at once were served by %v", got)
			}
			inOrder(t, l)
		})
	}
}

// A proof on a socket that several slots have counts only for who accepted; who asks
// for nobody in particular is content with any.
func TestAProbeOfUnitedSlotsOfAPortCountsOnlyTheOwner(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 0)
	must(t, l.Unite(1, 2))
	a := oneAtATime(t, l, 1)
	ofA := owns(t, a.Pid)
	must(t, l.Probe(t.Context(), 1, ofA))
	never := func(uint64) bool { return false }
	if err := tryProbe(t, l, 2, never); err == nil {
		t.Error("proved by the worker of another slot")
	}
	must(t, l.Probe(t.Context(), 2, nil))
	if err := tryDial(t, l, 2, nil); !errors.Is(err, ErrNoProof) {
		t.Errorf("dialed nobody in particular: %v", err)
	}
	b := oneAtATime(t, l, 2)
	ofB := owns(t, b.Pid)
	must(t, l.Probe(t.Context(), 2, ofB))
	for pid, own := range map[int]func(uint64) bool{a.Pid: ofA, b.Pid: ofB} {
		c, err := l.Dial(t.Context(), 2, own) // of either: they have one socket
		must(t, err)
		if got, err := who(c); got != pid {
			t.Errorf("dialed %d, and %d answered: %v", pid, got, err)
		}
		must(t, c.Close())
	}
	if n := queuedOn(t, l, 0); n != 0 {
		t.Errorf("%d connections came to the slot that is steered to", n)
	}
	must(t, unix.SetsockoptInt(duplicateClosed(t, l, 1), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 5))
	if err := tryDial(t, l, 1, ofA); !errors.Is(err, ErrNoProof) || !strings.Contains(err.Error(), "TCP_DEFER_ACCEPT") {
		t.Errorf("dialed where only a request is accepted: %v", err)
	}
	must(t, l.Probe(t.Context(), 1, ofA))
	must(t, l.Unite(4)) // alone on it, and any acceptance is its own
	oneAtATime(t, l, 4)
	must(t, l.Probe(t.Context(), 4, never))
	must(t, dial(t, l, 4).Close())
}

// duplicateClosed is a descriptor that is closed with the test.
func duplicateClosed(t *testing.T, l Listener, slot int) int {
	t.Helper()
	fd := duplicate(t, l, slot)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// Each generation's slots have a socket that no other generation's workers have,
// whatever slots are free, and what was queued on it stays.
func TestUnitedSlotsOfAPortAreNotThoseOfWorkersThatStillDrain(t *testing.T) {
	l := steeredAt(t, ":0", 0)
	steer := func(slots ...int) {
		t.Helper()
		must(t, l.Unite(slots...))
		must(t, l.Steer(to(slots...)))
		inOrder(t, l)
	}
	queue := func(slot, want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d are queued on slot %d", want, slot), func() bool { return queuedOn(t, l, slot) == want })
	}
	clientOf(t, l, "::1")
	first := inodesOf(t, l, 0)[0]
	steer(0, 1, 2)
	if in := inodesOf(t, l, 0, 1, 2); in[0] != first || in[1] != first || in[2] != first {
		t.Errorf("inodes %v, want the one that has clients, %d", in, first)
	}
	queue(2, 1)
	// The second generation has none of the first's slots.
	steer(3, 4, 5)
	clientOf(t, l, "::1")
	queue(4, 1)
	queue(1, 1)
	// Of the first generation the worker of slot 2 still drains.
	steer(0, 1, 6)
	in := inodesOf(t, l, 0, 1, 6, 2, 3)
	if in[0] == first || in[0] != in[1] || in[1] != in[2] || in[3] != first || in[4] == in[0] {
		t.Errorf("inodes of slots 0, 1, 6, 2 and 3: %v", in)
	}
	for slot, want := range map[int][]int{0: {0, 1, 6}, 2: {2}, 3: {3, 4, 5}, 7: nil} {
		if got := l.Sharing(slot); !slices.Equal(got, want) {
			t.Errorf("slot %d is one with %v, want %v", slot, got, want)
		}
	}
	clientOf(t, l, "127.0.0.1")
	queue(6, 1)
	queue(2, 1)
	// One joins; one that is steered to cannot be taken away, unless it is refused.
	steer(0, 1, 6, 7)
	queue(7, 1)
	if err := l.Unite(1, 8); err == nil || !strings.Contains(err.Error(), "slot 1 is steered to") {
		t.Errorf("a slot that is steered to was given another socket: %v", err)
	}
	must(t, l.Refuse(0))
	must(t, l.Unite(1, 8))
	if got := l.Sharing(1); !slices.Equal(got, []int{1, 8}) {
		t.Errorf("slot 1 is one with %v", got)
	}
	// All of the first ones but 0 and 1 are free now. What nobody has served is kept.
	steer(2, 3, 4, 5)
	if in := inodesOf(t, l, 2, 5); in[0] != first || in[1] != first {
		t.Errorf("inodes %v, want %d", in, first)
	}
	// A slot alone gets its own socket.
	must(t, l.Steer(to(2)))
	must(t, l.Unite(4))
	steer(4)
	if got := l.Sharing(4); !slices.Equal(got, []int{4}) {
		t.Errorf("slot 4 is one with %v", got)
	}
	must(t, l.Unite())
	if err := l.Unite(-1); !errors.Is(err, ErrNoSlot) {
		t.Errorf("slot -1: %v", err)
	}
}

// The members that united slots leave behind are used again, and as many guards
// stand behind those that workers hold as ever.
func TestUnitingAgainAndAgainNeedsNoMoreSockets(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 9)
	members := func() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.order) }
	before := members()
	for range 5 {
		for _, first := range []int{4, 0} { // each generation takes the other's place
			must(t, l.Unite(first, first+1, first+2, first+3))
			must(t, l.Steer(to(first, first+1, first+2, first+3)))
			for slot := 4 - first; slot < 8-first; slot++ { // with a slot for each worker
				must(t, l.Unite(slot))
			}
			must(t, l.Steer(to(8)))
		}
	}
	inOrder(t, l)
	l.mu.Lock()
	missing := l.guardsMissing()
	l.mu.Unlock()
	if n := members(); n > before || missing > 0 {
		t.Errorf("%d members after %d, and %d guards are missing", n, before, missing)
	}
}

// A table counts united slots by their weights, beside others and by side.
func TestWeightsOfUnitedSlotsAddUp(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 4)
	must(t, l.Unite(0, 1, 2))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table = []Share{{Slot: 0, Weight: 2}, {Slot: 1, Weight: 3}, {Slot: 2, Weight: 4, Side: 1}, {Slot: 3, Weight: 5}}
	want := []share{{index: l.index(0), weight: 5}, {index: l.index(2), weight: 4, side: 1}, {index: l.index(3), weight: 5}}
	if got := l.shares(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A worker that breaks the socket breaks it for each slot that has it, and no other;
// the fresh one is theirs at once, also when it is refused.
func TestABrokenUnitedSocketOfAPortIsBrokenForItsSlots(t *testing.T) {
	for _, refused := range []bool{false, true} {
		l := steeredAt(t, "127.0.0.1:0", 0)
		must(t, l.Unite(0, 1))
		must(t, l.Unite(2, 3))
		must(t, l.Steer(to(0, 1)))
		if refused {
			must(t, l.Refuse(0))
		}
		before, fd := inodesOf(t, l, 0, 2, 3), duplicateClosed(t, l, 1)
		must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
		broken := []int{finding(t, l, Broken).Slot, finding(t, l, Broken).Slot}
		slices.Sort(broken)
		now := inodesOf(t, l, 0, 1, 2, 3)
		if !slices.Equal(broken, []int{0, 1}) || !slices.Equal(now[2:], before[1:]) || now[0] == before[0] || now[0] != now[1] {
			t.Errorf("broken for slots %v: inodes %v were %v", broken, now, before)
		}
		if refused {
			must(t, l.Reserve(1))
		}
		clientOf(t, l, "127.0.0.1")
		if n := queuedOn(t, l, 0); n != 1 {
			t.Errorf("%d queued on the fresh socket", n)
		}
		inOrder(t, l)
	}
}

// Refuse of one is Refuse of all that have the socket, until Reserve; a second one
// has nothing to wait for.
func TestRefuseOfUnitedSlotsOfAPort(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 0)
	must(t, l.Unite(0, 1))
	must(t, l.Steer(to(0, 1)))
	must(t, l.Refuse(1))
	refused := func() bool {
		c, err := net.DialTimeout("tcp", target(l, "127.0.0.1"), 100*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err != nil
	}
	if !refused() {
		t.Error("connected, and the socket is refused")
	}
	must(t, l.Reserve(0))
	clientOf(t, l, "127.0.0.1")
}

// The flag of a socket that several workers have is theirs: a successor's start must
// not make the others block. The next generation finds it as configured.
func TestUnitedSlotsOfAPortKeepTheFlagOfThoseWhoServe(t *testing.T) {
	for _, nonblocking := range []bool{false, true} {
		l := steeredWith(t, "127.0.0.1:0", 0, Options{NonBlocking: nonblocking})
		asConfigured := func(slot int) bool {
			t.Helper()
			fd, err := l.FD(slot)
			must(t, err)
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			must(t, err)
			return flags&unix.O_NONBLOCK != 0 == nonblocking
		}
		must(t, l.Unite(0, 1))
		must(t, l.Steer(to(0, 1)))
		if !asConfigured(0) || !asConfigured(1) {
			t.Error("a fresh socket is not as configured")
		}
		must(t, unix.SetNonblock(duplicateClosed(t, l, 0), !nonblocking)) // as a worker does
		must(t, l.Unite(0, 1, 4))
		if asConfigured(1) || asConfigured(4) {
			t.Error("the start of another worker changed the flag of those that serve")
		}
		must(t, l.Unite(2, 3))
		must(t, l.Steer(to(2, 3)))
		must(t, l.Unite(0, 1, 4))
		if !asConfigured(0) || !asConfigured(4) || !asConfigured(2) {
			t.Error("a generation finds the flag that an earlier one has left")
		}
		must(t, unix.SetNonblock(duplicateClosed(t, l, 2), !nonblocking))
		must(t, l.Unite(2, 3)) // after a first generation that failed
		if !asConfigured(2) {
			t.Error("a generation on the slots that are steered to finds the flag that an earlier one has left")
		}
	}
}

// Datagrams go to whoever of the united workers is free.
func TestUnitedSlotsOfAUDPPortHaveOneQueue(t *testing.T) {
	l := steeredAt(t, "udp4://127.0.0.1:0", 0)
	must(t, l.Unite(1, 2))
	must(t, l.Steer(to(1, 2)))
	c, err := net.Dial("udp", target(l, "127.0.0.1"))
	must(t, err)
	defer c.Close()
	for range 4 {
		_, err := c.Write([]byte("question"))
		must(t, err)
	}
	a, b := duplicateClosed(t, l, 1), duplicateClosed(t, l, 2)
	eventually(t, "four datagrams have come", func() bool { return queuedOn(t, l, 2) > 0 })
	for _, fd := range []int{a, b, b, a} {
		buf := make([]byte, 64)
		var n int
		eventually(t, "another datagram", func() bool {
			n, _, err = unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			return !errors.Is(err, unix.EAGAIN)
		})
		if err != nil || string(buf[:n]) != "question" {
			t.Errorf("%q: %v", buf[:n], err)
		}
	}
	inOrder(t, l)
}

// In shared mode to unite changes nothing.
func TestUniteWhereAllSlotsAreOneAnyhow(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		l := listenAt(t, address, Options{Shared: true, UID: -1, GID: -1})
		must(t, l.Unite(1, 2))
		must(t, l.Reserve(1))
		must(t, l.Reserve(2))
		if got := l.Sharing(1); !slices.Equal(got, []int{0, 1, 2}) {
			t.Errorf("%s %s: %v", address, l.Mode(), got)
		}
		if got := l.Sharing(5); got != nil {
			t.Errorf("%s %s: an unknown slot is one with %v", address, l.Mode(), got)
		}
	}
}

// A successor that is alone on a socket which a slot, free since, has too keeps it,
// with all that is queued.
func TestWhoServesKeepsTheSocketThatAFreeSlotHasToo(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		l := listenAt(t, address, Options{UID: -1, GID: -1})
		must(t, l.Unite(0, 1))
		must(t, l.Steer(to(1)))
		first := inodesOf(t, l, 1)
		must(t, l.Unite(1))
		if got := inodesOf(t, l, 1); !slices.Equal(got, first) {
			t.Errorf("%s: inode %d, want %d", address, got, first)
		}
		must(t, l.Unite(0)) // another generation's now
		if a, b := l.Sharing(0), l.Sharing(1); !slices.Equal(a, []int{0}) || !slices.Equal(b, []int{1}) {
			t.Errorf("%s: slot 0 is one with %v, slot 1 with %v", address, a, b)
		}
	}
}

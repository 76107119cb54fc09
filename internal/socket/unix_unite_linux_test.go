package socket

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestServeOneAtATime is a worker process that serves one client at a time: it
// reads a line and answers with its pid.
func TestServeOneAtATime(t *testing.T) {
	if os.Getenv("BATON_SERVE") == "" {
		t.Skip("run by tests of workers that share a socket")
	}
	for {
		fd, _, err := unix.Accept4(3, unix.SOCK_CLOEXEC)
		must(t, err)
		c := os.NewFile(uintptr(fd), "client")
		if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
			fmt.Fprintln(c, os.Getpid())
		}
		c.Close()
	}
}

// oneAtATime starts such a process on the slot.
func oneAtATime(t *testing.T, l Listener, slot int) *os.Process {
	t.Helper()
	f := os.NewFile(uintptr(duplicate(t, l, slot)), "slot")
	defer f.Close()
	must(t, unix.SetNonblock(int(f.Fd()), false))
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestServeOneAtATime$")
	cmd.Env = append(os.Environ(), "BATON_SERVE=1")
	cmd.ExtraFiles = []*os.File{f}
	var said bytes.Buffer
	cmd.Stderr = &said
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // the test may have
		_ = cmd.Wait()         // killed, as it says
		if said.Len() > 0 {
			t.Log(said.String())
		}
	})
	return cmd.Process
}

// owns tells which sockets a process has.
func owns(t *testing.T, pid int) func(inode uint64) bool {
	return func(inode uint64) bool {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		must(t, err)
		return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
			to, _ := os.Readlink(dir + "/" + fd.Name())
			return to == fmt.Sprintf("socket:[%d]", inode)
		})
	}
}

func who(c net.Conn) (pid int, err error) {
	if _, err := fmt.Fprintln(c, "who"); err != nil {
		return 0, err
	}
	line, err := io.ReadAll(c)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(line)))
}

// Four workers that serve one client at a time have one each of four clients; when
// one is killed, the others serve what it would have, and so does its successor.
func TestUnitedWorkersAllGetWork(t *testing.T) {
	l := unixListen(t, unixOptions())
	early := unixConnected(t, l.Address().Path) // before any worker
	slots := []int{0, 1, 2, 3}
	unixCheck(t, l.Unite(slots...))
	var table []Share
	workers := make(map[int]*os.Process)
	for _, slot := range slots {
		unixCheck(t, l.Reserve(slot))
		table = append(table, Share{Slot: slot, Weight: 1})
		p := oneAtATime(t, l, slot)
		workers[p.Pid] = p
	}
	unixCheck(t, l.Steer(table))
	unixAwait(t, "the early client accepted", func() bool { return unixQueued(t, l, 3) == 0 })
	unix.Close(early)

	round := func(n int) map[int]int {
		t.Helper()
		var clients []net.Conn
		for range n {
			c, err := net.Dial("unix", l.Address().Path)
			must(t, err)
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(deadline)))
			clients = append(clients, c)
		}
		// Nobody has said anything yet: each worker has its first.
		unixAwait(t, "each worker has one", func() bool { return unixQueued(t, l, 0) == max(0, n-len(workers)) })
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
		unixAwait(t, "dead", func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || bytes.Contains(stat, []byte(") Z "))
		})
		delete(workers, pid)
		break
	}
	if got := round(6); len(got) != 3 {
		t.Errorf("six clients were served by %v", got)
	}
	p := oneAtATime(t, l, 2)
	workers[p.Pid] = p
	proved := l.Probe(t.Context(), 2, owns(t, p.Pid))
	must(t, proved)
	if got := round(4); len(got) != 4 || got[p.Pid] != 1 {
		t.Errorf("four clients at once were served by %v", got)
	}
	unixNoFinding(t, l)
}

// A proof on a socket that several slots have counts only for who accepted.
func TestAProbeOfUnitedSlotsCountsOnlyTheOwner(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Unite(0, 1))
	a := oneAtATime(t, l, 0)
	unixCheck(t, l.Probe(t.Context(), 0, owns(t, a.Pid)))
	never := func(uint64) bool { return false }
	if err := tryProbe(t, l, 1, never); err == nil || !strings.Contains(err.Error(), "another worker") {
		t.Errorf("proved by the worker of another slot: %v", err)
	}
	if err := tryDial(t, l, 1, nil); !errors.Is(err, ErrNoProof) {
		t.Errorf("dialed nobody in particular: %v", err)
	}
	b := oneAtATime(t, l, 1)
	unixCheck(t, l.Probe(t.Context(), 1, owns(t, b.Pid)))
	unixCheck(t, l.Unite(3)) // alone on it, and any acceptance is its own
	oneAtATime(t, l, 3)
	unixCheck(t, l.Probe(t.Context(), 3, never))
	must(t, dial(t, l, 3).Close())
}

func unixInodes(t *testing.T, l *unixListener, slots ...int) (inodes []uint64) {
	t.Helper()
	for _, slot := range slots {
		inode, err := l.Inode(slot)
		unixCheck(t, err)
		inodes = append(inodes, inode)
	}
	return inodes
}

// Each generation's slots have a socket that no other generation's workers have,
// whatever slots are free.
func TestUnitedSlotsAreNotThoseOfWorkersThatStillDrain(t *testing.T) {
	l := unixListen(t, unixOptions())
	path := l.Address().Path
	steer := func(slots ...int) {
		t.Helper()
		unixCheck(t, l.Unite(slots...))
		unixCheck(t, l.Steer(to(slots...)))
	}
	queue := func(slot, want int) {
		t.Helper()
		if n := unixQueued(t, l, slot); n != want {
			t.Errorf("slot %d has %d queued, want %d", slot, n, want)
		}
	}
	unixConnected(t, path)
	first := unixInodes(t, l, 0)[0]
	steer(0, 1, 2)
	if in := unixInodes(t, l, 0, 1, 2); in[0] != first || in[1] != first || in[2] != first {
		t.Errorf("inodes %v, want the one that has clients, %d", in, first)
	}
	queue(2, 1)
	// The second generation has none of the first's slots.
	steer(3, 4, 5)
	unixConnected(t, path)
	queue(4, 1)
	queue(1, 1)
	// Of the first generation the worker of slot 2 still drains.
	steer(0, 1, 6)
	in := unixInodes(t, l, 0, 1, 6, 2, 3)
	if in[0] == first || in[0] != in[1] || in[1] != in[2] || in[3] != first || in[4] == in[0] {
		t.Errorf("inodes of slots 0, 1, 6, 2 and 3: %v", in)
	}
	for slot, want := range map[int][]int{0: {0, 1, 6}, 2: {2}, 3: {3, 4, 5}, 7: nil} {
		if got := l.Sharing(slot); !slices.Equal(got, want) {
			t.Errorf("slot %d is one with %v, want %v", slot, got, want)
		}
	}
	unixConnected(t, path)
	queue(6, 1)
	queue(2, 1)
	// One joins; one that is steered to cannot be taken away.
	steer(0, 1, 6, 7)
	queue(7, 1)
	if err := l.Unite(1, 8); err == nil || !strings.Contains(err.Error(), "slot 1 is steered to") {
		t.Errorf("a slot that is steered to was given another socket: %v", err)
	}
	unixCheck(t, l.Maintain())
	unixNoFinding(t, l)
	// All of the old ones are free now. What nobody has served is kept.
	steer(2, 3, 4, 5)
	if in := unixInodes(t, l, 2, 3, 4, 5); in[0] != first || in[3] != first {
		t.Errorf("inodes %v, want %d", in, first)
	}
	putAway := func() []*unixSlot { l.mu.Lock(); defer l.mu.Unlock(); return slices.Clone(l.old) }
	old := putAway()
	if len(old) != 1 || idle(old[0].fd) {
		t.Fatalf("sockets put away: %v, want the one with a client", old)
	}
	fd, _, err := unix.Accept4(old[0].fd, unix.SOCK_CLOEXEC)
	unixCheck(t, err)
	unix.Close(fd)
	unixCheck(t, l.Maintain())
	if old := putAway(); len(old) != 0 {
		t.Errorf("a socket that nobody has and nobody waits for is kept: %v", old)
	}
	if err := l.Unite(); err != nil {
		t.Error(err)
	}
}

// A worker that breaks the socket breaks it for each slot that has it, and no other.
func TestABrokenUnitedSocketIsBrokenForItsSlots(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Unite(0, 1))
	unixCheck(t, l.Unite(2, 3))
	unixCheck(t, l.Steer(to(0, 1)))
	before := unixInodes(t, l, 2, 3)
	unixCheck(t, unix.Shutdown(unixDupClosed(t, l, 1), unix.SHUT_RDWR))
	broken := []int{unixFinding(t, l, Broken).Slot, unixFinding(t, l, Broken).Slot}
	slices.Sort(broken)
	if !slices.Equal(broken, []int{0, 1}) || !slices.Equal(unixInodes(t, l, 2, 3), before) {
		t.Errorf("broken for slots %v", broken)
	}
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, 0); n != 1 {
		t.Errorf("%d queued on the fresh socket", n)
	}
}

// Refuse of one is Refuse of all that have the socket, until Reserve.
func TestRefuseOfUnitedSlots(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Unite(0, 1))
	unixCheck(t, l.Steer(to(0, 1)))
	unixCheck(t, l.Refuse(0, 1))
	if _, err := connectUnix(l.Address().Path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("connected, and both slots are refused: %v", err)
	}
	unixCheck(t, l.Reserve(1))
	unixConnected(t, l.Address().Path)
}

// A canary on a unix socket gets its part by turns, and nobody is lost at a turn.
func TestUnixSharesTakeTurns(t *testing.T) {
	l := unixListen(t, unixOptions())
	old := []int{0, 1, 3, 4}
	unixCheck(t, l.Unite(old...))
	unixCheck(t, l.Unite(2))
	for slot := range 5 {
		unixWorker(t, l, slot, strconv.Itoa(slot))
	}
	l.mu.Lock()
	l.period = 250 * time.Millisecond
	l.mu.Unlock()
	var asked, canary atomic.Int64
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		clients.Go(func() { // ends with stop
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := unixAsk(l.Address().Path)
				if err != nil {
					t.Error(err)
					return
				}
				if got == "2" {
					canary.Add(1)
				}
				asked.Add(1)
			}
		})
	}
	defer func() { close(stop); clients.Wait() }()
	// The part of the time that the path leads to the canary. (Of the connections it
	// would depend on which worker this busy machine lets answer.)
	measure := func(table []Share) (part float64) {
		t.Helper()
		unixCheck(t, l.Steer(table))
		a, began := asked.Load(), time.Now()
		last, there := began, time.Duration(0)
		within(t, deadline, "clients ask", func() bool {
			st, err := l.place.shown()
			unixCheck(t, err)
			now := time.Now()
			if identify(&st) == l.slots[2].file {
				there += now.Sub(last)
			}
			last = now
			return t.Failed() || asked.Load() > a+100 && now.Sub(began) > 2*time.Second
		})
		return float64(there) / float64(last.Sub(began))
	}
	for _, part := range []float64{0.25, 0.75} {
		w := int(part * 100)
		// The weights of slots that have one socket add up.
		table := []Share{{Slot: 2, Weight: len(old) * w, Side: 1}}
		for _, slot := range old {
			table = append(table, Share{Slot: slot, Weight: 100 - w})
		}
		before := canary.Load()
		got := measure(table)
		if canary.Load() == before {
			t.Error("the canary got nothing")
		}
		t.Logf("of %.0f %%: %.1f %%", 100*part, 100*got)
		if got < part-0.2 || got > part+0.2 { // of 10 turns, which on a busy machine are not all as long
			t.Errorf("of %.0f %% the canary got %.1f %%", 100*part, 100*got)
		}
	}
	unixCheck(t, l.Refuse(2)) // under clients, of whom none may find the path gone
	unixCheck(t, l.Reserve(2))
	unixCheck(t, l.Steer(to(old...)))
	before := canary.Load()
	measure(to(old...))
	if n := canary.Load() - before; n > 2 { // one for each client that was asking
		t.Errorf("with the turns over the canary got %d connections", n)
	}
	unixNoFinding(t, l)
}

// Whoever is refused has no turn, and the path goes to the others at once.
func TestARefusedShareHasNoTurn(t *testing.T) {
	l := unixListen(t, unixOptions())
	unixCheck(t, l.Reserve(1))
	l.period = time.Hour // that is, one turn
	unixCheck(t, l.Steer(to(0, 1)))
	first, other := l.at.number, 1-l.at.number
	unixConnected(t, l.Address().Path)
	unixCheck(t, l.Refuse(first))
	unixConnected(t, l.Address().Path)
	if a, b := unixQueued(t, l, first), unixQueued(t, l, other); a != 1 || b != 1 {
		t.Errorf("%d queued on the refused slot, %d on the other", a, b)
	}
	unixCheck(t, l.Refuse(other))
	if _, err := connectUnix(l.Address().Path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("connected, and both slots are refused: %v", err)
	}
	unixCheck(t, l.Reserve(first))
	unixConnected(t, l.Address().Path)
	if n := unixQueued(t, l, first); n != 2 {
		t.Errorf("%d queued on slot %d", n, first)
	}
}

// The flag of a socket that several workers have is theirs: a successor's start must
// not make the others block. The next generation finds it as configured.
func TestUnitedSlotsKeepTheFlagOfThoseWhoServe(t *testing.T) {
	l := unixListen(t, unixOptions())
	blocking := func(slot int) bool {
		t.Helper()
		fd, err := l.FD(slot)
		unixCheck(t, err)
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		unixCheck(t, err)
		return flags&unix.O_NONBLOCK == 0
	}
	unixCheck(t, l.Unite(0, 1))
	unixCheck(t, l.Steer(to(0, 1)))
	if !blocking(0) || !blocking(1) {
		t.Error("a fresh socket does not block")
	}
	unixCheck(t, unix.SetNonblock(unixDupClosed(t, l, 0), true)) // as a worker does
	unixCheck(t, l.Unite(0, 1, 4))
	if blocking(1) || blocking(4) {
		t.Error("the start of another worker made those that serve block")
	}
	unixCheck(t, l.Unite(2, 3))
	unixCheck(t, l.Steer(to(2, 3)))
	unixCheck(t, l.Unite(0, 1, 4))
	if !blocking(0) || !blocking(4) || !blocking(2) {
		t.Error("a generation finds the flag that an earlier one has left")
	}
}

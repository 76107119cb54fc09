package handoff_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/health"
	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/socket"
	"baton/internal/testkit"
)

// several has so many workers, with one socket where together says so.
func several(workers int, together bool) func(*handoff.Plan) {
	return func(p *handoff.Plan) {
		p.Policy.Workers, p.Together = workers, together
		p.Policy.DrainDelay = 100 * time.Millisecond
		p.Policy.ReadyTimeout = 30 * time.Second // on a busy machine it takes many tries until the right one accepts
	}
}

// change what the next generation is to be.
func (e *engine) change(differ func(*handoff.Plan)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	differ(e.plan)
}

// ready waits until the generation has so many workers that are ready, and no other.
func (e *engine) ready(generation, n int) (workers []event.Worker) {
	e.t.Helper()
	testkit.Wait(e.t, func() bool {
		workers = nil
		for _, g := range e.Report().Generations {
			if g.Number == generation {
				workers = g.Workers
			}
		}
		return len(workers) == n && !slices.ContainsFunc(workers, func(w event.Worker) bool { return w.State != "ready" })
	}, fmt.Sprintf("%d workers of generation %d to be ready", n, generation))
	return workers
}

// sockets are what each worker has as its descriptor number fd, without repetition.
func sockets(t *testing.T, workers []event.Worker, fd int) (inodes []string) {
	t.Helper()
	for _, w := range workers {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", w.PID, fd))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(inodes, to) {
			inodes = append(inodes, to)
		}
	}
	return inodes
}

// The workers of a generation have one socket on a unix listener, and elsewhere when
// they are to serve together; also those that come later. No other generation has it.
func TestWorkersOfAGenerationHaveOneSocket(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, several(3, false))
	var before []string
	check := func(what string, generation, workers int, together bool) {
		t.Helper()
		all := e.ready(generation, workers)
		port, file := sockets(t, all, 3), sockets(t, all, 4)
		want := workers
		if together {
			want = 1
		}
		if len(port) != want || len(file) != 1 {
			t.Errorf("%s: %d workers have sockets %v of the port, want %d, and %v of the path", what, workers, port, want, file)
		}
		now := append(port, file...)
		for _, inode := range now {
			if slices.Contains(before, inode) {
				t.Errorf("%s: %s is a socket of another generation's", what, inode)
			}
		}
		before = now
	}
	again := func(what string, generation, workers int, together bool) {
		t.Helper()
		before = nil
		check(what, generation, workers, together)
	}
	check("a slot each", 1, 3, false)
	generation := 1
	for _, together := range []bool{true, true, false, true, false} {
		e.change(several(3, together))
		generation++
		if v := e.reload(); v.Outcome != machine.Swapped {
			t.Fatalf("%+v", v)
		}
		check("after a swap", generation, 3, together)
		if err := syscall.Kill(e.ready(generation, 3)[1].PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e.wait(event.Crashed, generation)
		again("after a crash", generation, 3, together)
		for _, n := range []int{5, 2, 3} {
			answer := make(chan error, 1)
			e.Scale(n, false, func(_ int, err error) { answer <- err })
			if err := <-answer; err != nil {
				t.Fatal(err)
			}
			again(fmt.Sprintf("scaled to %d", n), generation, n, together)
		}
		e.wait(event.Gone, generation-1)
	}
	e.stop()
}

func (e *engine) target(network string) load.Target {
	e.t.Helper()
	for _, l := range e.Report().Listeners {
		if n, address, _ := strings.Cut(l.Address, "://"); n == network {
			return load.Target{Network: network, Address: address}
		}
	}
	e.t.Fatalf("no %s listener", network)
	return load.Target{}
}

// loaded asks for pages on both listeners all the time, until stopped: then none may
// have been lost but those that a worker had accepted when it ended.
func (e *engine) loaded() (stop func()) {
	e.t.Helper()
	r, err := load.Start(e.t.Context(), load.Options{
		Targets: []load.Target{e.target("tcp"), e.target("unix")}, Clients: 4, Pause: time.Millisecond,
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return func() {
		e.t.Helper()
		got := r.Stop()
		accepted := got.Reasons[load.Reset] + got.Reasons[load.EOF] + got.Reasons[load.Truncated]
		if got.Lost > accepted || got.Requests < 20 {
			e.t.Errorf("%v %v", got, got.Examples)
		}
	}
}

// noneLeftBehind fails the test when a worker was taken for a process that another
// had left behind.
func (e *engine) noneLeftBehind() {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.events {
		if strings.Contains(ev.Message, "left behind") {
			e.t.Error(ev.Message)
		}
	}
}

// A worker that drains is left in peace when another of its socket has ended, and a
// newcomer may have that one's slot.
func TestAWorkerThatDrainsIsLeftAloneThoughItsSiblingHasEnded(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, several(2, true), "term=slow:1500ms")
	old := e.ready(1, 2)
	oldSockets := sockets(t, old, 3)
	if v := e.reload(); v.Outcome != machine.Swapped {
		t.Fatalf("%+v", v)
	}
	e.wait(event.Signalled, 1)
	if err := syscall.Kill(old[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.wait(event.Exited, 1)
	answer := make(chan error, 1)
	e.Scale(4, false, func(_ int, err error) { answer <- err })
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if now := sockets(t, e.ready(2, 4), 3); len(now) != 1 || now[0] == oldSockets[0] {
		t.Errorf("the sockets are %v, and a worker that drains has %v", now, oldSockets)
	}
	e.wait(event.Gone, 1)
	e.noneLeftBehind()
	e.stop()
}

// What others serve is not waited for: a worker that leaves them is signalled under
// load, and its slot is free.
func TestASlotIsFreeThoughItsSocketIsServed(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, several(3, true))
	e.ready(1, 3)
	stop := e.loaded()
	scale := func(n int) []event.Worker {
		t.Helper()
		answer := make(chan error, 1)
		e.Scale(n, false, func(_ int, err error) { answer <- err })
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		return e.ready(1, n)
	}
	began := time.Now()
	testkit.Wait(t, func() bool {
		scale(2)
		return slices.ContainsFunc(scale(3), func(w event.Worker) bool { return w.Index == 2 && w.Slot == 2 })
	}, "the third worker to have the slot of the one before")
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %v, as if its queue had been waited for", took)
	}
	stop()
	e.noneLeftBehind()
	e.stop()
}

// Crashes of one of several lose what it had, and nothing that was queued.
func TestACrashOfOneOfSeveralRefusesNobody(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, several(3, true))
	e.ready(1, 3)
	stop := e.loaded()
	for i := range 6 {
		if err := syscall.Kill(e.ready(1, 3)[i%3].PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n := i + 1
		testkit.Wait(t, func() bool { return e.count(event.Crashed) >= n }, "the crash to be seen")
	}
	e.ready(1, 3)
	stop()
	e.stop()
}

func (e *engine) count(kind event.Kind) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.events {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}

// A listener that a reload adds is shut until its newcomer serves, though its workers
// have one socket there.
func TestANewListenerIsShutForAllWorkersTogether(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, several(1, true), "ready=notify")
	e.wait(event.Serving, 1)
	path := filepath.Join(t.TempDir(), "new")
	e.change(func(p *handoff.Plan) {
		p.Policy.Workers = 3
		p.Command.Exec = testkit.Target("ready=late:1s")
		p.Ready = health.Notify
		p.Listeners = append(slices.Clone(p.Listeners),
			handoff.ListenerPlan{Address: socket.Address{Network: "tcp4", Host: "127.0.0.1"}, Options: socket.Options{Name: "new", UID: -1, GID: -1}},
			handoff.ListenerPlan{Address: socket.Address{Network: "unix", Path: path}, Options: socket.Options{Name: "newfile", UID: -1, GID: -1}})
	})
	verdict := make(chan handoff.Verdict, 1)
	e.Reload(func(v handoff.Verdict) { verdict <- v })
	testkit.Wait(t, func() bool { return e.count(event.Started) == 4 }, "the newcomer's workers to be started")
	reached := func(network, address string) bool {
		c, err := net.DialTimeout(network, address, 200*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	port := e.target("tcp4").Address
	if reached("tcp", port) || reached("unix", path) {
		t.Error("a listener could be reached before its newcomer served")
	}
	if e.count(event.Serving) != 1 {
		t.Error("the newcomer serves already: this test is too slow to tell")
	}
	if v := <-verdict; v.Outcome != machine.Swapped {
		t.Fatalf("%+v", v)
	}
	if !reached("tcp", port) || !reached("unix", path) {
		t.Error("a listener cannot be reached though its newcomer serves")
	}
	e.stop()
}

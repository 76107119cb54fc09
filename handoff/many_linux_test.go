package handoff_test

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/health"
	"baton/internal/event"
	"baton/internal/socket"
	"baton/internal/testkit"
)

// No worker of a newcomer may be startable, for want of descriptors for one. The rules
// learn it of one after the other, and what they decide about the others meanwhile finds
// nobody.
func TestANewcomerOfWhichNoWorkerCanBeStarted(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, several(3, false))
	e.wait(event.Serving, 1)
	full := func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.full = err
	}
	full(syscall.EMFILE)
	if v := e.reload(); v.Outcome != machine.RolledBack || v.Reason != syscall.EMFILE.Error() {
		t.Errorf("%+v", v)
	}
	e.wait(event.Gone, 2)
	full(nil)
	if v := e.reload(); v.Outcome != machine.Swapped {
		t.Errorf("when it can be done again: %+v", v)
	}
	e.stop()
}

// Those who are replaced leave nothing behind in a launcher that runs for months.
func TestReplacementsLeaveNoGoroutineAndNoDescriptor(t *testing.T) {
	testkit.Leaks(t)
	passes, err := health.ParseStatus("200")
	if err != nil {
		t.Fatal(err)
	}
	e := startAs(t, func(p *handoff.Plan) { p.Policy.BackoffMax = p.Policy.BackoffMin })
	e.wait(event.Serving, 1)
	scale := func(n int) {
		t.Helper()
		failure := make(chan error, 1)
		e.Scale(n, false, func(_ int, err error) { failure <- err })
		if err := <-failure; err != nil {
			t.Fatal(err)
		}
	}
	swap := func(generation int, probe *handoff.Probe) {
		t.Helper()
		e.change(func(p *handoff.Plan) { p.Live.Probe = probe })
		if v := e.reload(); v.Outcome != machine.Swapped || v.Generation != generation {
			t.Fatalf("%+v", v)
		}
	}
	// What is left when so many workers were replaced, as each was as soon as it was
	// ready, and a generation whose workers are well serves again.
	left := func(generation, replaced int) (goroutines, descriptors int) {
		t.Helper()
		swap(generation, &handoff.Probe{Probe: health.Probe{
			Kind: health.KindHTTP, Method: "GET", Path: "/", Body: "what no page has", Status: passes,
			Interval: time.Millisecond, Timeout: 10 * time.Second, Successes: 1, Failures: 1,
		}})
		n := e.count(event.Unhealthy) + replaced
		scale(4) // not before: the first one serves before it is asked, one of four would not
		testkit.WaitFor(t, 5*time.Minute, func() bool { return e.count(event.Unhealthy) >= n }, "workers to be replaced")
		swap(generation+1, nil)
		e.wait(event.Gone, generation)
		e.ready(generation+1, 4)
		scale(1)
		e.ready(generation+1, 1)
		testkit.Wait(t, func() bool { return len(testkit.Children(os.Getpid())) == 1 }, "one process to be left")
		return runtime.NumGoroutine(), testkit.Descriptors(os.Getpid())
	}
	many := 300
	if testkit.Raced || testing.Short() {
		many = 60 // each is a start under the race detector
	}
	goroutines, descriptors := left(2, 20)
	g, d := left(4, many)
	// A slot or two more may have been needed at the same time.
	if g > goroutines+10 || d > descriptors+20 {
		t.Errorf("%d goroutines and %d descriptors, %d and %d before", g, d, goroutines, descriptors)
	}
	e.stop()
}

// A worker waits for its restart when a newcomer takes over that does not have one of its
// listeners any more: who is queued there is served by the release that has it.
func TestAQueueOfAListenerThatANewcomerDoesNotHaveIsServed(t *testing.T) {
	for range 4 { // what it went by was right by chance
		testkit.Leaks(t)
		file := filepath.Join(t.TempDir(), "behaviour")
		testkit.Behave(t, file)
		e := startAs(t, func(p *handoff.Plan) {
			p.Listeners[1] = handoff.ListenerPlan{
				Address: socket.Address{Network: "tcp", Host: "127.0.0.2"},
				Options: socket.Options{Name: "old", UID: -1, GID: -1},
			}
			p.Policy.BackoffMin, p.Policy.BackoffMax = time.Hour, time.Hour
		}, "@"+file)
		w := e.ready(1, 1)[0]
		old := ""
		for _, l := range e.Report().Listeners {
			if l.Name == "old" {
				old = strings.TrimPrefix(l.Address, "tcp://")
			}
		}
		testkit.Behave(t, file, "exit=1")
		if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		testkit.Wait(t, func() bool {
			g := e.Report().Generations[0]
			return len(g.Workers) == 1 && g.Workers[0].State == string(machine.Waiting)
		}, "the worker to wait for its restart")
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", old)
		if err != nil { // connected is queued
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }() // only read from
		if _, err := c.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		testkit.Behave(t, file)
		e.change(func(p *handoff.Plan) { p.Listeners = p.Listeners[:1] })
		if v := e.reload(); v.Outcome != machine.Swapped {
			t.Fatalf("%+v", v)
		}
		if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("%q, %v", line, err)
		}
		e.wait(event.Gone, 1)
		e.stop()
	}
}

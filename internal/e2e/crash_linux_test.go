package e2e

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// kills is how often a test kills a worker.
func kills(t testing.TB) int {
	if testing.Short() {
		return 10
	}
	return 100
}

// A worker that is killed loses what it had accepted and nothing else: what is queued
// on its slot waits for its successor there. The server of this test holds one
// connection at a time, so that each kill can cost one request, while the others
// wait in queues.
func TestAKilledWorkerLosesOnlyWhatItHadAccepted(t *testing.T) {
	testkit.Together(t)
	for _, workers := range []int{4, 1} {
		t.Run(map[int]string{4: "one of four", 1: "the only one"}[workers], func(t *testing.T) {
			testkit.Leaks(t)
			a := run(t, config(t, testkit.Target("server=serial"), fmt.Sprintf("[handoff]\nworkers = %d", workers),
				"[restart]\nbackoff_min = \"10s\"\nreset_after = \"20ms\"\nrevert_after = 0", listen("web", "127.0.0.1:0")))
			crew := a.crew(workers)
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4 * workers, Path: "/?delay=2ms"})
			from, slots := a.Next(), map[int]int{}
			for i, w := range crew {
				slots[i] = w.Slot
			}
			for n := range kills(t) {
				index := n % workers
				var w event.Worker
				// Long enough ready for its next restart to be the first in a row, which is at once.
				testkit.Wait(t, func() bool {
					var ok bool
					w, ok = members(serves(a.report()), "ready")[index]
					return ok && w.Restarts == 0
				}, fmt.Sprintf("worker %d to be ready, and sound", index))
				if w.Slot != slots[index] {
					t.Fatalf("worker %d has slot %d, and had %d", index, w.Slot, slots[index])
				}
				kill(t, w.PID)
				a.WaitLine(from, fmt.Sprintf("the crash of pid %d", w.PID), func(l testkit.Line) bool {
					return pidOf(l) == w.PID && l.Event()["event"] == "crashed"
				})
			}
			a.crew(workers)
			r := fresh.Stop()
			only(t, "fresh", r, kills(t))
			if r.Requests < 10*kills(t) {
				t.Errorf("%d requests, too few to tell", r.Requests)
			}
			t.Logf("the longest request took %v", longest(r).Round(time.Millisecond))
			restarted := a.events(from, "restarting")
			if len(restarted) != kills(t) {
				t.Errorf("%d restarts of %d kills", len(restarted), kills(t))
			}
			for _, l := range restarted {
				if delay, late := l.Event()["delay"]; late {
					t.Errorf("a successor that was the first in a row started after %v", delay)
				}
			}
			if n := len(a.events(from, "crash-loop")); n > 0 {
				t.Errorf("%d crash loops, of workers that were killed one at a time", n)
			}
			a.Stop()
		})
	}
}

// longest is the longest that an answered request took.
func longest(r load.Result) (d time.Duration) {
	for _, i := range r.Timeline {
		d = max(d, i.Worst)
	}
	return d
}

// A worker that ends with a code of stop_exit_codes is left stopped. With nobody left
// who serves, nobody is made to wait.
func TestAWorkerThatWantsToStayStoppedIsLeftStopped(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, "workers = 2", "[restart]\nstop_exit_codes = [78]", listen("web", "127.0.0.1:0"))
	a := run(t, path)
	to := a.address("web")
	stop := func(want int) {
		t.Helper()
		from := a.Next()
		if _, _, err := request(t, to, "/abuse?what=exit&code=78"); err == nil {
			t.Fatal("it answered and has not ended")
		}
		a.WaitEvent(from, "left-stopped")
		if n := len(serves(a.report()).Stopped); n != want {
			t.Errorf("%d workers are left stopped, want %d", n, want)
		}
	}
	first := a.crew(2)
	fresh := users(t, a, 4)
	stop(1)
	left := members(serves(a.report()), "ready")
	if len(left) != 1 {
		t.Errorf("%d workers are ready", len(left))
	}
	for i, w := range left {
		if w.PID != first[i].PID {
			t.Errorf("worker %d was pid %d and is %d", i, first[i].PID, w.PID)
		}
	}
	only(t, "fresh", fresh.Stop(), 4)
	if s := a.report().State; s != event.StateServing {
		t.Errorf("state %q with one worker left", s)
	}

	stop(2)
	if s := a.report().State; s != event.StateStopped {
		t.Errorf("state %q with no worker left", s)
	}
	if code, out, _ := a.baton("status", "test"); code != 0 || !strings.Contains(out, " stopped ") {
		t.Errorf("status: exit code %d\n%s", code, out)
	}
	shut(t, to)
	waits := users(t, a, 1) // its first request is answered when somebody is there again
	from := a.Next()
	if code, _, errs := a.baton("scale", "test", "2"); code != 0 { // as many as there are to be already
		t.Errorf("scale: exit code %d, %s", code, errs)
	}
	if line := a.WaitEvent(from, "scaled"); !strings.Contains(line.Text, "left stopped start again") {
		t.Errorf("told: %s", line.Text)
	}
	a.crew(2)
	none(t, "after scale", some(t, a), 100)
	none(t, "who came before", waits.Stop(), 1)

	for n := range 2 {
		stop(n + 1)
	}
	shut(t, to)
	if code, _, errs := a.baton("reload", "test"); code != 0 {
		t.Errorf("reload: exit code %d, %s", code, errs)
	}
	a.crew(2)
	if s := a.report().State; s != event.StateServing {
		t.Errorf("state %q after a reload", s)
	}
	none(t, "after reload", some(t, a), 100)
	if n := len(a.events(0, "crashed")); n > 0 {
		t.Errorf("%d crashes, of workers that ended as they wanted", n)
	}
	a.Stop()
}

// shut fails the test when a connection is made: nobody would serve it.
func shut(t testing.TB, to load.Target) {
	t.Helper()
	c, err := net.DialTimeout(to.Network, to.Address, 300*time.Millisecond)
	if err == nil {
		_ = c.Close() // it was let in
		t.Error("a connection was accepted, with nobody to serve it")
	}
}

// some is a load of a hundred requests.
func some(t testing.TB, a *app) load.Result {
	t.Helper()
	r := users(t, a, 4)
	testkit.Wait(t, func() bool { return r.Result().Requests >= 100 }, "a hundred requests")
	return r.Stop()
}

// A worker that is lost again and again is said to be once, is tried on at the longest
// interval, and costs next to nothing meanwhile.
func TestACrashLoopIsSaidOnceAndNeverSpins(t *testing.T) {
	testkit.Leaks(t)
	const longest = 250 * time.Millisecond
	file := t.TempDir() + "/behaviour"
	testkit.Behave(t, file, "ready=notify")
	a := run(t, config(t, testkit.Target("@"+file), quick,
		"[restart]\nbackoff_min = \"20ms\"\nbackoff_max = \"250ms\"\nreset_after = \"1s\"", listen("web", "127.0.0.1:0")))
	testkit.Behave(t, file, "exit=7", "words=no_licence")
	from := a.Next()
	kill(t, a.crew(1)[0].PID)
	a.WaitEvent(from, "crash-loop", "generation", 1)
	if s := a.report().State; s != event.StateCrashLoop {
		t.Errorf("state %q", s)
	}
	if code, out, _ := a.baton("status", "test"); code != 0 || !strings.Contains(out, " crash-loop ") {
		t.Errorf("status: exit code %d\n%s", code, out)
	}
	starts := func(from int) []testkit.Line { return a.events(from, "started") }
	testkit.Wait(t, func() bool { return len(starts(from)) >= 6 }, "the longest interval to be reached")
	steady, busy, began := a.Next(), cpu(t, a.PID()), time.Now()
	testkit.Wait(t, func() bool { return len(starts(steady)) >= 9 }, "nine starts")
	used, took := cpu(t, a.PID())-busy, time.Since(began)
	t.Logf("nine starts in %v, for which baton used %v of a processor", took.Round(time.Millisecond), used)
	if used > took/4 {
		t.Errorf("baton used %v of a processor in %v", used, took)
	}
	for i, s := range starts(steady)[1:] {
		if between := s.At.Sub(starts(steady)[i].At); between < longest {
			t.Errorf("start %d came %v after the one before, want %v at least", i+2, between, longest)
		}
	}
	for _, l := range a.events(steady, "restarting") {
		if d := fmt.Sprint(l.Event()["delay"]); d != strconv.Itoa(int(longest)) {
			t.Errorf("a restart after %s", d)
		}
	}
	if n := len(a.events(from, "crash-loop")); n != 1 {
		t.Errorf("the loop was said %d times", n)
	}

	// Who comes meanwhile waits, and is served when it is mended.
	testkit.Behave(t, file, "ready=notify")
	fresh := users(t, a, 4)
	testkit.Wait(t, func() bool { return a.report().State == event.StateServing }, "it to serve again")
	testkit.Wait(t, func() bool { return fresh.Result().Requests >= 50 }, "it to answer")
	none(t, "fresh", fresh.Stop(), 50)
	a.Stop()
}

// cpu is what a process has used of processors, in user and system mode.
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	total := 0
	for _, f := range fields[11:13] { // utime and stime, proc_pid_stat(5)
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return time.Duration(total) * (time.Second / 100) // USER_HZ is 100 everywhere
}

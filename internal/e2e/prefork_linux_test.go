package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/load"
	"baton/internal/testkit"
)

// blocking is the command of a worker that serves one request at a time.
func blocking(t testing.TB) []string {
	t.Helper()
	return []string{program(t, "python3"), testdata(t, "prefork.py"), "0.01"}
}

// gunicorn is a command of the same kind whose workers finish what they have when they
// are told to end.
func gunicorn(t testing.TB) []string {
	t.Helper()
	return []string{program(t, "gunicorn"), "--workers", "1", "--chdir", testdata(t, ""), "hello:app"}
}

// together has four workers with one socket of each listener.
const together = quick + "\nworkers = 4\nslots = \"generation\""

func (a *app) noCrash() {
	a.t.Helper()
	for _, line := range a.Lines() {
		if e := line.Event(); e["event"] == "crashed" || strings.Contains(fmt.Sprint(e["msg"]), "left behind") {
			a.t.Error(line.Text)
		}
	}
}

// Four workers that serve one request at a time have one socket of each listener: all
// of them work, and a swap under more load than they can take at once loses nothing.
func TestBlockingWorkersOnOneSocketSwap(t *testing.T) {
	testkit.Together(t)
	t.Run("python", func(t *testing.T) {
		testkit.Leaks(t)
		swapTogether(t, 20, config(t, blocking(t), together, listen("web", "127.0.0.1:0"), listen("file", "unix://"+shortDir(t)+"/s")), "web", "file")
	})
	t.Run("gunicorn", func(t *testing.T) {
		testkit.Leaks(t)
		swapTogether(t, 4, config(t, gunicorn(t), together, listen("web", "127.0.0.1:0")), "web")
	})
}

func swapTogether(t *testing.T, swaps int, path string, names ...string) {
	t.Helper()
	a := run(t, path)
	var targets []load.Target
	for _, name := range names {
		targets = append(targets, a.address(name))
	}
	fresh := begun(t, load.Options{Targets: targets, Clients: 7 * len(targets)})
	for range swaps {
		a.swap()
	}
	n := fresh.Result().Requests
	testkit.Wait(t, func() bool { return fresh.Result().Requests > n+200 }, "the last generation to answer 200 requests")
	r := fresh.Stop()
	none(t, "fresh", r, 50*swaps)
	if want := 4 * (swaps + 1); len(r.ByPID) != want {
		t.Errorf("%d workers of %d had work", len(r.ByPID), want)
	}
	a.noCrash()
	a.Stop()
}

// One of four is killed again and again: what it was serving is lost, and nobody is
// refused, nor waits for its successor.
func TestAKillOfOneOfSeveralOnOneSocketRefusesNobody(t *testing.T) {
	testkit.Leaks(t)
	const kills = 6
	a := run(t, config(t, blocking(t), together, "[restart]\nbackoff_min = \"2s\"\nbackoff_max = \"2s\"", listen("web", "127.0.0.1:0")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 7, Timeout: 5 * time.Second})
	for i := range kills {
		from := a.Next()
		kill(t, a.Children()[i%3])
		a.WaitEvent(from, "crashed")
		a.WaitEvent(from, "ready")
	}
	r := fresh.Stop()
	only(t, "fresh", r, kills)
	if worst := r.All().Max(); worst > time.Second {
		t.Errorf("a request took %v", worst)
	}
	a.Stop()
}

// A name leads to one file: on a unix listener the workers of a generation have one
// socket though each has a slot, all of them work, and swaps lose nothing.
func TestSeveralWorkersOnAUnixListenerAllWork(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, blocking(t), quick+"\nworkers = 4\nslots = \"worker\"", listen("file", "unix://"+shortDir(t)+"/s"))
	swapTogether(t, 10, path, "file")
}

// At a full stop new clients are refused; who was accepted or queued is served by the
// workers together.
func TestAStopOfWorkersOnOneSocketServesWhatIsQueued(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, blocking(t), together, listen("web", "127.0.0.1:0"), listen("file", "unix://"+shortDir(t)+"/s")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web"), a.address("file")}, Clients: 40, Pause: time.Millisecond})
	testkit.Wait(t, func() bool { return fresh.Result().Requests > 100 }, "100 requests")
	a.Stop()
	r := fresh.Stop()
	for reason, n := range r.Reasons {
		if reason != load.Refused {
			t.Errorf("%d lost because %s, which a stop is no reason for: %v", n, reason, r.Examples)
		}
	}
	t.Logf("%d requests, %d refused", r.Requests, r.Reasons[load.Refused])
}

// Worker by worker they leave that socket for the newcomer's, and those that finish
// what they have lose nothing.
func TestARollingSwapOnAUnixListener(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, gunicorn(t), quick+"\nworkers = 3\nswap = \"rolling\"", listen("file", "unix://"+shortDir(t)+"/s"))
	a := run(t, path)
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("file")}, Clients: 6})
	for range 2 {
		a.swap()
	}
	n := fresh.Result().Requests
	testkit.Wait(t, func() bool { return fresh.Result().Requests > n+100 }, "100 more requests")
	none(t, "fresh", fresh.Stop(), 100)
	a.noCrash()
	a.Stop()
}

// A worker that leaves the others is not kept waiting by a queue that they serve and
// that is never empty; the next one has its slot. It accepts until its signal: what it
// has then is lost if it dies of it, and is not if it finishes.
func TestAWorkerLeavesASocketThatIsNeverIdle(t *testing.T) {
	testkit.Together(t)
	const leave = 3
	for _, c := range []struct {
		name string
		exec []string
		held int // by each that leaves, on its two sockets
	}{{"dies", blocking(t), 2}, {"finishes", gunicorn(t), 0}} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			a := run(t, config(t, c.exec, together, listen("web", "127.0.0.1:0"), listen("file", "unix://"+shortDir(t)+"/s")))
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web"), a.address("file")}, Clients: 24})
			slots := map[any]bool{}
			for range leave {
				from := a.Next()
				a.scale("3")
				at := a.WaitEvent(from, "scaled")
				signalled := a.WaitEvent(from, "signalled")
				if took := signalled.At.Sub(at.At); took > 3*time.Second {
					t.Errorf("it was signalled after %v", took)
				}
				slots[signalled.Event()["slot"]] = true
				a.WaitEvent(from, "exited")
				n := fresh.Result().Requests
				testkit.Wait(t, func() bool { return fresh.Result().Requests > n+200 }, "200 more requests")
				from = a.Next()
				a.scale("4")
				a.WaitEvent(from, "ready")
			}
			if len(slots) != 1 {
				t.Errorf("the slots of those who left were not used again: %v", slots)
			}
			only(t, "fresh", fresh.Stop(), leave*c.held)
			a.noCrash()
			a.Stop()
		})
	}
}

func (a *app) scale(n string) {
	a.t.Helper()
	if code, _, errs := a.baton("scale", "test", n); code != 0 {
		a.t.Fatalf("scale: exit code %d: %s", code, errs)
	}
}

// The start of a worker leaves O_NONBLOCK of the socket to those that have it.
func TestAWorkerThatJoinsLeavesTheFlagOfTheSocketAlone(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, blocking(t), together, listen("web", "127.0.0.1:0"), listen("file", "unix://"+shortDir(t)+"/s")))
	flags := func(pid, fd, set int) int {
		t.Helper()
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(process)
		own, err := unix.PidfdGetfd(process, fd, 0)
		if err != nil {
			t.Skipf("a worker's descriptor is not to be had: %v", err)
		}
		defer unix.Close(own)
		now, err := unix.FcntlInt(uintptr(own), unix.F_GETFL, 0)
		if err == nil && set != 0 {
			_, err = unix.FcntlInt(uintptr(own), unix.F_SETFL, now|set)
		}
		if err != nil {
			t.Fatal(err)
		}
		return now & unix.O_NONBLOCK
	}
	for fd := 3; fd < 5; fd++ {
		if flags(a.Children()[0], fd, unix.O_NONBLOCK) != 0 { // as a program with an event loop does
			t.Errorf("descriptor %d does not block", fd)
		}
	}
	from := a.Next()
	kill(t, a.Children()[1])
	a.WaitEvent(from, "ready")
	from = a.Next()
	a.scale("5")
	a.WaitEvent(from, "ready")
	for fd := 3; fd < 5; fd++ {
		if flags(a.Children()[0], fd, 0) == 0 {
			t.Errorf("descriptor %d blocks since another worker was started", fd)
		}
	}
	a.swap()
	for fd := 3; fd < 5; fd++ {
		if flags(a.pid(2), fd, 0) != 0 {
			t.Errorf("descriptor %d of the next generation does not block", fd)
		}
	}
	a.Stop()
}

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// only fails the test when more was lost than a killed process can have held:
// a request of each client that was connected to it, and nothing refused.
func only(t testing.TB, what string, r load.Result, held int) {
	t.Helper()
	t.Logf("%s: %d requests, %d lost (%v); the killed processes may have held %d", what, r.Requests, r.Lost, r.Reasons, held)
	if r.Lost > held {
		t.Errorf("%s: %d lost, more than the %d that the killed processes can have held", what, r.Lost, held)
	}
	for _, reason := range []load.Reason{load.Refused, load.Connect, load.Timeout, load.Status, load.Content} {
		if r.Reasons[reason] > 0 {
			t.Errorf("%s: %d lost because %s, which no process held", what, r.Reasons[reason], reason)
		}
	}
	if t.Failed() {
		for _, l := range r.Examples {
			t.Log(l)
		}
	}
}

func TestAThousandHUPsInASecond(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 8})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		<-tick.C
		a.HUP()
	}
	// One more, after which nothing is on its way: it waits its turn.
	from := a.Next()
	a.HUP()
	a.WaitEvent(from, "serving")
	a.settled()
	none(t, "fresh", fresh.Stop(), 100)
	if n := len(a.Children()); n != 1 {
		t.Errorf("%d processes are left, want the one that serves", n)
	}
	a.Stop()
}

// settled waits until only one generation is left and nothing is starting.
func (a *app) settled() {
	a.t.Helper()
	testkit.Wait(a.t, func() bool {
		live := map[string]bool{}
		serving := ""
		for _, line := range a.Lines() {
			e := line.Event()
			g := fmt.Sprint(e["generation"])
			switch e["event"] {
			case "starting":
				live[g] = true
			case "serving":
				serving = g
			case "gone", "refused":
				delete(live, g)
			}
		}
		return len(live) == 1 && live[serving]
	}, "one generation to be left")
}

func TestAHUPBeforeTheFirstReadyIsRemembered(t *testing.T) {
	testkit.Leaks(t)
	a := begin(t, config(t, testkit.Target("delay=300ms"), quick, listen("web", "127.0.0.1:0")))
	a.WaitEvent(0, "starting", "generation", 1)
	a.HUP()
	a.serving(1)
	a.serving(2)
	a.gone(1)
	a.Stop()
}

// TERM in the middle of whatever goes on ends everything, and what was accepted
// or queued is served.
func TestTermEndsEverythingWhateverGoesOn(t *testing.T) {
	testkit.Together(t)
	for _, c := range []struct {
		name      string
		handoff   string
		behaviour []string
		reach     func(a *app)
	}{
		{"start", `ready = "notify"`, []string{"ready=never"}, func(a *app) { a.WaitEvent(a.from, "started", "generation", 2) }},
		{"bake", `bake = "1h"`, nil, func(a *app) { a.WaitEvent(a.from, "standby", "generation", 1) }},
		{"drain", `drain_delay = "1h"`, nil, func(a *app) { a.WaitEvent(a.from, "draining", "generation", 1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			file := t.TempDir() + "/behaviour"
			testkit.Behave(t, file, "ready=notify")
			a := run(t, config(t, testkit.Target("@"+file), "[handoff]\n"+c.handoff, listen("web", "127.0.0.1:0")))
			slow := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4, Kind: load.Slow})
			testkit.Behave(t, file, append([]string{"ready=notify"}, c.behaviour...)...)
			a.HUP()
			c.reach(a)
			// Requests that begin after the stop are refused, as they should be;
			// those in flight at that moment are the ones that must be served.
			a.Signal(syscall.SIGTERM)
			if code := a.Wait(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			r := slow.Stop()
			for reason, n := range r.Reasons {
				if reason != load.Refused {
					t.Errorf("%d requests lost: %s", n, reason)
				}
			}
			if r.Requests == r.Lost {
				t.Errorf("no request was served")
			}
		})
	}
}

func TestASecondTermEndsEverythingNow(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target("term=ignore"), listen("web", "127.0.0.1:0")))
	a.Signal(syscall.SIGTERM)
	a.WaitEvent(0, "signalled")
	a.Signal(syscall.SIGTERM)
	if code := a.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestQuitEndsEverythingNow(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target("term=ignore"), listen("web", "127.0.0.1:0")))
	a.Signal(syscall.SIGQUIT)
	if code := a.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// kill -9 of the newcomer, or of the old generation, in every phase of a swap.
func TestKillInEveryPhaseLosesOnlyWhatTheKilledProcessHeld(t *testing.T) {
	testkit.Together(t)
	const clients = 8
	for _, c := range []struct {
		name    string
		handoff string
		slow    []string // behaviours of generation 2
		reach   string   // event that begins the phase
		of      int      // of this generation
		kill    int      // generation to kill
		then    int      // generation that serves afterwards
	}{
		{"newcomer during its start", `ready = "notify"`, []string{"ready=never"}, "started", 2, 2, 1},
		{"old one during the start", `ready = "notify"`, []string{"delay=500ms"}, "started", 2, 1, 2},
		{"newcomer during the bake", `bake = "1h"`, nil, "standby", 1, 2, 1},
		{"old one during the bake", `bake = "1h"`, nil, "standby", 1, 1, 2},
		{"newcomer during the drain", `drain_delay = "2s"`, nil, "draining", 1, 2, 2},
		{"old one during the drain", `drain_delay = "1h"`, nil, "draining", 1, 1, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			file := t.TempDir() + "/behaviour"
			testkit.Behave(t, file, "ready=notify")
			a := run(t, config(t, testkit.Target("@"+file), "[handoff]\n"+c.handoff, listen("web", "127.0.0.1:0")))
			target := []load.Target{a.address("web")}
			fresh := begun(t, load.Options{Targets: target, Clients: clients})
			slow := begun(t, load.Options{Targets: target, Clients: clients, Kind: load.Slow})
			testkit.Behave(t, file, append([]string{"ready=notify"}, c.slow...)...)
			from := a.Next()
			a.HUP()
			a.WaitEvent(from, c.reach, "generation", c.of)
			pid, err := a.WaitEvent(0, "started", "generation", c.kill).Event()["pid"].(interface{ Int64() (int64, error) }).Int64()
			if err != nil {
				t.Fatal(err)
			}
			kill(t, int(pid))
			a.answers(target[0], c.then)
			only(t, "fresh", fresh.Stop(), clients)
			only(t, "slow", slow.Stop(), clients)
			a.Stop()
		})
	}
}

// answers waits until generation n, and only that, answers new connections.
func (a *app) answers(target load.Target, n int) {
	a.t.Helper()
	testkit.Wait(a.t, func() bool {
		r := begun(a.t, load.Options{Targets: []load.Target{target}, Clients: 2})
		testkit.Wait(a.t, func() bool { return r.Result().Requests >= 10 }, "ten requests")
		by := r.Stop().ByGeneration
		return len(by) == 1 && by[fmt.Sprint(n)] > 0
	}, fmt.Sprintf("generation %d to answer", n))
}

// After a crash of the only worker nobody is refused: the socket stays, and the
// successor serves what is queued on it.
func TestCrashesOfTheOnlyWorkerRefuseNobody(t *testing.T) {
	testkit.Leaks(t)
	const clients, crashes = 8, 5
	a := run(t, config(t, testkit.Target(), "[restart]\nbackoff_min = \"10ms\"", listen("web", "127.0.0.1:0")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: clients})
	for range crashes {
		from := a.Next()
		kill(t, a.Children()[0])
		a.WaitEvent(from, "crashed")
		a.WaitEvent(from, "ready")
	}
	only(t, "fresh", fresh.Stop(), clients*crashes)
	a.Stop()
}

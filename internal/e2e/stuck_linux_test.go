package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// waiting has clients connect, each once, and returns a channel with whom they met.
func waiting(t *testing.T, to load.Target, clients crowd) <-chan [][]met {
	done := make(chan [][]met, 1)
	go func() { done <- clients.all(t, to, 1) }() // ends with the last answer
	return done
}

// members are the workers of the generation that serves, by pid.
func (a *app) members() map[int]event.Worker {
	a.t.Helper()
	all := map[int]event.Worker{}
	for _, g := range a.state().Generations {
		for _, w := range g.Workers {
			if g.Phase == "serving" {
				all[w.PID] = w
			}
		}
	}
	return all
}

// With replacement configured a worker that was stopped is found, and its successor
// answers who waits in its queue.
func TestAStuckWorkerIsReplacedAndItsQueueServed(t *testing.T) {
	testkit.Together(t)
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprint(workers, "-workers"), func(t *testing.T) {
			testkit.Leaks(t)
			a := run(t, config(t, testkit.Target(), quick, fmt.Sprintf("drain_timeout = \"500ms\"\nworkers = %d", workers),
				"[health.live]\nstuck_after = \"1s\"\nstuck = \"replace\"", listen("web", "127.0.0.1:0")))
			from := a.Next()
			pid := a.pid(1)
			slot := a.members()[pid].Slot
			stop(t, pid)
			met := waiting(t, a.address("web"), 15) // at once, as many as connect together
			a.WaitEvent(from, "stuck", "pid", pid)
			line := a.WaitEvent(from, "unhealthy", "pid", pid)
			if !strings.Contains(fmt.Sprint(line.Event()["reason"]), "accepted nothing") {
				t.Errorf("%s", line.Text)
			}
			old := 0
			for _, m := range <-met {
				if m[0].pid == fmt.Sprint(pid) {
					old++
				}
			}
			if old > 0 {
				t.Errorf("the stopped worker answered %d", old)
			}
			a.WaitEvent(from, "killed", "pid", pid)
			a.WaitEvent(from, "exited", "reason", "signal: killed")
			now := a.members()
			if len(now) != workers {
				t.Errorf("%d workers: %v", len(now), now)
			}
			for pid, w := range now {
				if w.State != "ready" || w.Stuck {
					t.Errorf("pid %d: %+v", pid, w)
				}
				if w.Index == 0 && (w.Restarts != 1 || w.Slot != slot) && workers == 1 {
					t.Errorf("its successor is %+v, want slot %d", w, slot)
				}
			}
			a.Stop()
		})
	}
}

// By default it is said once, and nothing is done; when the worker goes on, so does
// all that waited.
func TestAStuckWorkerIsReportedOnce(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, "[health.live]\nstuck_after = \"500ms\"", listen("web", "127.0.0.1:0")))
	pid := a.pid(1)
	from := a.Next()
	for round := 1; round <= 2; round++ {
		stop(t, pid)
		met := waiting(t, a.address("web"), 15)
		a.WaitEvent(from, "stuck", "pid", pid)
		if !a.members()[pid].Stuck {
			t.Error("status does not say that it is stuck")
		}
		if round == 1 {
			// It is looked at again and again: what shows that is another that is found
			// stuck meanwhile, from first to last.
			b := run(t, config(t, testkit.Target(), quick, "[health.live]\nstuck_after = \"500ms\"", listen("web", "127.0.0.1:0")))
			stop(t, b.pid(1))
			also := waiting(t, b.address("web"), 1)
			b.WaitEvent(0, "stuck")
			goOn(t, b.pid(1))
			<-also
			b.Stop()
		}
		from = a.Next()
		goOn(t, pid)
		for client, m := range <-met {
			if m[0].pid != fmt.Sprint(pid) {
				t.Errorf("client %d was answered by %+v", client, m[0])
			}
		}
		testkit.Wait(t, func() bool { return !a.members()[pid].Stuck }, "status to say that it is not stuck")
		if n := strings.Count(a.Log(), `"event":"stuck"`); n != round {
			t.Errorf("said %d times after %d rounds", n, round)
		}
	}
	for _, kind := range []string{"unhealthy", "restarting", "replacing", "signalled"} {
		a.never(kind)
	}
	a.Stop()
}

// Who has nothing to do is not asked: a stopped worker that nobody waits for is not
// found in a time in which one is that somebody waits for.
func TestAStoppedWorkerThatNobodyWaitsForBothersNobody(t *testing.T) {
	testkit.Leaks(t)
	live := "[health.live]\nstuck_after = \"500ms\"\nstuck = \"replace\""
	idle := run(t, config(t, testkit.Target(), quick, live, listen("web", "127.0.0.1:0")))
	stop(t, idle.pid(1))
	asked := run(t, config(t, testkit.Target(), quick, "drain_timeout = \"500ms\"", live, listen("web", "127.0.0.1:0")))
	stop(t, asked.pid(1))
	met := waiting(t, asked.address("web"), 1)
	asked.WaitEvent(0, "stuck")
	<-met
	asked.Stop()
	if w := idle.members()[idle.pid(1)]; w.Stuck || w.State != "ready" || w.Restarts > 0 {
		t.Errorf("the idle one: %+v", w)
	}
	idle.never("stuck")
	goOn(t, idle.pid(1))
	if got := served(t, idle.address("web")); got != "1" {
		t.Errorf("generation %s serves", got)
	}
	idle.Stop()
}

// A worker that takes one request at a time, and whose queue is never empty, is busy,
// however long the queue: those that wait come to their turn.
func TestABusyWorkerIsNotCalledStuck(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, []string{program(t, "python3"), testdata(t, "oneatatime.py"), "0.05"}, quick,
		"[health.live]\nstuck_after = \"1s\"\nstuck = \"replace\"", listen("web", "127.0.0.1:0")))
	busy := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 30, Expect: []byte("ok")})
	testkit.Wait(t, func() bool { return busy.Result().Requests >= 70 }, "70 answers")
	got := busy.Stop()
	none(t, "busy", got, 70)
	if h := got.All(); h.Quantile(0.5) < 12e8 {
		t.Errorf("half of the answers took less than %v: the queue was no longer than stuck_after", h.Quantile(0.5))
	}
	if len(got.ByPID) != 1 {
		t.Errorf("answered by %v", got.ByPID)
	}
	for _, kind := range []string{"stuck", "unhealthy", "restarting"} {
		a.never(kind)
	}
	a.Stop()
}

// A successor that finds a long queue on its slot is ready when it has taken the first
// of those that wait, and not when they all have been served.
func TestASuccessorBehindALongQueueIsNotLate(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, []string{program(t, "python3"), testdata(t, "oneatatime.py"), "0.1"}, quick, `ready_timeout = "2s"`,
		listen("web", "127.0.0.1:0")))
	busy := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 40, Expect: []byte("ok")})
	testkit.Wait(t, func() bool { return busy.Result().Requests >= 10 }, "10 answers")
	from := a.Next()
	kill(t, a.pid(1))
	ready := at(t, a.WaitEvent(from, "ready", "generation", 1))
	if took := ready.Sub(at(t, a.WaitEvent(from, "started", "generation", 1))); took > 2*time.Second {
		t.Errorf("ready after %v", took)
	}
	a.never("killed")
	if got := busy.Stop(); got.Lost > 1 { // what the first one had in hand
		t.Errorf("lost: %v", got)
	}
	a.Stop()
}

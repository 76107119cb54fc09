package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"baton/internal/testkit"
)

// A worker that fails its probe again and again is replaced, and no other; one that
// fails it less often is left alone.
func TestAWorkerThatFailsItsLiveProbeIsReplaced(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, "workers = 3",
		"[health.live]\nprobe = \"http\"\npath = \"/healthz\"\ninterval = \"50ms\"\nfailures = 3\ntimeout = \"10s\"",
		listen("web", "127.0.0.1:0")))
	crew, to := a.crew(3), a.address("web")
	fresh := users(t, a, 8)
	asked := func(from int) (n int) {
		for _, l := range a.Lines()[from:] {
			if strings.HasPrefix(l.Text, "healthz ") {
				n++
			}
		}
		return n
	}
	from := a.Next()
	askOf(t, to, crew[1].PID, "/abuse?what=sick&times=2")
	after := a.Next()
	testkit.Wait(t, func() bool { return asked(after) >= 24 }, "each worker to be asked several times")
	if n := len(a.events(from, "unhealthy")); n > 0 {
		t.Errorf("%d workers were found unhealthy after 2 failures", n)
	}
	for i, w := range a.crew(3) {
		if w.PID != crew[i].PID {
			t.Errorf("worker %d was pid %d and is %d", i, crew[i].PID, w.PID)
		}
	}
	for n := range 5 {
		sick := n % 3
		from = a.Next()
		askOf(t, to, crew[sick].PID, "/abuse?what=sick&times=1000")
		line := a.WaitEvent(from, "unhealthy", "pid", crew[sick].PID)
		if reason := fmt.Sprint(line.Event()["reason"]); !strings.Contains(reason, "500") || !strings.Contains(reason, "3 times in a row") {
			t.Errorf("unhealthy because %s", reason)
		}
		now := a.crew(3)
		for i, w := range now {
			if same := w.PID == crew[i].PID; same == (i == sick) {
				t.Errorf("worker %d was pid %d and is %d, when %d was sick", i, crew[i].PID, w.PID, sick)
			}
		}
		crew = now
	}
	none(t, "fresh", fresh.Stop(), 500)
	if n := len(a.events(0, "crashed")); n > 0 {
		t.Errorf("%d crashes", n)
	}
	a.Stop()
}

// The watchdog is for those that speak it. One that drains has done its part.
func TestAWorkerThatFallsSilentIsReplaced(t *testing.T) {
	testkit.Leaks(t)
	file := t.TempDir() + "/behaviour"
	testkit.Behave(t, file, "ready=notify", "watchdog=50ms")
	a := run(t, config(t, testkit.Target("@"+file), "[handoff]\nworkers = 2\ndrain_delay = \"0s\"\ndrain_timeout = \"3s\"",
		"[health.live]\nwatchdog = \"700ms\"", listen("web", "127.0.0.1:0")))
	crew, to := a.crew(2), a.address("web")
	testkit.Behave(t, file, "ready=notify")
	from := a.Next()
	kill(t, crew[1].PID) // its successor never speaks
	a.WaitEvent(from, "ready")
	crew = a.crew(2)
	silenced := time.Now()
	askOf(t, to, crew[0].PID, "/abuse?what=silence")
	line := a.WaitEvent(from, "unhealthy", "pid", crew[0].PID)
	if took := line.At.Sub(silenced); took < 600*time.Millisecond {
		t.Errorf("silent for %v, it was found to be so", took)
	}
	if reason := fmt.Sprint(line.Event()["reason"]); !strings.Contains(reason, "WATCHDOG=1") {
		t.Errorf("unhealthy because %s", reason)
	}
	now := a.crew(2)
	if now[0].PID == crew[0].PID || now[1].PID != crew[1].PID {
		t.Errorf("workers were %v and are %v", crew, now)
	}
	// Neither speaks now. The next generation does, until it has its signal.
	testkit.Behave(t, file, "ready=notify", "watchdog=50ms", "record=TERM")
	a.swap()
	crew = a.crew(2)
	from = a.Next()
	for _, w := range crew {
		askOf(t, to, w.PID, "/abuse?what=silence")
	}
	a.swap()
	late := a.WaitEvent(from, "killed", "generation", 2) // at drain_timeout, more than four times the watchdog's
	signalled := a.WaitEvent(from, "signalled", "generation", 2)
	if after := late.At.Sub(signalled.At); after < 2900*time.Millisecond {
		t.Errorf("killed %v after its signal", after)
	}
	if n := len(a.events(from, "unhealthy")); n > 0 {
		t.Errorf("%d workers that drain were found unhealthy", n)
	}
	a.Stop()
}

// most is how many workers of an application were starting or serving at once, looked
// at all the time until it is asked.
func (a *app) most(t *testing.T) (stop func() int) {
	t.Helper()
	var wg sync.WaitGroup
	most, quit := 0, make(chan struct{})
	wg.Go(func() { // ends with stop
		for {
			n := 0
			for _, g := range a.report().Generations {
				for _, state := range []string{"waiting", "starting", "probing", "ready"} {
					for _, w := range g.Workers {
						if w.State == state {
							n++
						}
					}
				}
			}
			most = max(most, n)
			select {
			case <-quit:
				return
			case <-time.After(time.Millisecond): // between two looks
			}
		}
	})
	stop = sync.OnceValue(func() int { close(quit); wg.Wait(); return most })
	t.Cleanup(func() { stop() })
	return stop
}

// A rolling swap takes over worker by worker: one more than there are to be, and no
// more. One that fails half-way gives back what it took.
func TestARollingSwapTakesOverWorkerByWorker(t *testing.T) {
	testkit.Leaks(t)
	file := t.TempDir() + "/behaviour"
	more := []string{quick, "workers = 4", "swap = \"rolling\"", listen("web", "127.0.0.1:0")}
	path := config(t, testkit.Target("ready=notify"), more...)
	a := run(t, path)
	a.crew(4)
	fresh := users(t, a, 8)
	most := a.most(t)
	for range swaps(t) / 20 {
		a.swap()
		a.crew(4)
	}
	if n := most(); n != 5 {
		t.Errorf("%d workers were starting or serving at once, want 5", n)
	}
	before := a.crew(4)
	rewrite(t, path, testkit.Target("ready=notify", "@"+file), more...)
	a.fails(t, file)
	after, kept := a.crew(4), 0
	for i, w := range after {
		if w.PID == before[i].PID {
			kept++
		}
	}
	if kept == 0 || kept == 4 {
		t.Errorf("%d of the old workers are left, want those that had not given way yet", kept)
	}
	if g := serves(a.report()); g.Number != a.last {
		t.Errorf("generation %d serves, want %d", g.Number, a.last)
	}
	r := fresh.Stop()
	none(t, "fresh", r, 500)
	if n := r.ByGeneration[fmt.Sprint(a.last+1)]; n == 0 {
		t.Error("the generation that failed half-way had answered nobody")
	}
	a.Stop()
}

// fails begins a rolling swap whose second or third worker ends before it is ready, and waits
// until it is rolled back.
func (a *app) fails(t *testing.T, file string) {
	t.Helper()
	from := a.Next()
	testkit.Behave(t, file, "delay=300ms") // in which the next ones' behaviours are written
	a.HUP()
	first := a.WaitEvent(from, "ready", "generation", a.last+1)
	a.WaitEvent(first.Index, "started", "generation", a.last+1)
	testkit.Behave(t, file, "exit=7", "words=no_licence")
	line := a.WaitEvent(from, "rolledback", "generation", a.last+1)
	if !strings.Contains(line.Text, "exit status 7") || !strings.Contains(line.Text, "no_licence") {
		t.Errorf("rolled back: %s", line.Text)
	}
	a.gone(a.last + 1)
}

// The steps of a drain, in their order and at their times, with what is left.
func TestADrainGoesUpItsLadder(t *testing.T) {
	testkit.Leaks(t)
	const delay, second, last = 400 * time.Millisecond, 1300 * time.Millisecond, 2500 * time.Millisecond
	file := t.TempDir() + "/behaviour"
	testkit.Behave(t, file, "record=USR1,QUIT,TERM")
	a := run(t, config(t, testkit.Target("@"+file), "[handoff]\nquiesce_signal = \"USR1\"\ndrain_delay = \"400ms\"\ndrain_timeout = \"2500ms\"",
		`drain_signals = [{ signal = "QUIT", after = "0s" }, { signal = "TERM", after = "1300ms" }]`, listen("web", "127.0.0.1:0")))
	old, to := a.crew(1)[0], a.address("web")
	clients := []*kept{keep(t, to), keep(t, to), keep(t, to)}
	testkit.Behave(t, file, "ready=none")
	a.HUP()
	a.serving(2)
	got := func(signal string) time.Time {
		t.Helper()
		return a.WaitLog(fmt.Sprintf("^pid %d got %s$", old.PID, signal)).At
	}
	began := a.WaitEvent(0, "draining", "generation", 1).At
	quiesced := got("USR1")
	a.WaitEvent(0, "left", "pid", old.PID)
	a.WaitLog(fmt.Sprintf("pid %d of generation 1 drains: 3 connections left", old.PID))
	if n := a.left(old.PID); n != 3 {
		t.Errorf("status has %d connections left, want 3", n)
	}
	_ = clients[0].conn.Close() // to see it counted
	a.WaitLog(fmt.Sprintf("pid %d of generation 1 drains: 2 connections left", old.PID))
	if n := a.left(old.PID); n != 2 {
		t.Errorf("status has %d connections left, want 2", n)
	}
	quit, term := got("QUIT"), got("TERM")
	killed := a.WaitEvent(0, "killed", "pid", old.PID).At
	a.gone(1)
	const soon = 50 * time.Millisecond // a line may be read later than it was written
	for _, step := range []struct {
		what     string
		from, to time.Time
		least    time.Duration
	}{
		{"the end of new connections to USR1", began, quiesced, -soon},
		{"USR1 to QUIT", quiesced, quit, delay - soon},
		{"QUIT to TERM", quit, term, second - soon},
		{"QUIT to KILL", quit, killed, last - soon},
	} {
		took := step.to.Sub(step.from)
		t.Logf("from %s: %v", step.what, took.Round(time.Millisecond))
		if took < step.least || took > step.least+5*time.Second {
			t.Errorf("from %s: %v, want %v", step.what, took, step.least+soon)
		}
	}
	for _, signal := range []string{"USR1", "QUIT", "TERM"} {
		if n := strings.Count(a.Log(), fmt.Sprintf("pid %d got %s\n", old.PID, signal)); n != 1 {
			t.Errorf("%d times %s", n, signal)
		}
	}
	a.Stop()
}

// left is how many connections a process has that drains, as the status tells; -1 when
// it does not.
func (a *app) left(pid int) int {
	a.t.Helper()
	for _, g := range a.report().Generations {
		for _, w := range g.Workers {
			if w.PID == pid && w.Connections != nil {
				return *w.Connections
			}
		}
	}
	return -1
}

// Of two who deploy from the same generation at the same time, one is told.
func TestOfTwoDeploysFromOneGenerationTheSecondIsTold(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target("delay=300ms"), quick, listen("web", "127.0.0.1:0")))
	type ended struct {
		code      int
		out, errs string
	}
	for round := 1; round <= 2; round++ {
		both := make(chan ended, 2)
		for range 2 {
			go func() { // ends with the verdict
				code, out, errs := a.baton("reload", "test", "--if-generation", fmt.Sprint(round))
				both <- ended{code, out, errs}
			}()
		}
		one, other := <-both, <-both
		if one.code == 0 {
			one, other = other, one
		}
		if one.code != 6 || other.code != 0 {
			t.Errorf("round %d: %+v and %+v", round, one, other)
		}
		g := serves(a.report())
		if g == nil || g.Number != round+1 {
			t.Errorf("round %d: generation %+v serves", round, g)
		}
		a.crew(1)
	}
	if code, _, errs := a.baton("reload", "test", "--if-generation", "1"); code != 6 || !strings.Contains(errs, "generation 1 does not serve, but 3") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	a.Stop()
}

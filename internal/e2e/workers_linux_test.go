package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// users of an application connect for each request, as fast as they are answered but
// for a pause that leaves the processors to those who start.
func users(t testing.TB, a *app, clients int) *load.Runner {
	t.Helper()
	return begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: clients, Pause: 2 * time.Millisecond})
}

// The kernel deals new connections to workers by chance: each gets its share.
func TestFourWorkersGetAQuarterEach(t *testing.T) {
	testkit.Leaks(t)
	const workers, requests = 4, 5_000
	a := run(t, config(t, testkit.Target(), "[handoff]\nworkers = 4", `protocols = ["systemd", "node"]`, listen("web", "127.0.0.1:0")))
	crew := a.crew(workers)
	for _, w := range crew {
		knows(t, w, "NODE_APP_INSTANCE")
	}
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 8})
	testkit.Wait(t, func() bool { return fresh.Result().Requests >= requests }, fmt.Sprintf("%d requests", requests))
	r := fresh.Stop()
	none(t, "fresh", r, requests)

	expected, answered, squares := float64(r.Requests)/workers, make([]int, workers), 0.0
	for i := range answered {
		answered[i] = r.ByPID[fmt.Sprint(crew[i].PID)]
		off := float64(answered[i]) - expected
		squares += off * off / expected
	}
	t.Logf("workers answered %v of %d requests: chi-squared is %.2f", answered, r.Requests, squares)
	// With three degrees of freedom it is more than this once in 100,000 times.
	if squares > 25.9 {
		t.Errorf("workers answered %v: chi-squared is %.2f", answered, squares)
	}
	if len(r.ByPID) != workers {
		t.Errorf("answered by %v", r.ByPID)
	}
	a.Stop()
}

func TestSwapsOfFourWorkersLoseNothing(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, "workers = 4", listen("web", "127.0.0.1:0")))
	fresh := users(t, a, 8)
	for range swaps(t) / 5 {
		fresh.Mark()
		a.swap()
		fresh.Settle()
	}
	r := fresh.Stop()
	none(t, "fresh", r, 10*swaps(t)/5)
	if n := len(r.ByGeneration); n < swaps(t)/5 {
		t.Errorf("%d generations answered, of %d", n, swaps(t)/5+1)
	}
	a.crew(4)
	a.Stop()
}

// Workers come and go by the verb and by the signals, and stay as many over a reload
// until another number is configured.
func TestScalingLosesNothing(t *testing.T) {
	testkit.Leaks(t)
	web := listen("web", "127.0.0.1:0")
	path := config(t, testkit.Target(), quick, "workers = 1", web)
	a := run(t, path)
	first := a.crew(1)[0]
	fresh := users(t, a, 8)
	scale := func(by string, want int) {
		t.Helper()
		code, out, errs := a.baton("scale", "test", by)
		if plural := map[bool]string{true: "", false: "s"}[want == 1]; code != 0 || out != fmt.Sprintf("test: %d worker%s\n", want, plural) {
			t.Fatalf("scale %s: exit code %d, %q, %q", by, code, out, errs)
		}
		a.crew(want)
	}
	signals := func(s syscall.Signal, want int) {
		t.Helper()
		a.Signal(s)
		a.crew(want)
	}
	scale("6", 6)
	signals(syscall.SIGTTIN, 7)
	scale("+1", 8)
	crew := a.crew(8)
	if crew[0].PID != first.PID {
		t.Errorf("worker 0 was pid %d and is %d", first.PID, crew[0].PID)
	}
	signals(syscall.SIGTTOU, 7)
	scale("3", 3)
	scale("-1", 2)
	if two := a.crew(2); two[0].PID != first.PID || two[1].PID != crew[1].PID {
		t.Errorf("workers %v are left, want the first two of %v", two, crew)
	}
	if code, _, errs := a.baton("scale", "test", "-2"); code == 0 || !strings.Contains(errs, "at least one worker is needed") {
		t.Errorf("scale -2: exit code %d, %q", code, errs)
	}
	a.swap()
	a.crew(2)
	signals(syscall.SIGTTIN, 3)
	a.swap()
	a.crew(3) // the file still says 1
	rewrite(t, path, testkit.Target(), quick, "workers = 2", web)
	a.swap()
	a.crew(2) // what was configured anew wins
	rewrite(t, path, testkit.Target(), quick, "workers = 1", web)
	a.swap()
	a.crew(1) // also when it is what it was at first
	none(t, "fresh", fresh.Stop(), 500)
	a.Stop()
}

// Two workers that leak are replaced before they have twice what they may, each when
// its successor is ready.
func TestAWorkerThatLeaksIsReplacedInTime(t *testing.T) {
	testkit.Leaks(t)
	const limit = 160 << 10 // kB
	// From not far below the limit, at a rate that leaves a busy machine seconds.
	a := run(t, config(t, testkit.Target("leak=100000"), quick, "workers = 2",
		fmt.Sprintf("[limits]\nmemory = \"%dK\"", limit), listen("web", "127.0.0.1:0")))
	to := a.address("web")
	fresh := users(t, a, 4)
	most := 0
	for round := range 2 {
		for _, w := range members(serves(a.report()), "ready") {
			askOf(t, to, w.PID, "/abuse?what=leak&bytes=50000000")
		}
		testkit.Wait(t, func() bool {
			for _, g := range a.report().Generations {
				for _, w := range g.Workers {
					most = max(most, int(w.Memory>>10)) // also while it drains
				}
			}
			if most > 3*limit {
				t.Fatalf("a worker uses %d kB; the limit is %d", most, limit) // before the machine has none left
			}
			return len(a.events(0, "exited")) == 2*(round+1)
		}, "two workers to be replaced")
	}
	t.Logf("the most that a worker used is %d kB, of %d", most, limit)
	if most >= 2*limit || most <= limit {
		t.Errorf("a worker used %d kB; the limit is %d", most, limit)
	}
	none(t, "fresh", fresh.Stop(), 500)
	a.successorsFirst(t, "memory")
	a.Stop()
}

// Workers of an age go one by one, as chance has it, and not all in the same instant.
func TestWorkersOfAnAgeAreReplaced(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, "workers = 3", "[limits]\nmax_age = \"2s\"", listen("web", "127.0.0.1:0")))
	crew := a.crew(3)
	fresh := users(t, a, 4)
	testkit.Wait(t, func() bool {
		g := serves(a.report())
		if n := len(members(g, "ready")); n < 3 {
			t.Errorf("%d workers are ready", n)
		}
		return len(a.events(0, "exited")) >= 6
	}, "six workers to be replaced")
	none(t, "fresh", fresh.Stop(), 500)
	for i, w := range members(serves(a.report()), "ready") {
		knows(t, w, "BATON_WORKER")
		if w.PID == crew[i].PID {
			t.Errorf("worker %d was not replaced", i)
		}
	}
	a.successorsFirst(t, "it has run for")
	for _, l := range a.events(0, "replacing") {
		var ran time.Duration
		for _, s := range a.events(0, "started") {
			if pidOf(s) == pidOf(l) {
				ran = l.At.Sub(s.At)
			}
		}
		if ran < 1900*time.Millisecond || ran > 10*time.Second {
			t.Errorf("pid %d was replaced after %v", pidOf(l), ran)
		}
	}
	a.Stop()
}

// successorsFirst fails the test when a worker that is replaced got its signal before
// another one was ready that had been started since.
func (a *app) successorsFirst(t *testing.T, why string) {
	t.Helper()
	replaced := a.events(0, "replacing")
	if len(replaced) < 4 {
		t.Errorf("%d workers were replaced", len(replaced))
	}
	for _, l := range replaced {
		if reason := fmt.Sprint(l.Event()["reason"]); !strings.Contains(reason, why) {
			t.Errorf("replaced because %s", reason)
		}
		for _, s := range a.events(l.Index, "signalled") {
			if pidOf(s) != pidOf(l) {
				continue
			}
			ready := false
			for _, r := range a.events(l.Index, "ready") {
				ready = ready || r.Index < s.Index
			}
			if !ready {
				t.Errorf("pid %d got its signal, and no other was ready since: %s", pidOf(l), s.Text)
			}
		}
	}
}

func TestMaxWorkersAreAsManyAsTheProcessorsThatBatonMayUse(t *testing.T) {
	testkit.Leaks(t)
	l := testkit.NewBaton(t, "run", "--config", config(t, testkit.Target(), quick, "workers = \"max\"", listen("web", "127.0.0.1:0")), "--log", "json")
	l.StartBy = func(c *exec.Cmd) error {
		path, err := exec.LookPath("taskset")
		if err != nil {
			t.Skip("taskset is not installed")
		}
		c.Args = append([]string{"taskset", "-c", firstCPU(t), c.Path}, c.Args[1:]...)
		c.Path = path
		return c.Start()
	}
	l.Start()
	a := &app{Launcher: l, t: t}
	a.serving(1)
	a.crew(1)
	a.Stop()
}

// firstCPU is one that this process may use.
func firstCPU(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "sed -n 's/^Cpus_allowed_list:[[:space:]]*\\([0-9]*\\).*/\\1/p' /proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// four listeners of every kind that can be probed: both families, one that is both,
// and a path.
func four(t testing.TB, more ...string) []string {
	return append(more, listen("v4", "127.0.0.1:0"), listen("v6", "[::1]:0"), listen("any", ":0"),
		listen("file", "unix://"+shortDir(t)+"/s"))
}

var fourNames = []string{"v4", "v6", "any", "file"}

// strangers connect to all listeners all the time, until the test ends the load: some
// with a request, some only to connect and close.
type strangers struct {
	runner *load.Runner
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	knocks map[string]bool // by the address of the one who knocked
}

func let(t testing.TB, a *app) *strangers {
	t.Helper()
	s := &strangers{knocks: make(map[string]bool)}
	var targets []load.Target
	for _, name := range fourNames {
		targets = append(targets, a.address(name))
	}
	s.runner = begun(t, load.Options{Targets: targets, Clients: 8})
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	t.Cleanup(cancel)
	for _, to := range targets {
		s.wg.Go(func() { // ends with ctx
			every := time.NewTicker(5 * time.Millisecond) // a queue that overflows would be the load's loss
			defer every.Stop()
			for ctx.Err() == nil {
				select {
				case <-every.C:
				case <-ctx.Done():
				}
				s.knock(ctx, to)
			}
		})
	}
	return s
}

// knock connects and says nothing. No probe can come from the same address
// afterwards: one over TCP binds a port that is nobody's, and this one's is taken
// for a minute by its TIME_WAIT.
func (s *strangers) knock(ctx context.Context, to load.Target) {
	dialer := &net.Dialer{}
	if to.Network == "unix" {
		dialer.LocalAddr = &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("@baton-e2e-knock-%d-%d", os.Getpid(), knocked.Add(1))}
	}
	c, err := dialer.DialContext(ctx, to.Network, to.Address)
	if err != nil {
		return // the load counts what is lost; this one only knocks
	}
	s.mu.Lock()
	s.knocks[c.LocalAddr().String()] = true
	s.mu.Unlock()
	_ = c.Close() // nothing was said
}

// knocked numbers the names of those who knock at a path.
var knocked atomic.Int64

// met counts, by generation, how many of those who only knocked were accepted; the
// targets that "greet" print it.
func (s *strangers) met(a *app) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := make(map[string]int)
	for _, line := range a.Lines() {
		var g, address string
		if n, _ := fmt.Sscanf(line.Text, "generation %s met %s", &g, &address); n == 2 && s.knocks[address] {
			count[g]++
		}
	}
	return count
}

// stop ends them and returns what became of the requests.
func (s *strangers) stop(t testing.TB) load.Result {
	t.Helper()
	r := s.runner.Stop()
	s.cancel()
	s.wg.Wait()
	t.Logf("%d connections besides", len(s.knocks))
	return r
}

// probes counts, by generation, how often the target printed that it was probed.
func (a *app) probes() map[string]int {
	count := make(map[string]int)
	for _, line := range a.Lines() {
		var g string
		if n, _ := fmt.Sscanf(line.Text, "healthz of generation %s asked", &g); n == 1 {
			count[g]++
		}
	}
	return count
}

// probed waits until a generation has printed so often that it was probed, which
// may come later than what baton says of it, and fails the test when it was more.
func (a *app) probed(generation, times int) {
	a.t.Helper()
	g := fmt.Sprint(generation)
	testkit.Wait(a.t, func() bool { return a.probes()[g] >= times },
		fmt.Sprintf("generation %s to be probed %d times", g, times))
	if n := a.probes()[g]; n != times {
		a.t.Errorf("generation %s was probed %d times, want %d", g, n, times)
	}
}

// patient probes fail by their answer alone, however busy the machine is.
const patient = "timeout = \"20s\""

// A newcomer whose probe fails is rolled back: the old generation serves on,
// nothing is lost, no probe reaches who serves, and no user the newcomer.
func TestANewcomerThatFailsItsProbeIsNeverMet(t *testing.T) {
	testkit.Together(t)
	const gate = `ready = "notify"`
	for _, mode := range []struct{ name, handoff, bad, timeout, says string }{
		{"as a gate", gate, "health=never", patient, "503 Service Unavailable"},
		{"that hangs", gate, "health=hang", "timeout = \"2s\"", "GET /healthz"},
		{"as readiness", `ready = "http"`, "health=never", "timeout = \"4s\"", "503 Service Unavailable"},
	} {
		t.Run(strings.ReplaceAll(mode.name, " ", "-"), func(t *testing.T) {
			testkit.Leaks(t)
			file := t.TempDir() + "/behaviours"
			health := "[health.ready]\nprobe = \"http\"\npath = \"/healthz\"\ninterval = \"20ms\"\n"
			listeners := four(t)
			configure := func(path, handoff, timeout string) {
				rewrite(t, path, testkit.Target("@"+file), append([]string{quick, handoff, health + timeout}, listeners...)...)
			}
			testkit.Behave(t, file, "ready=notify")
			path := t.TempDir() + "/baton.toml"
			configure(path, mode.handoff, patient)
			a := run(t, path)
			a.probed(1, 1)
			users := let(t, a)
			testkit.Behave(t, file, "ready=notify", mode.bad, "greet")
			handoff := mode.handoff
			if handoff != gate {
				handoff += "\nready_timeout = \"5s\"" // no failure counts before that
			}
			configure(path, handoff, mode.timeout)
			for range 3 {
				from := a.Next()
				a.HUP()
				line := a.WaitEvent(from, "rolledback")
				message, _ := line.Event()["msg"].(string)
				for _, want := range []string{"probe", mode.says, "generation 1 serves on"} {
					if !strings.Contains(message, want) {
						t.Errorf("the log says %q, without %q", message, want)
					}
				}
				a.WaitEvent(from, "gone")
			}
			testkit.Wait(t, func() bool {
				n := a.probes()
				return n["2"] >= 3 && n["3"] >= 3 && n["4"] >= 3
			}, "each newcomer to be probed at least 3 times")
			// Who knocks is seen where it should be.
			testkit.Behave(t, file, "ready=notify", "greet")
			configure(path, mode.handoff, patient)
			a.HUP()
			a.serving(5)
			testkit.Wait(t, func() bool { return users.met(a)["5"] > 0 }, "generation 5 to meet one who knocks")
			r := users.stop(t)
			none(t, "strangers", r, 200)
			if len(r.ByGeneration) > 2 || r.ByGeneration["1"] == 0 {
				t.Errorf("users met generations %v, want 1 and 5 alone", r.ByGeneration)
			}
			a.Stop()
			for g, n := range users.met(a) {
				if g != "5" {
					t.Errorf("%d of those who only knocked met generation %s", n, g)
				}
			}
			// The fifth may find in its slot's queue a question that the fourth never took,
			// which is of no consequence; the first has one, and nobody's before it.
			a.probed(1, 1)
		})
	}
}

// A newcomer that fails its probe at first and then passes is let in, and not sooner,
// whichever listener it is probed on.
func TestANewcomerIsLetInWhenItsProbePasses(t *testing.T) {
	testkit.Together(t)
	for _, name := range fourNames {
		t.Run(name, func(t *testing.T) {
			testkit.Leaks(t)
			file := t.TempDir() + "/behaviours"
			testkit.Behave(t, file, "health=0")
			a := run(t, config(t, testkit.Target("@"+file), four(t, quick, "ready = \"http\"\nready_timeout = \"60s\"",
				"[health.ready]\npath = \"/healthz\"\ninterval = \"20ms\"\nsuccesses = 2\n"+patient+fmt.Sprintf("\nlistener = %q", name))...))
			a.probed(1, 2)
			users := let(t, a)
			testkit.Behave(t, file, "health=5")
			for range 3 {
				a.swap()
				a.probed(a.last, 7) // 5 that fail and 2 that pass
			}
			testkit.Wait(t, func() bool { return users.runner.Result().ByGeneration[fmt.Sprint(a.last)] > 0 }, "users to meet the last one")
			r := users.stop(t)
			none(t, "strangers", r, 100)
			if len(r.ByGeneration) != 4 {
				t.Errorf("users met generations %v", r.ByGeneration)
			}
			a.Stop()
			for g := 2; g <= a.last; g++ {
				a.probed(g, 7)
			}
		})
	}
}

// A command reaches the newcomer, and only that, by the address it is given; nobody
// else reaches it there.
func TestACommandProbesTheNewcomerAlone(t *testing.T) {
	program(t, "python3")
	testkit.Leaks(t)
	file := t.TempDir() + "/behaviours"
	testkit.Behave(t, file, "health=0")
	script := t.TempDir() + "/probe"
	write(t, script, `#!/usr/bin/env python3
import os, sys, urllib.request
try:
    print(urllib.request.urlopen("http://" + os.environ["BATON_PROBE_ADDRESS"] + "/healthz").read().decode())
except Exception as e:
    sys.exit("healthz says: " + str(e))
`)
	path := t.TempDir() + "/baton.toml"
	listeners := four(t)
	configure := func(timeout, readyTimeout string) {
		rewrite(t, path, testkit.Target("@"+file), append([]string{quick, "ready = \"exec\"\nready_timeout = " + readyTimeout,
			"[health.ready]\nexec = [" + fmt.Sprintf("%q", script) + "]\ninterval = \"50ms\"\ntimeout = " + timeout}, listeners...)...)
	}
	configure(`"20s"`, `"60s"`)
	a := run(t, path)
	a.probed(1, 1)
	users := let(t, a)
	for range 2 {
		a.swap()
		a.probed(a.last, 1)
	}
	testkit.Behave(t, file, "health=never")
	configure(`"9s"`, `"10s"`) // one try can end within it
	from := a.Next()
	a.HUP()
	message, _ := a.WaitEvent(from, "rolledback").Event()["msg"].(string)
	if !strings.Contains(message, "healthz says: HTTP Error 503") || !strings.Contains(message, "exit status 1") {
		t.Errorf("the log says %q", message)
	}
	a.WaitEvent(from, "gone", "generation", 4)
	r := users.stop(t)
	none(t, "strangers", r, 100)
	if r.ByGeneration["4"] != 0 {
		t.Errorf("users met generation 4: %v", r.ByGeneration)
	}
	a.Stop()
	testkit.Wait(t, func() bool { return a.probes()["4"] > 0 }, "generation 4 to be probed")
	for g := 1; g <= 3; g++ {
		a.probed(g, 1)
	}
}

// A probe that never ends does not outlive its time.
func TestACommandThatHangsIsEnded(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	rewrite(t, path, testkit.Target(), quick, `ready = "exec"`, `ready_timeout = "10s"`, listen("web", "127.0.0.1:0"),
		"[health.ready]\nexec = [\"sh\", \"-c\", \"sleep 1000 & sleep 1000\"]\ntimeout = \"200ms\"\ninterval = \"1s\"")
	from := a.Next()
	began := time.Now()
	a.HUP()
	message, _ := a.WaitEvent(from, "rolledback").Event()["msg"].(string)
	if !strings.Contains(message, "200ms") {
		t.Errorf("the log says %q after %v", message, time.Since(began))
	}
	a.Stop()
}

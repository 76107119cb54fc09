package e2e

import (
	"context"
	"fmt"
	"net"
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
	knocks atomic.Int64
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func let(t testing.TB, a *app) *strangers {
	t.Helper()
	s := &strangers{}
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
				c, err := (&net.Dialer{}).DialContext(ctx, to.Network, to.Address)
				if err != nil {
					continue // the load counts what is lost; this one only knocks
				}
				s.knocks.Add(1)
				_ = c.Close() // nothing was said
			}
		})
	}
	return s
}

// stop ends them and returns what became of the requests.
func (s *strangers) stop(t testing.TB) load.Result {
	t.Helper()
	r := s.runner.Stop()
	s.cancel()
	s.wg.Wait()
	t.Logf("%d connections besides", s.knocks.Load())
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

// A newcomer whose probe fails is rolled back: the old generation serves on,
// nothing is lost, no probe reaches who serves, and no user the newcomer.
func TestANewcomerThatFailsItsProbeIsNeverMet(t *testing.T) {
	for _, mode := range []struct{ name, handoff, health, says string }{
		{"as a gate", `ready = "notify"`, "", "503 Service Unavailable"},
		{"that hangs", `ready = "notify"`, "timeout = \"200ms\"", "GET /healthz"},
		{"as readiness", "ready = \"http\"\nready_timeout = \"1500ms\"", "timeout = \"1s\"", "503 Service Unavailable"},
	} {
		t.Run(strings.ReplaceAll(mode.name, " ", "-"), func(t *testing.T) {
			testkit.Leaks(t)
			file := t.TempDir() + "/behaviours"
			testkit.Behave(t, file, "ready=notify")
			path := config(t, testkit.Target("@"+file), four(t, quick, mode.handoff,
				"[health.ready]\nprobe = \"http\"\npath = \"/healthz\"\ninterval = \"20ms\"", mode.health)...)
			a := run(t, path)
			if n := a.probes()["1"]; n != 1 {
				t.Errorf("generation 1 was probed %d times before it served", n)
			}
			users := let(t, a)
			bad := "health=never"
			if mode.name == "that hangs" {
				bad = "health=hang"
			}
			testkit.Behave(t, file, "ready=notify", bad)
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
			r := users.stop(t)
			none(t, "strangers", r, 200)
			if len(r.ByGeneration) != 1 || r.ByGeneration["1"] == 0 {
				t.Errorf("users met generations %v, want 1 alone", r.ByGeneration)
			}
			probes := a.probes()
			for g := 2; g <= 4; g++ {
				if n := probes[fmt.Sprint(g)]; n < 3 {
					t.Errorf("generation %d was probed %d times, want at least 3", g, n)
				}
			}
			if probes["1"] != 1 {
				t.Errorf("generation 1 was probed %d times more while it served", probes["1"]-1)
			}
			a.Stop()
		})
	}
}

// A newcomer that fails its probe at first and then passes is let in, and not sooner.
func TestANewcomerIsLetInWhenItsProbePasses(t *testing.T) {
	testkit.Leaks(t)
	file := t.TempDir() + "/behaviours"
	testkit.Behave(t, file, "health=0")
	a := run(t, config(t, testkit.Target("@"+file), four(t, quick, `ready = "http"`,
		"[health.ready]\npath = \"/healthz\"\ninterval = \"20ms\"\nsuccesses = 2\nlistener = \"v6\"")...))
	users := let(t, a)
	testkit.Behave(t, file, "health=5")
	for range 5 {
		a.swap()
		if n := a.probes()[fmt.Sprint(a.last)]; n != 7 {
			t.Errorf("generation %d was probed %d times: want 5 that fail and 2 that pass", a.last, n)
		}
	}
	r := users.stop(t)
	none(t, "strangers", r, 200)
	if len(r.ByGeneration) < 5 {
		t.Errorf("users met generations %v", r.ByGeneration)
	}
	a.Stop()
}

// A command reaches the newcomer, and only that, by the address it is given; nobody
// else reaches it there.
func TestACommandProbesTheNewcomerAlone(t *testing.T) {
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
	a := run(t, config(t, testkit.Target("@"+file), four(t, quick, `ready = "exec"`, `ready_timeout = "5s"`,
		"[health.ready]\nexec = ["+fmt.Sprintf("%q", script)+"]\ninterval = \"50ms\"")...))
	users := let(t, a)
	a.swap()
	a.swap()
	testkit.Behave(t, file, "health=never")
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
	if p := a.probes(); p["1"] != 1 || p["2"] != 1 || p["3"] != 1 || p["4"] < 1 {
		t.Errorf("probed: %v", p)
	}
	a.Stop()
}

// A probe that never ends does not outlive its time.
func TestACommandThatHangsIsEnded(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	rewrite(t, path, testkit.Target(), quick, `ready = "exec"`, `ready_timeout = "2s"`, listen("web", "127.0.0.1:0"),
		"[health.ready]\nexec = [\"sh\", \"-c\", \"sleep 1000 & sleep 1000\"]\ntimeout = \"200ms\"")
	from := a.Next()
	began := time.Now()
	a.HUP()
	message, _ := a.WaitEvent(from, "rolledback").Event()["msg"].(string)
	if !strings.Contains(message, "200ms") {
		t.Errorf("the log says %q after %v", message, time.Since(began))
	}
	a.Stop()
}

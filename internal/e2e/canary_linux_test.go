package e2e

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// met is who answered a client.
type met struct{ generation, pid string }

// meet connects from an address and asks once.
func meet(to load.Target, from net.IP) (met, error) {
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 15 * time.Second}).Dial("tcp4", to.Address)
	if err != nil {
		return met{}, err
	}
	defer c.Close()
	// No port is left waiting: there are many, and the answer is read to its end.
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return met{}, err
	}
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return met{}, err
	}
	if _, err := io.WriteString(c, "GET /pid HTTP/1.1\r\nHost: baton.test\r\nConnection: close\r\n\r\n"); err != nil {
		return met{}, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return met{}, err
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil || r.StatusCode != http.StatusOK {
		return met{}, fmt.Errorf("%s, %w", r.Status, err)
	}
	return met{r.Header.Get(load.HeaderGeneration), r.Header.Get(load.HeaderPID)}, nil
}

// crowd is a number of clients, each with an address of its own, by number.
type crowd int

// address of a client: on 127.0.0.0/8, all of which is this machine.
func (crowd) address(client int) net.IP {
	return net.IPv4(127, 1, byte(client>>8), byte(client))
}

// all has each client connect so many times and returns whom it met.
func (c crowd) all(t testing.TB, to load.Target, each int) [][]met {
	t.Helper()
	answers := make([][]met, c)
	next := make(chan int)
	var failed sync.Map
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { // ends with the last client
			for client := range next {
				for range each {
					m, err := meet(to, c.address(client))
					if err != nil {
						failed.Store(client, err)
					}
					answers[client] = append(answers[client], m)
				}
			}
		})
	}
	for client := range answers {
		next <- client
	}
	close(next)
	wg.Wait()
	failed.Range(func(client, err any) bool {
		t.Errorf("client %v: %v", client, err)
		return true
	})
	return answers
}

// within fails the test when a share is not what chance makes of a probability:
// beyond 5.2 standard deviations, once in five million times.
func within(t testing.TB, what string, got, of int, p float64) {
	t.Helper()
	want, most := float64(of)*p, 5.2*math.Sqrt(float64(of)*p*(1-p))
	t.Logf("%s: %d of %d, %.2f %%, %.1f standard deviations from %.1f %%", what, got, of, 100*float64(got)/float64(of),
		(float64(got)-want)/math.Sqrt(float64(of)*p*(1-p)), 100*p)
	if math.Abs(float64(got)-want) > most {
		t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, got, of, want, most)
	}
}

// canaried is an application whose newcomer has the first share of a canary.
func canaried(t *testing.T, workers int, keys ...string) *app {
	t.Helper()
	keys = append([]string{quick, fmt.Sprintf("workers = %d", workers)}, keys...)
	a := run(t, config(t, testkit.Target(), append(keys, "[restart]\nbackoff_min = \"2s\"", listen("web", ":0"))...))
	a.HUP()
	a.WaitEvent(a.from, "canary", "generation", 2)
	return a
}

const steps = `canary = [{ weight = 10, pause = true }, { weight = 50, pause = true }]`

// evenly holds the workers of each generation to even parts of its answers.
func evenly(t *testing.T, answers [][]met, workers int) (byGeneration map[string]int) {
	t.Helper()
	byGeneration, byPID := map[string]int{}, map[met]int{}
	for _, m := range slices.Concat(answers...) {
		byGeneration[m.generation]++
		byPID[m]++
	}
	if len(byPID) != 2*workers {
		t.Errorf("%d workers answered, want %d: %v", len(byPID), 2*workers, byPID)
	}
	for m, n := range byPID {
		if workers > 1 {
			within(t, "pid "+m.pid+" of generation "+m.generation, n, byGeneration[m.generation], 1/float64(workers))
		}
	}
	return byGeneration
}

func TestACanaryHasItsShareOfConnections(t *testing.T) {
	testkit.Together(t)
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprint(workers, "-workers"), func(t *testing.T) {
			testkit.Leaks(t)
			a := canaried(t, workers, steps)
			got := evenly(t, crowd(100).all(t, a.address("web"), 100), workers)
			within(t, "answers of the canary", got["2"], got["1"]+got["2"], 0.10)
			for _, g := range a.state().Generations {
				weight := 0.0
				for _, w := range g.Workers {
					weight += w.Weight
				}
				if want := map[int]float64{1: 90, 2: 10}[g.Number]; math.Abs(weight-want) > 0.5 {
					t.Errorf("status gives generation %d %v %%, want %v", g.Number, weight, want)
				}
			}
			a.Stop()
		})
	}
}

// A unix socket has no addresses to throw for: its path leads to each for a part of the
// time.
func TestACanaryHasItsShareOfAUnixSocketsTime(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, `canary = [{ weight = 20, pause = true }]`,
		listen("web", "127.0.0.1:0"), listen("file", "unix://"+shortDir(t)+"/s")))
	file := a.address("file")
	a.HUP()
	a.WaitEvent(a.from, "canary", "generation", 2)
	fresh := begun(t, load.Options{Targets: []load.Target{file}, Clients: 4})
	testkit.Wait(t, func() bool { return fresh.Result().Elapsed > 2*time.Second }, "four turns")
	r := fresh.Stop()
	none(t, "fresh", r, 100)
	if share := r.ByGeneration["2"] * 100 / r.Requests; share < 5 || share > 40 {
		t.Errorf("the canary answered %d %%: %v", share, r.ByGeneration)
	}
	if code, _, errs := a.baton("abort", "test"); code != 0 {
		t.Errorf("exit code %d, %s", code, errs)
	}
	a.gone(2)
	if got := served(t, file); got != "1" {
		t.Errorf("generation %s serves", got)
	}
	a.Stop()
}

// sides is which generation each client meets; one that meets both fails the test.
func sides(t *testing.T, answers [][]met) map[int]string {
	t.Helper()
	all := map[int]string{}
	for client, ms := range answers {
		all[client] = ms[0].generation
		for _, m := range ms {
			if m.generation != ms[0].generation {
				t.Errorf("client %d met generations %s and %s", client, ms[0].generation, m.generation)
			}
		}
	}
	return all
}

// on counts the clients of a generation.
func on(all map[int]string, generation string) (n int) {
	for g := range maps.Values(all) {
		if g == generation {
			n++
		}
	}
	return n
}

func TestAStickyCanaryKeepsItsClients(t *testing.T) {
	testkit.Together(t)
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprint(workers, "-workers"), func(t *testing.T) {
			testkit.Leaks(t)
			clients := crowd(1000)
			a := canaried(t, workers, steps, `canary_by = "client"`)
			web := a.address("web")
			answers := clients.all(t, web, 10)
			evenly(t, answers, workers)
			tenth := sides(t, answers)
			within(t, "clients of the canary", on(tenth, "2"), len(tenth), 0.10)
			if workers > 1 { // whoever is lost, no client changes sides
				pid := int(a.state().Generations[1].Workers[0].PID)
				from := a.Next()
				kill(t, pid)
				line := a.WaitEvent(from, "started", "generation", 1)
				from = a.Next()
				kill(t, number(t, line, "pid"))
				a.WaitEvent(from, "restarting", "generation", 1) // in seconds
				for client, side := range sides(t, clients.all(t, web, 1)) {
					if side != tenth[client] {
						t.Errorf("a worker was lost, and client %d went from generation %s to %s", client, tenth[client], side)
					}
				}
			}
			from := a.Next()
			if code, _, errs := a.baton("promote", "test", "--step"); code != 0 {
				t.Errorf("exit code %d, %s", code, errs)
			}
			a.WaitEvent(from, "canary", "generation", 2, "weight", 50)
			half := sides(t, clients.all(t, web, 2))
			within(t, "clients of the canary", on(half, "2"), len(half), 0.50)
			for client, side := range tenth {
				if side == "2" && half[client] != "2" {
					t.Errorf("the canary grew, and client %d went back", client)
				}
			}
			if code, _, errs := a.baton("promote", "test"); code != 0 {
				t.Errorf("exit code %d, %s", code, errs)
			}
			a.serving(2)
			if n := on(sides(t, crowd(100).all(t, web, 1)), "2"); n != 100 {
				t.Errorf("promoted, and %d of 100 clients meet generation 2", n)
			}
			a.Stop()
		})
	}
}

// never fails the test when there is such an event.
func (a *app) never(kind string, pairs ...any) {
	a.t.Helper()
	for _, l := range a.Lines() {
		e := l.Event()
		same := e != nil && e["event"] == kind
		for i := 0; same && i < len(pairs); i += 2 {
			same = fmt.Sprint(e[pairs[i].(string)]) == fmt.Sprint(pairs[i+1])
		}
		if same {
			a.t.Errorf("unwanted: %s", l.Text)
		}
	}
}

// asked begins "baton reload" and returns a channel with its exit code and what it said.
func (a *app) asked(verb ...string) <-chan string {
	verdict := make(chan string, 1)
	go func() { // ends with the verdict
		code, out, errs := a.baton(append(verb, "test")...)
		verdict <- fmt.Sprintf("%d %s%s", code, out, errs)
	}()
	return verdict
}

// answered waits for the verdict and holds it to a beginning and a part.
func answered(t testing.TB, verdict <-chan string, code int, part string) {
	t.Helper()
	if v := <-verdict; !strings.HasPrefix(v, fmt.Sprint(code, " ")) || !strings.Contains(v, part) {
		t.Errorf("the verdict is %q, want %d and %q", v, code, part)
	}
}

// A release that crashes while it is a canary is met by few, and never by all.
func TestACanaryThatCrashesNeverGetsEverybody(t *testing.T) {
	testkit.Leaks(t)
	file := t.TempDir() + "/behaviours"
	testkit.Behave(t, file, "ready=none")
	a := run(t, config(t, testkit.Target("@"+file), quick, `canary = [{ weight = 10, for = "1h" }, { weight = 50, for = "1h" }]`, listen("web", "127.0.0.1:0")))
	web := a.address("web")
	testkit.Behave(t, file, "crash=1s", "words=out_of_licences")
	fresh := begun(t, load.Options{Targets: []load.Target{web}, Clients: 8})
	verdict := a.asked("reload")
	safe := a.rollsBack(0, "exit status 2")
	answered(t, verdict, 3, "out_of_licences")
	calm := begun(t, load.Options{Targets: []load.Target{web}, Clients: 4})
	testkit.Wait(t, func() bool { return calm.Result().Requests > 300 }, "300 requests")
	none(t, "after the rollback", calm.Stop(), 300)
	got := fresh.Stop()
	crashers(t, got, 8, 1, safe)
	// All that it answered was in its second, in which others answered, too; the bound is
	// generous to what came before and after.
	if n := got.ByGeneration["2"]; n == 0 || n > got.Requests*15/100 {
		t.Errorf("the canary answered %d of %d", n, got.Requests)
	}
	a.never("serving", "generation", 2)
	a.never("canary", "weight", 50)
	a.Stop()
}

func TestACanaryGoesOnByTimeAndByWord(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, `canary = [{ weight = 10, for = "300ms" }, { weight = 30, for = "300ms" }, { weight = 60, pause = true }]`,
		listen("web", "127.0.0.1:0"))
	a := run(t, path)
	web := a.address("web")
	fresh := begun(t, load.Options{Targets: []load.Target{web}, Clients: 8})

	verdict := a.asked("reload")
	from := a.from
	var lines []testkit.Line
	for _, weight := range []int{10, 30, 60} {
		lines = append(lines, a.WaitEvent(from, "canary", "generation", 2, "weight", weight))
	}
	for i := range lines[1:] {
		if took := at(t, lines[i+1]).Sub(at(t, lines[i])); took < 300*time.Millisecond {
			t.Errorf("step %d took %v", i+1, took)
		}
	}
	if c := generation(t, a.state(), 2).Canary; c == nil || c.Step != 3 || c.Steps != 3 || c.Weight != 60 || !c.Paused {
		t.Errorf("status: %+v", c)
	}
	// Another reload waits for the end of this one.
	later := a.asked("reload")
	a.WaitEvent(from, "reload-requested")
	testkit.Wait(t, func() bool { return strings.Count(a.Log(), "reload-requested") == 2 }, "the second request")
	if code, _, errs := a.baton("promote", "test", "--step"); code != 0 {
		t.Errorf("exit code %d, %s", code, errs)
	}
	answered(t, verdict, 0, "generation 2 serves")
	a.WaitEvent(from, "canary", "generation", 3, "weight", 60)
	if code, _, errs := a.baton("promote", "test"); code != 0 {
		t.Errorf("exit code %d, %s", code, errs)
	}
	answered(t, later, 0, "generation 3 serves")
	if code, _, errs := a.baton("promote", "test"); code != 1 || !strings.Contains(errs, "no canary and no bake is going on") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	// Given up on request: who served goes on, and is not swapped.
	a.gone(2)
	from = a.Next()
	verdict = a.asked("reload")
	a.WaitEvent(from, "canary", "generation", 4)
	if code, _, errs := a.baton("abort", "test"); code != 0 {
		t.Errorf("exit code %d, %s", code, errs)
	}
	answered(t, verdict, 3, "on request")
	a.gone(4)
	a.never("serving", "generation", 4)
	if got := served(t, web); got != "3" {
		t.Errorf("generation %s serves", got)
	}
	// A release that has served needs no canary to serve again.
	from = a.Next()
	answered(t, a.asked("rollback"), 0, "generation 5 serves")
	for _, l := range a.Lines()[from:] {
		if e := l.Event(); e["event"] == "canary" {
			t.Errorf("%s", l.Text)
		}
	}
	none(t, "fresh", fresh.Stop(), 500)
	a.Stop()
}

// A worker killed beside a canary is followed as ever, and the canary goes on; one of
// the canary's own ends it.
func TestKillsInACanary(t *testing.T) {
	testkit.Leaks(t)
	a := canaried(t, 2, steps)
	fresh := begun(t, load.Options{Targets: []load.Target{{Network: "tcp4", Address: strings.Replace(a.address("web").Address, "[::1]", "127.0.0.1", 1)}}, Clients: 8})
	from := a.Next()
	kill(t, a.pid(1))
	a.WaitEvent(from, "crashed", "generation", 1)
	a.WaitEvent(from, "ready", "generation", 1)
	if c := generation(t, a.state(), 2); c.Phase != "canary" || c.Canary.Weight != 10 {
		t.Errorf("the canary became %+v", c)
	}
	n := fresh.Result().ByGeneration["2"]
	testkit.Wait(t, func() bool { return fresh.Result().ByGeneration["2"] > n+20 }, "more answers of the canary")
	kill(t, a.pid(2))
	safe := a.rollsBack(from, "signal: killed")
	total := fresh.Result().Requests
	testkit.Wait(t, func() bool { return fresh.Result().Requests > total+300 }, "300 requests")
	crashers(t, fresh.Stop(), 8, 2, safe)
	a.Stop()
}

// A stop in a canary: what was begun on either side gets its whole answer.
func TestAStopInACanaryServesBothSides(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, `canary = [{ weight = 50, pause = true }]`, listen("web", "127.0.0.1:0")))
	verdict := a.asked("reload")
	a.WaitEvent(a.from, "canary", "generation", 2)
	slow := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 16, Kind: load.Slow})
	testkit.Wait(t, func() bool { r := slow.Result(); return r.ByGeneration["1"] > 8 && r.ByGeneration["2"] > 8 }, "answers of both sides")
	answered(t, a.asked("stop"), 0, "stopped")
	answered(t, verdict, 6, "stop")
	got := slow.Stop()
	t.Log(got)
	if got.Lost != got.Reasons[load.Refused] {
		t.Errorf("lost: %v", got)
	}
	if code := a.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

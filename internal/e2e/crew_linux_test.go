package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// What tests of several workers share.

// report is the present state, as the control socket tells it.
func (a *app) report() *event.Report {
	a.t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(a.Home, "run", "test.sock"))
		},
	}}
	answer, err := client.Get("http://baton/v1/status")
	if err != nil {
		a.t.Fatal(err)
	}
	defer answer.Body.Close() // read to its end, or the test fails
	var r event.Report
	if err := json.NewDecoder(answer.Body).Decode(&r); err != nil {
		a.t.Fatal(err)
	}
	return &r
}

// serves is the generation of a report that does; nil when none does.
func serves(r *event.Report) *event.Generation {
	for i := range r.Generations {
		if r.Generations[i].Phase == "serving" {
			return &r.Generations[i]
		}
	}
	return nil
}

// members are the workers of a generation that are in one of these states, by index.
func members(g *event.Generation, states ...string) map[int]event.Worker {
	all := make(map[int]event.Worker)
	for _, w := range g.Workers {
		for _, s := range states {
			if w.Role == "member" && w.State == s {
				all[w.Index] = w
			}
		}
	}
	return all
}

// crew waits until the generation that serves has n members that are ready, all that
// it should have, and nothing else is left, and returns them by index. Each knows
// its index.
func (a *app) crew(n int) map[int]event.Worker {
	a.t.Helper()
	var ready map[int]event.Worker
	testkit.Wait(a.t, func() bool {
		r := a.report()
		g := serves(r)
		if g == nil || len(r.Generations) != 1 || g.Wanted != n || len(g.Workers) != n {
			return false
		}
		ready = members(g, "ready")
		return len(ready) == n
	}, fmt.Sprintf("%d workers, all ready and nothing else", n))
	for i, w := range ready {
		if i < 0 || i >= n {
			a.t.Errorf("worker %d of %d", i, n)
		}
		knows(a.t, w, "BATON_WORKER")
	}
	return ready
}

// knows fails the test when a worker was not given its index in a variable.
func knows(t testing.TB, w event.Worker, variable string) {
	t.Helper()
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", w.PID))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%s=%d", variable, w.Index); !slices.Contains(strings.Split(string(env), "\x00"), want) {
		t.Errorf("worker %d (pid %d) was not given %s", w.Index, w.PID, want)
	}
}

// askOf asks until the worker with this pid has answered.
func askOf(t testing.TB, to load.Target, pid int, path string) {
	t.Helper()
	// Chance decides on each connection: one that is kept stays.
	testkit.Wait(t, func() bool {
		c, err := net.Dial(to.Network, to.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if who, _, err := exchange(c, "/pid"); err != nil || who != pid {
			return false
		}
		_, status, err := exchange(c, path)
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, status, err)
		}
		return true
	}, fmt.Sprintf("pid %d to answer", pid))
}

func request(t testing.TB, to load.Target, path string) (pid, status int, err error) {
	t.Helper()
	c, err := net.DialTimeout(to.Network, to.Address, 20*time.Second)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	return exchange(c, path)
}

// exchange makes one request on a connection that stays open.
func exchange(c net.Conn, path string) (pid, status int, err error) {
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", path); err != nil {
		return 0, 0, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, 0, err
	}
	defer answer.Body.Close() // read to its end
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(answer.Header.Get(load.HeaderPID), &pid)
	return pid, answer.StatusCode, err
}

// events are those of a kind, from a line on.
func (a *app) events(from int, kind string) (all []testkit.Line) {
	for _, l := range a.Lines()[from:] {
		if e := l.Event(); e != nil && e["event"] == kind {
			all = append(all, l)
		}
	}
	return all
}

// pidOf is the pid that an event names; 0: none.
func pidOf(l testkit.Line) (pid int) {
	_, _ = fmt.Sscan(fmt.Sprint(l.Event()["pid"]), &pid) // 0 when there is none
	return pid
}

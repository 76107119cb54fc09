package e2e

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/boot"
)

// Under systemd a launcher is killed at whatever moment of a swap, a canary, a drain, a
// scale or an upgrade: nothing is lost, and what serves goes on serving.
func TestKillsUnderSystemdAtAnyMoment(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		s.configure("[handoff]\ndrain_delay = \"300ms\"\nworkers = 2\ncanary = [{weight = 50, for = \"300ms\"}]", listen("web", onBoot(8080).Address))
		dropIn(t, "RestartSec=50ms")
		boot.Do(t, "systemctl", "reload", webUnit)
		settled := func() (r *event.Report) {
			t.Helper()
			testkit.Wait(t, func() bool {
				if _, code := boot.Run(t, "baton", "status", "web", "--ready"); code != 0 {
					return false
				}
				r = s.report()
				return r.State == event.StateServing && len(r.Generations) == 1 && len(r.Generations[0].Workers) >= 1 &&
					!slices.ContainsFunc(r.Generations[0].Workers, func(w event.Worker) bool { return w.State != "ready" })
			}, "it to settle")
			return r
		}
		before := settled()
		fresh := begun(t, load.Options{Targets: []load.Target{onBoot(8080)}, Clients: 6})
		slow := begun(t, load.Options{Targets: []load.Target{onBoot(8080)}, Clients: 3, Kind: load.Slow})
		what := []func(){
			func() { _ = syscall.Kill(s.main(), syscall.SIGUSR2) },
			func() { _ = syscall.Kill(s.main(), syscall.SIGHUP) },
			func() { _ = syscall.Kill(s.main(), syscall.SIGTTIN) },
			func() { _ = syscall.Kill(s.main(), syscall.SIGTTOU) },
		}
		for i := range 16 {
			what[i%4]()
			moment([]time.Duration{500 * time.Millisecond, 1500 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond}[i%4])
			s.kill()
			more(t, fresh, 20)
			after := settled()
			if i%4 == 0 && !slices.Equal(pids(before), pids(after)) {
				t.Errorf("workers were %v, and are %v, with no swap between", pids(before), pids(after))
			}
			// One more that was just being started (TTIN) is given up, and started again.
			if n := after.Restarts - before.Restarts; n > 1 || n > 0 && i%4 != 2 {
				t.Errorf("%d restarts more after moment %d", n, i)
			}
			before = after
		}
		none(t, "fresh", fresh.Stop(), 300)
		none(t, "slow", slow.Stop(), 20)
	})
}

// Where the state cannot be written the launcher says so, serves, and is upgraded; who
// comes after a kill begins anew.
func TestAStateThatCannotBeWritten(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		home := "/run/small"
		if err := os.MkdirAll(home, 0o700); err != nil {
			t.Fatal(err)
		}
		// Three pages: for the lock, the list of workers, and a new one. A state has more.
		boot.Do(t, "mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", home)
		path := config(t, testkit.Target(), quick+"\nworkers = 2", listen("web", "127.0.0.1:8081"))
		begin := func() *app {
			l := testkit.NewBaton(t, "run", "--config", path, "--log", "json")
			l.Cmd.Env = append(l.Cmd.Env, "BATON_HOME="+home)
			l.Home = home
			l.Start()
			return &app{Launcher: l, t: t}
		}
		a := begin()
		a.serving(1)
		a.WaitLog("what is needed to go on after a kill is not kept")
		before := pids(a.report())
		from := a.Next()
		a.Signal(syscall.SIGUSR2)
		a.WaitEvent(from, "resumed")
		if after := pids(a.report()); !slices.Equal(before, after) {
			t.Errorf("workers were %v, and are %v", before, after)
		}
		// The list of workers has room when the state is not tried just then: it is tried again.
		testkit.Wait(t, func() bool {
			text, _ := os.ReadFile(home + "/run/test.workers") // there may be none yet
			return !slices.ContainsFunc(before, func(pid int) bool { return !bytes.Contains(text, fmt.Appendf(nil, `"pid":%d,`, pid)) })
		}, "the workers to be listed")
		kill(t, a.PID())
		a.Wait()
		a = begin()
		a.serving(1)
		if now := pids(a.report()); len(now) != 2 || slices.Contains(now, before[0]) || slices.Contains(now, before[1]) {
			t.Errorf("workers %v, and before %v", now, before)
		}
		for _, l := range a.Lines() {
			if e := l.Event(); e["event"] == "resumed" {
				t.Errorf("it went on with an old state: %s", l.Text)
			}
		}
		a.Stop()
	})
}

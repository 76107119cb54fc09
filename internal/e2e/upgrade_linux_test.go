package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// upgradable is baton at a path of the test's own, where another one may be put, on a
// configuration.
func upgradable(t testing.TB, path string, args ...string) (a *app, own string) {
	t.Helper()
	own = filepath.Join(t.TempDir(), "baton")
	install(t, testkit.Binary(t), own)
	args = append([]string{"run", "--config", path, "--log", "json"}, args...)
	a = &app{Launcher: testkit.StartBaton(t, own, args...), t: t}
	a.serving(1)
	return a, own
}

// install puts a program where another one may be, as a package manager does: by a
// rename, so that what runs is not written into.
func install(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to+".new", string(b))
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}

// pids are those of all workers that are not draining, in order.
func pids(r *event.Report) (all []int) {
	for _, g := range r.Generations {
		if g.Phase == "draining" {
			continue
		}
		for _, w := range g.Workers {
			all = append(all, w.PID)
		}
	}
	slices.Sort(all)
	return all
}

// upgrade replaces the launcher and expects everything else to be what it was.
func (a *app) upgrade() {
	a.t.Helper()
	before := a.report()
	if code, out, errs := a.baton("upgrade", "test"); code != 0 || !strings.HasPrefix(out, "test: upgraded, pid ") {
		a.t.Fatalf("upgrade: exit code %d, %q, %q\n%s", code, out, errs, a.Log())
	}
	after := a.report()
	if after.PID != a.PID() || after.Resumed != before.Resumed+1 {
		a.t.Errorf("pid %d, resumed %d times; want %d, %d", after.PID, after.Resumed, a.PID(), before.Resumed+1)
	}
	if was, is := pids(before), pids(after); !slices.Equal(was, is) {
		a.t.Errorf("workers were %v, and are %v", was, is)
	}
	if !after.Started.Equal(before.Started) || after.Restarts != before.Restarts || after.State != before.State || after.Verdict != before.Verdict {
		a.t.Errorf("before %+v, after %+v", before, after)
	}
	a.from = a.Next()
	for _, line := range a.Lines() { // the prover's words
		if line.Event() == nil && (strings.HasPrefix(line.Text, "panic: ") || strings.HasPrefix(line.Text, "baton: upgrade")) {
			a.t.Errorf("upgrade: %s", line.Text)
		}
	}
}

// more waits until a load has asked so much more.
func more(t testing.TB, r *load.Runner, requests int) {
	t.Helper()
	before := r.Result().Requests
	testkit.Wait(t, func() bool { return r.Result().Requests >= before+requests }, "more requests")
}

func TestTwentyUpgradesUnderLoadLoseNothing(t *testing.T) {
	for _, c := range []struct {
		name    string
		handoff string
		workers int
	}{
		{"one worker", "", 1},
		{"four workers", "\nworkers = 4", 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			file := filepath.Join(shortDir(t), "web.sock")
			a, _ := upgradable(t, config(t, testkit.Target(), quick+c.handoff,
				listen("web", "127.0.0.1:0"), listen("six", "tcp6://[::1]:0"), listen("file", "unix://"+file)))
			targets := []load.Target{a.address("web"), a.address("six"), a.address("file")}
			fresh := begun(t, load.Options{Targets: targets, Clients: 8})
			kept := begun(t, load.Options{Targets: targets, Clients: 4, Kind: load.Slow})
			for i := range 20 {
				if i > 0 {
					a.swap()
				}
				more(t, fresh, 20)
				a.upgrade()
				more(t, fresh, 20)
			}
			a.gone(a.last - 1)
			none(t, "fresh", fresh.Stop(), 500)
			none(t, "slow", kept.Stop(), 20)
			testkit.Wait(t, func() bool { return len(a.Children()) == c.workers }, "nothing but the workers to be left")
			descriptors := testkit.Descriptors(a.PID())
			for range 3 {
				a.upgrade()
			}
			testkit.Wait(t, func() bool { return testkit.Descriptors(a.PID()) <= descriptors }, "descriptors to be as many as three upgrades before")
			a.Stop()
		})
	}
}

// What is drained goes on being drained, and what has a share keeps it.
func TestAnUpgradeInACanaryAndInADrain(t *testing.T) {
	testkit.Leaks(t)
	a, _ := upgradable(t, config(t, testkit.Target(),
		"[handoff]\nworkers = 4\ndrain_timeout = \"30s\"\ncanary = [{weight = 30, pause = true}]", listen("web", "127.0.0.1:0")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 8})
	slow := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4, Kind: load.Slow})
	for range 3 {
		a.HUP()
		a.WaitEvent(a.from, "canary", "generation", a.last+1)
		a.upgrade()
		more(t, fresh, 50)
		if code, _, errs := a.baton("promote", "test"); code != 0 {
			t.Fatalf("promote: exit code %d, %q", code, errs)
		}
		a.WaitEvent(a.from, "draining", "generation", a.last)
		a.upgrade()
		a.last++
		a.gone(a.last - 1)
	}
	none(t, "fresh", fresh.Stop(), 200)
	none(t, "slow", slow.Stop(), 5)
	a.Stop()
}

// A crash, a signal and a reload work as before.
func TestAnUpgradedLauncherDoesWhatTheOneBeforeDid(t *testing.T) {
	testkit.Leaks(t)
	a, _ := upgradable(t, config(t, testkit.Target(), quick+"\nworkers = 2", listen("web", "127.0.0.1:0")))
	for range 2 {
		a.upgrade()
		victim := pids(a.report())[0]
		kill(t, victim)
		line := a.WaitEvent(a.from, "crashed", "pid", victim)
		if reason := line.Event()["reason"]; reason != "signal: killed" {
			t.Errorf("its end is told as %q", reason)
		}
		testkit.Wait(t, func() bool {
			r := a.report()
			return r.State == event.StateServing && len(pids(r)) == 2 && !slices.Contains(pids(r), victim) && !slices.Contains(pids(r), 0)
		}, "its successor")
		a.from = a.Next()
	}
	a.Signal(syscall.SIGUSR2)
	a.WaitEvent(a.from, "resumed")
	if n := a.report().Resumed; n != 3 {
		t.Errorf("resumed %d times, and once more by USR2: want 3", n)
	}
	a.Signal(syscall.SIGTTIN)
	testkit.Wait(t, func() bool { return len(pids(a.report())) == 3 }, "one worker more by TTIN")
	a.from = a.Next()
	a.swap()
	a.gone(1)
	if r := a.report(); r.Verdict != "swapped" || r.Generations[0].Number != 2 {
		t.Errorf("%+v", r)
	}
	if code, out, errs := a.baton("events", "test", "--replay", "200"); code != 0 || !strings.Contains(out, "generation 1 serves") {
		t.Errorf("the history has gone: exit code %d, %q, %q", code, out, errs)
	}
	a.Stop()
}

func TestBrokenLaunchersAreRefused(t *testing.T) {
	testkit.Leaks(t)
	a, own := upgradable(t, config(t, testkit.Target(), listen("web", "127.0.0.1:0")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
	before := a.report()
	program := contents(t, own)
	for name, c := range map[string]struct {
		text  string
		words string
	}{
		"text":      {"not a program\n", "not a program in the ELF format"},
		"cut short": {program[:len(program)/3], "not upgraded"},
		"a script":  {"#!/bin/sh\nexec sleep 100\n", "not a program in the ELF format"},
		"another":   {contents(t, "/bin/true"), "not upgraded"},
		"empty":     {"", "not a program in the ELF format"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, own+".new", c.text)
			if err := os.Rename(own+".new", own); err != nil {
				t.Fatal(err)
			}
			code, out, errs := a.baton("upgrade", "test")
			if code != 3 || !strings.Contains(errs, c.words) {
				t.Errorf("exit code %d, %q, %q; want 3 and %q", code, out, errs, c.words)
			}
		})
	}
	for name, version := range map[string]string{"too new": "2", "too old": "0"} {
		t.Run(name, func(t *testing.T) {
			// The one that is there writes form 1: to one that begins with form 2 it is too
			// old, and one that ends with form 0 is too old for it.
			flag := "-X baton/internal/launcher.stateVersion=" + version + " -X baton/internal/launcher.oldestState=" + version
			other := filepath.Join(t.TempDir(), "baton")
			if out, err := exec.Command("go", "build", "-ldflags", flag, "-o", other, "baton").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			install(t, other, own)
			code, out, errs := a.baton("upgrade", "test")
			if code != 3 || !strings.Contains(errs, "form") {
				t.Errorf("exit code %d, %q, %q", code, out, errs)
			}
		})
	}
	install(t, testkit.Binary(t), own)
	if after := a.report(); after.Resumed != 0 || !slices.Equal(pids(after), pids(before)) {
		t.Errorf("before %+v, after %+v", before, after)
	}
	a.upgrade()
	none(t, "fresh", fresh.Stop(), 100)
	a.Stop()
}

// Reloads that are asked for while the launcher is replaced are kept, and do not end it.
func TestHUPsDuringUpgradesAreKept(t *testing.T) {
	testkit.Leaks(t)
	a, _ := upgradable(t, config(t, testkit.Target(), "[handoff]\ndrain_delay = \"0s\"", listen("web", "127.0.0.1:0")))
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = syscall.Kill(a.PID(), syscall.SIGHUP) // the test ends when it is not there
			}
		}
	}()
	for range 10 {
		was := a.report().Resumed
		if code, out, errs := a.baton("upgrade", "test"); code != 0 {
			t.Fatalf("exit code %d, %q, %q\n%s", code, out, errs, a.Log())
		}
		if is := a.report().Resumed; is <= was {
			t.Fatalf("resumed %d times, and before %d", is, was)
		}
	}
	close(stop)
	<-ended
	// And one more, which must lead to a generation of its own.
	a.settled()
	from := a.Next()
	a.HUP()
	a.WaitEvent(from, "serving")
	a.Stop()
}

// Nothing outlives this launcher but its workers and what they have: their sockets are
// fetched from them, and they are replaced, since nobody reads what they write.
func TestALauncherAfterAKilledOneTakesItsWorkersOver(t *testing.T) {
	for _, c := range []struct {
		name, handoff string
		workers       int
	}{{"one worker", "", 1}, {"four workers", "\nworkers = 4", 4}} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			path := config(t, testkit.Target(), quick+c.handoff, listen("web", "127.0.0.1:"+strconv.Itoa(testkit.FreePort(t))))
			a := run(t, path)
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 8})
			for range 5 {
				before := pids(a.report())
				kill(t, a.PID())
				a.Wait()
				more(t, fresh, 50) // the kernel needs no launcher
				next := testkit.NewBaton(t, "run", "--config", path, "--log", "json")
				next.Cmd.Env = append(next.Cmd.Env, "BATON_HOME="+a.Home)
				next.Home = a.Home
				next.Start()
				a = &app{Launcher: next, t: t}
				a.WaitEvent(0, "resumed")
				testkit.Wait(t, func() bool {
					r := a.report()
					now := pids(r)
					return r.State == event.StateServing && len(now) == c.workers && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) })
				}, "workers that are heard")
			}
			none(t, "fresh", fresh.Stop(), 200)
			a.Stop()
		})
	}
}

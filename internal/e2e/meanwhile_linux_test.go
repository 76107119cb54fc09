package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// What may have changed by the time that somebody takes a launcher's place.

// As PID 1 it is upgraded in place, reaps as before, and no exit is another's.
func TestAsPIDOneBatonIsUpgraded(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick+"\nworkers = 2", listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))))
	a := asPIDOne(t, path)
	a.serving(1)
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
	for i := range 4 {
		from := a.Next()
		a.Signal(syscall.SIGUSR2)
		a.WaitEvent(from, "resumed")
		if r := a.report(); r.PID != 1 || r.Resumed != i+1 || len(pids(r)) != 2 {
			t.Errorf("%+v", r)
		}
		more(t, fresh, 10)
		victim := pids(a.report())[0]
		from = a.Next()
		a.orphan()
		if i == 3 { // one exit that must not be an orphan's: no request of it may be counted
			none(t, "fresh", fresh.Stop(), 40)
			kill(t, a.outside(victim))
			a.WaitEvent(from, "crashed", "pid", victim, "reason", "signal: killed")
		}
		testkit.Wait(t, func() bool { return zombies(t, a.PID()) == 0 }, "no zombie")
	}
	a.Stop()
}

// orphan makes some processes of the namespace whose parent is gone, and waits for them.
func (a *app) orphan() {
	a.t.Helper()
	in := fmt.Sprintf("nsenter -t %d -p -m sh -c 'for i in 1 2 3 4 5; do (setsid sleep 0.1 &) ; done' </dev/null >/dev/null 2>&1", a.PID())
	if out, err := exec.Command("sh", "-c", in).CombinedOutput(); err != nil {
		a.t.Fatalf("%v: %s", err, out)
	}
}

// The next launcher reads the configuration as it is by then: it takes over what there
// is, whatever it says, and the next reload applies it.
func TestATakeoverWithAnotherConfiguration(t *testing.T) {
	testkit.Together(t)
	web := func(name string, n int) string { return listen(name, fmt.Sprintf("127.0.0.1:%d", n)) }
	for name, change := range map[string]func(path string, first, second int){
		"invalid":         func(path string, first, second int) { write(t, path, "[") },
		"gone":            func(path string, first, second int) { remove(t, path) },
		"a listener less": func(path string, first, second int) { rewrite(t, path, testkit.Target(), quick, web("web", first)) },
		"other workers": func(path string, first, second int) {
			rewrite(t, path, testkit.Target(), quick+"\nworkers = 3", web("web", first), web("api", second))
		},
		"another program": func(path string, first, second int) {
			rewrite(t, path, []string{"/nowhere"}, quick, web("web", first), web("api", second))
		},
		"nothing to listen": func(path string, first, second int) {
			rewrite(t, path, testkit.Target(), "[handoff]\nready = \"delay\"\nready_delay = \"0s\"")
		},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Leaks(t)
			first, second := testkit.FreePort(t), testkit.FreePort(t)
			path := config(t, testkit.Target(), quick+"\nworkers = 2", web("web", first), web("api", second))
			good := contents(t, path)
			a := run(t, path, "--name", "test")
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web"), a.address("api")}, Clients: 4})
			more(t, fresh, 10)
			before := pids(a.report())
			kill(t, a.PID())
			a.Wait()
			change(path, first, second)
			next := testkit.NewBaton(t, "run", "--config", path, "--log", "json", "--name", "test")
			next.Cmd.Env = append(next.Cmd.Env, "BATON_HOME="+a.Home)
			next.Home = a.Home
			next.Start()
			b := &app{Launcher: next, t: t}
			testkit.Wait(t, func() bool { return isOver(b.Exited()) || strings.Contains(b.Log(), `"event":"resumed"`) }, "it to begin, or not")
			if isOver(b.Exited()) { // what there was serves on
				t.Logf("it does not begin: %s", b.Log())
				more(t, fresh, 10)
				write(t, path, good)
				b = b.next(path)
				b.WaitEvent(0, "resumed")
			}
			b.heard(2, before)
			none(t, "fresh", fresh.Stop(), 20)
			b.Stop()
		})
	}
}

// Reloads without end do not keep an upgrade from its moment, nor it them.
func TestAStormOfReloadsWithUpgrades(t *testing.T) {
	testkit.Leaks(t)
	a, _ := upgradable(t, config(t, testkit.Target(), "[handoff]\ndrain_delay = \"50ms\"\nworkers = 2", listen("web", "127.0.0.1:0")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 2})
	stop := make(chan struct{})
	var storm sync.WaitGroup
	storm.Go(func() { // ends with stop
		for !isOver(stop) {
			_ = syscall.Kill(a.PID(), syscall.SIGHUP) // it is there
			moment(100 * time.Millisecond)
		}
	})
	for range 5 {
		if code, out, errs := a.baton("upgrade", "test"); code != 0 {
			t.Fatalf("exit code %d, %q, %q", code, out, errs)
		}
	}
	close(stop)
	storm.Wait()
	testkit.Wait(t, func() bool { return a.report().State == event.StateServing && len(a.report().Generations) == 1 }, "it to settle")
	none(t, "fresh", fresh.Stop(), 50)
	a.noCrash()
	a.Stop()
}

// An upgrade waits for a newcomer that is being started, and not for one that takes its
// time to get ready.
func TestAnUpgradeWhileANewcomerStarts(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a, _ := upgradable(t, path)
	gate := filepath.Join(t.TempDir(), "ready")
	rewrite(t, path, testkit.Target("ready=file:"+gate), quick, "ready = \"notify\"", listen("web", "127.0.0.1:0"))
	from := a.Next()
	a.HUP()
	a.WaitEvent(from, "started", "generation", 2)
	newcomer := number(t, a.WaitEvent(from, "started", "generation", 2), "pid")
	a.upgrade()
	a.upgrade()
	write(t, gate, "")
	a.serving(2)
	if now := pids(a.report()); !slices.Equal(now, []int{newcomer}) {
		t.Errorf("workers %v, want the newcomer %d", now, newcomer)
	}
	rewrite(t, path, testkit.Target("ready=never"), "[handoff]\nready = \"notify\"\nready_timeout = \"2s\"", listen("web", "127.0.0.1:0"))
	from = a.Next()
	a.HUP()
	a.WaitEvent(from, "started", "generation", 3)
	a.upgrade()
	a.WaitEvent(from, "rolledback", "generation", 3)
	if r := a.report(); r.State != event.StateServing || !strings.Contains(r.Verdict, "rolled back") {
		t.Errorf("%+v", r)
	}
	a.Stop()
}

// Where all workers ended with their launcher, and somebody else has the port, the next
// one says so and ends; when it is free again the next one serves.
func TestAPortThatWasTakenMeanwhile(t *testing.T) {
	testkit.Leaks(t)
	n := testkit.FreePort(t)
	path := config(t, testkit.Target(), quick, listen("web", fmt.Sprintf("127.0.0.1:%d", n)))
	a := run(t, path)
	before := pids(a.report())
	kill(t, a.PID())
	a.Wait()
	for _, pid := range before {
		kill(t, pid)
	}
	var other net.Listener
	testkit.Wait(t, func() bool {
		var err error
		other, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		return err == nil
	}, "the port to be free")
	b := a.next(path)
	if code := b.Wait(); code == 0 || !strings.Contains(b.Log(), "address already in use") {
		t.Errorf("exit code %d\n%s", code, b.Log())
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	b = a.next(path)
	b.serving(1)
	b.Stop()
	if left, err := os.ReadDir(filepath.Join(a.Home, "run")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// Workers of another user are taken over, and upgraded under, as those of one's own.
func TestWorkersOfAnotherUserAreKept(t *testing.T) {
	if os.Geteuid() != 0 {
		testkit.Lack(t, "needs root: its workers run as another user")
	}
	python, py := "/usr/bin/python3", testdata(t, "server.py")
	dir := shortDir(t)
	chmod(t, dir, 0o755)
	write(t, filepath.Join(dir, "server.py"), contents(t, py))
	keptKind{exec: []string{python, filepath.Join(dir, "server.py"), "systemd"}, command: "user = \"nobody\"", more: "workers = 2", workers: 2}.test(t)
}

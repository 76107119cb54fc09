package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// Upgrades and kills at moments when nobody would want one.

// moment waits for a random part of a time.
func moment(most time.Duration) { <-time.After(rand.N(most)) }

// provers are the processes of an upgrade that is under way.
func (a *app) provers() (pids []int) {
	for pid, line := range a.Processes() {
		for _, word := range []string{" __upgrade", " __prove", " __watch "} {
			if strings.Contains(line, word) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Whichever process of an upgrade is killed, and when: it is done, or the launcher goes
// on as it was, says so, and can be upgraded the next time.
func TestAKillOfAHelperLeavesTheLauncherWhole(t *testing.T) {
	testkit.Leaks(t)
	a, _ := upgradable(t, config(t, testkit.Target(), quick+"\nworkers = 2", listen("web", "127.0.0.1:0")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
	before := pids(a.report())
	refused := 0
	for range 12 {
		was := a.report().Resumed
		var code int
		var out, errs string
		done := make(chan struct{})
		go func() { // ends with the command
			defer close(done)
			code, out, errs = a.baton("upgrade", "test")
		}()
		testkit.Wait(t, func() bool { return len(a.provers()) > 0 || isOver(done) }, "a helper")
		moment(150 * time.Millisecond)
		for _, pid := range a.provers() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		<-done
		r := a.report()
		switch {
		case code == 0 && r.Resumed == was+1:
		case code == 3 && r.Resumed == was:
			refused++
		default:
			t.Errorf("exit code %d, %q, %q; resumed %d times, before %d", code, out, errs, r.Resumed, was)
		}
	}
	t.Logf("%d of 12 were refused", refused)
	if after := pids(a.report()); !slices.Equal(before, after) {
		t.Errorf("workers were %v, and are %v", before, after)
	}
	testkit.Wait(t, func() bool { return len(a.provers()) == 0 }, "the helpers' end")
	a.upgrade()
	none(t, "fresh", fresh.Stop(), 100)
	a.Stop()
}

func isOver(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// A stop that is asked for while an upgrade is under way is obeyed, by whoever is there.
func TestATERMDuringAnUpgradeEndsGracefully(t *testing.T) {
	for range 8 {
		testkit.Leaks(t)
		a, _ := upgradable(t, config(t, testkit.Target(), "[handoff]\ndrain_delay = \"0s\"", listen("web", "127.0.0.1:0")))
		a.Signal(syscall.SIGUSR2)
		moment(500 * time.Millisecond)
		a.Signal(syscall.SIGTERM)
		if code := a.Wait(); code != 0 {
			t.Fatalf("exit code %d\n%s", code, a.Log())
		}
		if left, err := os.ReadDir(filepath.Join(a.Home, "run")); err != nil || len(left) > 0 {
			t.Errorf("left are %v, %v", left, err)
		}
	}
}

// One of two that come at once is done; the other one is told to try again, or done too.
func TestTwoUpgradesAtOnce(t *testing.T) {
	testkit.Leaks(t)
	a, _ := upgradable(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
	before := a.report()
	var mu sync.Mutex
	codes := map[int]int{}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { // ends with the command
			code, out, errs := a.baton("upgrade", "test")
			mu.Lock()
			defer mu.Unlock()
			codes[code]++
			if code == 6 && !strings.Contains(errs, "another upgrade is under way") || code != 6 && code != 0 {
				t.Errorf("exit code %d, %q, %q", code, out, errs)
			}
		})
	}
	all.Wait()
	if codes[0] == 0 || codes[6] == 0 {
		t.Errorf("exit codes %v", codes)
	}
	if after := a.report(); !slices.Equal(pids(before), pids(after)) || after.Resumed == 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	a.Stop()
}

// What lies at the path may be nothing, or the launcher may have nothing to open it with:
// it goes on, and is upgraded when it can be.
func TestAnUpgradeThatCannotBe(t *testing.T) {
	testkit.Leaks(t)
	a, own := upgradable(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 2})
	refused := func(words string) {
		t.Helper()
		before := a.report()
		code, out, errs := a.baton("upgrade", "test")
		if code != 3 || !strings.Contains(errs, words) {
			t.Errorf("exit code %d, %q, %q; want 3 and %q", code, out, errs, words)
		}
		if after := a.report(); after.Resumed != before.Resumed || !slices.Equal(pids(after), pids(before)) {
			t.Errorf("before %+v, after %+v", before, after)
		}
	}
	remove(t, own)
	refused("no such file")
	mkdir(t, own)
	refused("not a file")
	remove(t, own)
	install(t, testkit.Binary(t), own)
	chmod(t, own, 0o644)
	refused("may not be executed")
	chmod(t, own, 0o755)
	var whole unix.Rlimit
	if err := unix.Prlimit(a.PID(), unix.RLIMIT_NOFILE, nil, &whole); err != nil {
		t.Fatal(err)
	}
	open := testkit.Descriptors(a.PID())
	for n := range 24 {
		few := unix.Rlimit{Cur: uint64(open + n), Max: whole.Max}
		if err := unix.Prlimit(a.PID(), unix.RLIMIT_NOFILE, &few, nil); err != nil {
			t.Fatal(err)
		}
		from := a.Next()
		a.Signal(syscall.SIGUSR2)
		a.WaitLine(from, "what came of it", func(l testkit.Line) bool {
			e := l.Event()
			return e != nil && (e["event"] == "resumed" || strings.HasPrefix(fmt.Sprint(e["msg"]), "not upgraded"))
		})
	}
	if err := unix.Prlimit(a.PID(), unix.RLIMIT_NOFILE, &whole, nil); err != nil {
		t.Fatal(err)
	}
	a.from = a.Next()
	a.upgrade()
	a.swap()
	none(t, "fresh", fresh.Stop(), 50)
	a.noCrash()
	a.Stop()
}

// A launcher that is killed at any moment of an upgrade or of a swap leaves what the next
// one goes on with.
func TestAKillOfTheLauncherAtAnyMoment(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), "[handoff]\ndrain_delay = \"200ms\"\nworkers = 2\ncanary = [{weight = 50, for = \"300ms\"}]", listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))))
	a, _ := upgradable(t, path)
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
	serving := func() {
		testkit.Wait(t, func() bool {
			r := a.report()
			return r.State == event.StateServing && len(r.Generations) == 1 && len(pids(r)) == 2 && !slices.Contains(pids(r), 0)
		}, "it to serve")
	}
	for i := range 10 {
		a.Signal([]syscall.Signal{syscall.SIGUSR2, syscall.SIGHUP}[i%2])
		moment(1500 * time.Millisecond)
		a = a.succeeded(path)
		more(t, fresh, 10)
		serving()
	}
	none(t, "fresh", fresh.Stop(), 50)
	a.Stop()
}

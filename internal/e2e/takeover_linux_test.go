package e2e

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/boot"
)

// The launcher as a unit's main process: killed and upgraded under load.

// report is the state of the unit's application.
func (s service) report() *event.Report {
	s.t.Helper()
	r := &event.Report{}
	if err := json.Unmarshal([]byte(boot.Do(s.t, "baton", "status", "web", "--json")), r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// kill kills the launcher, and waits until another one has taken its place.
func (s service) kill() {
	s.t.Helper()
	old := s.main()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	testkit.Wait(s.t, func() bool { pid := s.main(); return pid != 0 && pid != old }, "the next launcher")
	testkit.Wait(s.t, func() bool { _, code := boot.Run(s.t, "baton", "status", "web", "--ready"); return code == 0 }, "it to answer")
	s.state("active")
}

// left is what a test is to find again: the workers that do not drain.
func (s service) same(before *event.Report, what string) {
	s.t.Helper()
	after := s.report()
	if was, is := pids(before), pids(after); !slices.Equal(was, is) {
		s.t.Errorf("%s: workers were %v, and are %v", what, was, is)
	}
	if after.Resumed != before.Resumed+1 || after.Restarts != before.Restarts || after.Verdict != before.Verdict || !after.Started.Equal(before.Started) {
		s.t.Errorf("%s: before %+v, after %+v", what, before, after)
	}
}

func TestTwentyKillsOfTheLauncherLoseNothing(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(strconv.Itoa(workers), func(t *testing.T) {
			boot.Test(t, func(t *testing.T) {
				s := newService(t, listen("file", "unix:///run/web.sock"))
				s.configure(quick+"\nworkers = "+strconv.Itoa(workers), listen("web", onBoot(8080).Address), listen("file", "unix:///run/web.sock"))
				boot.Do(t, "systemctl", "reload", webUnit)
				dropIn(t, "RestartSec=50ms")
				targets := []load.Target{onBoot(8080), {Network: "unix", Address: "/run/web.sock"}}
				fresh := begun(t, load.Options{Targets: targets, Clients: 8})
				slow := begun(t, load.Options{Targets: targets, Clients: 4, Kind: load.Slow})
				testkit.Wait(t, func() bool { return len(pids(s.report())) == workers }, "all workers")
				for i := range 20 {
					if i%5 == 4 {
						boot.Do(t, "systemctl", "reload", webUnit)
					}
					before := s.report()
					s.kill()
					s.same(before, "kill "+strconv.Itoa(i))
					more(t, fresh, 20)
				}
				none(t, "fresh", fresh.Stop(), 400)
				none(t, "slow", slow.Stop(), 10)
				boot.Do(t, "systemctl", "stop", webUnit)
				if got := s.property("Result"); got != "success" {
					t.Errorf("the result is %s: %s, %s", got, s.property("ExecMainStatus"), s.property("ExecStopPost"))
				}
			})
		})
	}
}

// What a worker writes is read by the next launcher: no line of it is lost.
func TestAKillInACanaryAndInADrain(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		four := "[handoff]\nworkers = 4\ndrain_delay = \"2s\""
		s.configure(four, listen("web", onBoot(8080).Address))
		boot.Do(t, "systemctl", "reload", webUnit)
		s.configure(four+"\ncanary = [{weight = 30, pause = true}]", listen("web", onBoot(8080).Address))
		dropIn(t, "RestartSec=50ms")
		fresh := begun(t, load.Options{Targets: []load.Target{onBoot(8080)}, Clients: 8})
		for range 2 {
			boot.Do(t, "baton", "reload", "web", "--no-wait")
			phase := func(p string) func() bool {
				return func() bool {
					return slices.ContainsFunc(s.report().Generations, func(g event.Generation) bool { return g.Phase == p })
				}
			}
			testkit.Wait(t, phase("canary"), "the canary")
			before := s.report()
			s.kill()
			s.same(before, "in a canary")
			more(t, fresh, 50)
			boot.Do(t, "baton", "promote", "web")
			testkit.Wait(t, phase("draining"), "the drain")
			before = s.report()
			s.kill()
			s.same(before, "in a drain")
			testkit.Wait(t, func() bool { return len(s.report().Generations) == 1 }, "the drain to be over")
		}
		none(t, "fresh", fresh.Stop(), 100)
	})
}

// As systemd sees it nothing has happened: the same main process, active all the time.
func TestTwentyUpgradesOfAUnitsLauncher(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t, listen("file", "unix:///run/web.sock"))
		s.configure(quick+"\nworkers = 4", listen("web", onBoot(8080).Address), listen("file", "unix:///run/web.sock"))
		boot.Do(t, "systemctl", "reload", webUnit)
		launcher, started := s.main(), s.property("ActiveEnterTimestampMonotonic")
		fresh := begun(t, load.Options{Targets: []load.Target{onBoot(8080), {Network: "unix", Address: "/run/web.sock"}}, Clients: 8})
		for i := range 20 {
			if i > 0 {
				boot.Do(t, "systemctl", "reload", webUnit)
			}
			before := s.report()
			if out := boot.Do(t, "baton", "upgrade", "web"); !strings.Contains(out, "upgraded, pid "+strconv.Itoa(launcher)) {
				t.Errorf("upgrade says %q", out)
			}
			s.same(before, "upgrade "+strconv.Itoa(i))
			more(t, fresh, 20)
		}
		if s.main() != launcher || s.property("ActiveState") != "active" || s.property("ActiveEnterTimestampMonotonic") != started {
			t.Errorf("main process %d, was %d; %s since %s, was %s", s.main(), launcher, s.property("ActiveState"), s.property("ActiveEnterTimestampMonotonic"), started)
		}
		if out, _ := boot.Run(t, "systemctl", "status", "--no-pager", webUnit); !strings.Contains(out, "Main PID: "+strconv.Itoa(launcher)) || !strings.Contains(out, "serves") {
			t.Errorf("systemctl status says\n%s", out)
		}
		none(t, "fresh", fresh.Stop(), 400)
		s.kill() // and the store knows of it all
		served(t, onBoot(8080))
	})
}

// As the kernel does to the largest process when memory runs out. (An out-of-memory kill by
// a limit of its own needs the memory controller, which is not everywhere; to the launcher it
// is the same signal.)
func TestANewcomerThatIsKilledLeavesTheUnitActive(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		worker := workerOf(t, 8080)
		fresh := begun(t, load.Options{Targets: []load.Target{onBoot(8080)}, Clients: 4})
		testkit.Behave(t, behaviour, "ready=never")
		s.configure(quick+"\nready = \"notify\"", listen("web", onBoot(8080).Address))
		code := make(chan int, 1)
		go func() { // ends with the verdict
			_, c := boot.Run(t, "systemctl", "reload", webUnit)
			code <- c
		}()
		var newcomer int
		testkit.Wait(t, func() bool {
			for _, g := range s.report().Generations {
				if g.Phase == "starting" && len(g.Workers) == 1 {
					newcomer = g.Workers[0].PID
				}
			}
			return newcomer != 0
		}, "the newcomer")
		if err := syscall.Kill(newcomer, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if c := <-code; c == 0 {
			t.Error("the reload succeeded")
		}
		if got := s.property("ActiveState") + " " + s.property("Result"); got != "active success" || workerOf(t, 8080) != worker {
			t.Errorf("the unit is %s, and %d serves, not %d", got, workerOf(t, 8080), worker)
		}
		none(t, "fresh", fresh.Stop(), 20)
	})
}

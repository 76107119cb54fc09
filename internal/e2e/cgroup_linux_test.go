package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"baton/internal/testkit"
	"baton/internal/testkit/boot"
)

// unified is where version 2 is in a machine that has it alone.
const unified = "/sys/fs/cgroup"

// unitGroup is the unit's group below a hierarchy.
func (s service) unitGroup(hierarchy string) string {
	s.t.Helper()
	return filepath.Join(hierarchy, s.property("ControlGroup"))
}

// sleeper begins in a group, as what somebody has put into the background: TERM does
// nothing to it where it is stubborn. env is more of its environment.
func sleeper(t *testing.T, group string, stubborn bool, env ...string) *exec.Cmd {
	t.Helper()
	words := "echo 0 > " + group + "/cgroup.procs; echo in; exec sleep 1000"
	if stubborn {
		words = "trap '' TERM; " + words
	}
	cmd := exec.Command("sh", "-c", words)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	if n, err := in.Read(make([]byte, 3)); n != 3 {
		t.Fatalf("the sleeper is not in %s: %v", group, err)
	}
	return cmd
}

// runs: it is no zombie.
func runs(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && !strings.Contains(string(text), "\nState:\tZ")
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func inGroup(t *testing.T, group string) (pids []int) {
	t.Helper()
	for _, word := range strings.Fields(contents(t, group+"/cgroup.procs")) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// said waits until the journal has it.
func (s service) said(want string) {
	s.t.Helper()
	testkit.Wait(s.t, func() bool { return strings.Contains(s.journal(), want) }, want)
}

const strict = "[handoff]\ndrain_delay = \"50ms\"\ndrain_timeout = \"1s\""

// With version 2 and Delegate= each generation has a group. What leaves its worker's
// process group is ended with the generation, by cgroup.kill in the end.
func TestAGenerationHasAControlGroup(t *testing.T) {
	boot.Machine{Unified: true}.Test(t, func(t *testing.T) {
		s := newService(t)
		s.configure(strict, "[limits]\nmemory_max = \"512M\"", listen("web", onBoot(8080).Address))
		boot.Do(t, "systemctl", "reload", webUnit)
		group := s.unitGroup(unified)
		if got := inGroup(t, group); !slices.Equal(got, []int{s.main()}) {
			t.Errorf("in the unit's own group are %v, and the launcher is %d", got, s.main())
		}
		if got := inGroup(t, group+"/generation-2"); !slices.Equal(got, pids(s.report())) {
			t.Errorf("in the group of generation 2 are %v, and its workers %v", got, pids(s.report()))
		}
		testkit.Wait(t, func() bool { return !exists(group + "/generation-1") }, "the first generation's group to go")
		testkit.Wait(t, func() bool {
			served(t, onBoot(8080))
			return s.report().Generations[0].CPU > 0
		}, "CPU time by the group")
		s.said("generation 2: limits.memory_max is not kept") // no machine of these has the controller

		meek, stubborn := sleeper(t, group+"/generation-2", false), sleeper(t, group+"/generation-2", true)
		boot.Do(t, "systemctl", "reload", webUnit)
		testkit.Wait(t, func() bool { return !exists(group + "/generation-2") }, "the second generation's group to go")
		if runs(meek.Process.Pid) || runs(stubborn.Process.Pid) {
			t.Error("what a generation had put into the background is left")
		}
		s.said(fmt.Sprintf("process groups, which are ended: %d, %d", meek.Process.Pid, stubborn.Process.Pid))
		boot.Do(t, "systemctl", "stop", webUnit)
		if got := s.property("Result"); got != "success" || exists(group) {
			t.Errorf("the result is %s; the unit's group is there: %v", got, exists(group))
		}
	})
}

// What the next launcher finds in the unit's group belongs to a generation that it takes
// over, or is ended and named.
func TestStraysOfAKilledLauncherAreEnded(t *testing.T) {
	testkit.Together(t)
	for _, version := range []int{1, 2} {
		t.Run("v"+strconv.Itoa(version), func(t *testing.T) {
			boot.Machine{Unified: version == 2}.Test(t, func(t *testing.T) {
				s := newService(t)
				dropIn(t, "RestartSec=50ms")
				group, theirs := s.unitGroup(unified), s.unitGroup(unified)+"/generation-1"
				if version == 1 {
					group, theirs = s.unitGroup("/sys/fs/cgroup/systemd"), ""
				}
				if !exists(group) {
					testkit.Lack(t, "systemd does not keep its units in version %d of control groups here", version)
				}
				helpers := []*exec.Cmd{sleeper(t, group, false, "BATON_GENERATION=1")}
				if theirs != "" {
					helpers = append(helpers, sleeper(t, theirs, false))
				}
				stray, stubborn := sleeper(t, group, false), sleeper(t, group, true, "BATON_GENERATION=7")
				before := s.report()
				s.kill()
				s.same(before, "with strays")
				if runs(stray.Process.Pid) || runs(stubborn.Process.Pid) {
					t.Error("a stray is left")
				}
				for _, helper := range helpers {
					if !runs(helper.Process.Pid) {
						t.Errorf("%d was ended, and is of a generation that was taken over", helper.Process.Pid)
					}
				}
				s.said(fmt.Sprintf("processes of %s that no launcher knows are ended: %d (sleep), %d (sleep)", webUnit, stray.Process.Pid, stubborn.Process.Pid))
				before = s.report()
				boot.Do(t, "baton", "upgrade", "web")
				s.same(before, "an upgrade")
				boot.Do(t, "systemctl", "reload", webUnit)
				if theirs != "" {
					testkit.Wait(t, func() bool { return !exists(theirs) }, "the group to be found again, and go")
				}
			})
		})
	}
}

// Once a controller is enabled within the unit's group no process may be in that itself,
// nor be started there, as systemd starts the next launcher: baton cleanup makes it
// possible, and the workers stay. Where version 1 has all controllers that can be handed to
// a machine there is nothing to see: hand down hugetlb by hand, while it comes up.
func TestALauncherFollowsInAGroupWhoseControllersWereEnabled(t *testing.T) {
	boot.Machine{Unified: true}.Test(t, func(t *testing.T) {
		s := newService(t)
		dropIn(t, "RestartSec=50ms")
		group := s.unitGroup(unified)
		controllers := strings.Fields(contents(t, unified+"/cgroup.controllers"))
		if len(controllers) == 0 {
			t.Log("there is no controller in version 2 of control groups here")
			return
		}
		one := controllers[len(controllers)-1]
		if err := os.Mkdir(group+"/launcher", 0o755); err != nil {
			t.Fatal(err)
		}
		put := func(file, text string) {
			if err := os.WriteFile(file, []byte(text), 0); err != nil {
				t.Fatal(err)
			}
		}
		put(group+"/launcher/cgroup.procs", strconv.Itoa(s.main()))
		for _, dir := range []string{unified, filepath.Dir(group), group} {
			put(dir+"/cgroup.subtree_control", "+"+one)
		}
		before := s.report()
		s.kill()
		s.same(before, "with the controller "+one)
		if got := contents(t, group+"/cgroup.subtree_control"); got != "\n" && got != "" {
			t.Errorf("controllers are enabled: %q", got)
		}
		if out := s.journal(); strings.Contains(out, "status=219/CGROUP") {
			t.Errorf("the launcher could not be started:\n%s", out)
		}
	})
}

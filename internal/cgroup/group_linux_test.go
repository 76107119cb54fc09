package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"baton/internal/testkit"
)

// unit makes a group of version 2 that is the test's own, and calls it a delegated unit's.
func unit(t *testing.T) *Unit {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
			continue
		}
		dir := fmt.Sprintf("%s/baton-test-%d.service", root, os.Getpid())
		if err := os.Mkdir(dir, 0o755); err != nil {
			testkit.Lack(t, "no control group can be made: %v", err)
		}
		t.Cleanup(func() {
			g := &Group{dir: dir}
			if err := g.Kill(); err != nil { // whom a test that failed has left
				t.Error(err)
			}
			testkit.Wait(t, func() bool { return g.Remove() == nil }, "the group to be empty")
		})
		return &Unit{dir: dir, delegated: true}
	}
	testkit.Lack(t, "version 2 of control groups is not mounted")
	return nil
}

// in runs a shell that puts itself into the group and then does as words say; it has
// begun with them when in returns.
func in(t *testing.T, join, words string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "echo 0 > "+join+" && echo in && "+words)
	out, err := cmd.StdoutPipe()
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
	if n, err := out.Read(make([]byte, 3)); n != 3 {
		t.Fatalf("nobody came into %s: %v", join, err)
	}
	return cmd
}

func made(t *testing.T, g *Group) string {
	t.Helper()
	for range 2 { // the second time it is there
		if _, err := g.Make(); err != nil {
			t.Fatal(err)
		}
	}
	join, _ := g.Make()
	return join
}

func TestEndTermsFirstAndKillsAfterItsGrace(t *testing.T) {
	u := unit(t)
	g := u.Group(3)
	join := made(t, g)
	meek := in(t, join, "exec sleep 1000")
	in(t, join, "trap '' TERM; mkdir "+g.dir+"/own; setsid sh -c 'echo 0 > "+g.dir+"/own/cgroup.procs; exec sleep 1000' & exec sleep 1000")
	testkit.Wait(t, func() bool { pids, _ := g.Processes(); return len(pids) == 3 }, "three processes, one in a group of its own making")
	if err := g.Remove(); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("a group with processes was removed: %v", err)
	}
	all, err := u.Processes()
	if err != nil || len(all) != 3 || all[meek.Process.Pid] != 3 {
		t.Errorf("the unit's processes by generation: %v, %v", all, err)
	}
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- g.End(context.Background(), 300*time.Millisecond) }() // ends when they have
	_ = meek.Wait()
	if status := meek.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
		t.Errorf("the first signal was %v", status.Signal())
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("killed after %v, before its grace was over", took)
	}
	if groups := u.Groups(); len(groups) != 0 {
		t.Errorf("groups are left: %v", groups)
	}
}

func TestEndKillsAtOnceWhenItsContextEnds(t *testing.T) {
	g := unit(t).Group(1)
	in(t, made(t, g), "trap '' TERM; exec sleep 1000")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	began := time.Now()
	if err := g.End(ctx, time.Hour); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > killTime {
		t.Errorf("it took %v", took)
	}
}

func TestOfAGroupThatIsGoneNothingIsLeft(t *testing.T) {
	g := unit(t).Group(1)
	pids, err := g.Processes()
	if err != nil || len(pids) != 0 {
		t.Errorf("processes: %v, %v", pids, err)
	}
	if err := errors.Join(g.Kill(), g.Remove(), g.End(context.Background(), 0)); err != nil {
		t.Error(err)
	}
	if _, known := g.Kills(); known || g.Figures() != (Figures{}) {
		t.Error("it has figures")
	}
}

func TestAGroupHasTheCPUTimeOfThoseThatHaveEnded(t *testing.T) {
	g := unit(t).Group(1)
	_ = in(t, made(t, g), "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").Wait()
	if got := g.Figures(); got.CPU < 10*time.Millisecond {
		t.Errorf("figures: %+v", got)
	}
}

func TestALimitWithoutTheControllerIsAnError(t *testing.T) {
	u := unit(t)
	if has(u.dir+"/cgroup.controllers", "memory") {
		t.Skip("the controller is there")
	}
	g := u.Group(1)
	made(t, g)
	if err := g.Limit(1 << 30); err == nil {
		t.Error("a limit was set that nobody keeps")
	}
	if own, err := processes(filepath.Join(u.dir, leaf)); err == nil {
		t.Errorf("%v went into a group of its own for nothing", own)
	}
}

// Files as the kernel has them where the controller is: what is written, and in what order
// it is read. That the kernel keeps to it is not shown by this.
func TestFiguresAndLimitsByTheFiles(t *testing.T) {
	u := &Unit{dir: filepath.Join(t.TempDir(), "baton-web.service"), delegated: true}
	g := u.Group(2)
	files := map[string]string{
		u.dir + "/cgroup.procs": "", u.dir + "/cgroup.controllers": "cpu memory pids\n", u.dir + "/cgroup.subtree_control": "",
		u.dir + "/memory.events": "oom 1\noom_kill 1\n", u.dir + "/" + leaf + "/cgroup.procs": "",
		g.dir + "/memory.current": "1048576\n", g.dir + "/memory.max": "", g.dir + "/cpu.stat": "usage_usec 20\n",
	}
	for name, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Limit(512 << 20); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		g.dir + "/memory.max": "536870912", u.dir + "/cgroup.subtree_control": "+memory", u.dir + "/" + leaf + "/cgroup.procs": "0",
	} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got := g.Figures(); got != (Figures{Memory: 1 << 20, CPU: 20 * time.Microsecond}) {
		t.Errorf("figures: %+v", got)
	}
	if got, ok := g.Kills(); !ok || got != (Kills{Limit: 1, OOM: 1}) {
		t.Errorf("by the unit's own: %+v, %v", got, ok)
	}
	if err := os.WriteFile(g.dir+"/memory.events", []byte("oom 0\noom_kill 5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, ok := g.Kills(); !ok || got != (Kills{OOM: 5}) {
		t.Errorf("by its own: %+v, %v", got, ok)
	}
}

// In a test, as at a terminal, there is no unit that is this process's.
func TestOutsideOfAUnitThereIsNone(t *testing.T) {
	t.Setenv("SYSTEMD_EXEC_PID", fmt.Sprint(os.Getppid()))
	u := Own()
	if u != nil || u.Delegated() || u.Name() != "" || u.Vacate() != nil || u.Groups() != nil {
		t.Errorf("a unit: %+v", u)
	}
	if all, err := u.Processes(); err != nil || len(all) != 0 {
		t.Errorf("its processes: %v, %v", all, err)
	}
}

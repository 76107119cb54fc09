package launcher

import (
	"os"
	"os/exec"
	"testing"

	"baton/internal/process"
)

// What belongs to a generation of which a worker is spared is nobody's to end, even where
// nothing but its group, or what it was told, says so.
func TestUnknownAreThoseOfNoGenerationThatIsSpared(t *testing.T) {
	begin := func() process.Mark {
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // nobody else ends it
			_ = cmd.Wait()
		})
		m, ok, err := process.MarkOf(cmd.Process.Pid)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		m.Group = m.PID // here it is the test's
		return m
	}
	worker, daemon, old, stray := begin(), begin(), begin(), begin()
	generations := map[int]int{worker.PID: 3, daemon.PID: 3, old.PID: 2}
	of := func(pid, _ int) int { return generations[pid] }
	all := map[int]int{os.Getpid(): 0, worker.PID: 0, daemon.PID: 0, old.PID: 0, stray.PID: 0}
	check := func(spared []process.Mark, want ...process.Mark) {
		t.Helper()
		got := unknown(all, spared, of)
		found := make(map[int]bool)
		for _, m := range got {
			found[m.PID] = true
		}
		for _, m := range want {
			if !found[m.PID] {
				t.Errorf("%d is not among %v", m.PID, got)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d are unknown, want %d", len(got), len(want))
		}
	}
	check([]process.Mark{worker}, old, stray)
	check(nil, worker, daemon, old, stray)
}

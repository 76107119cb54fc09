package handoff

import (
	"strings"
	"syscall"
	"testing"

	"baton/internal/cgroup"
	"baton/internal/process"
)

// Each worker that was killed takes one of the kills that the group has counted, so that
// the one that somebody else has killed is not told of as another.
func TestAKillForMemoryIsNamed(t *testing.T) {
	killed := process.Status{Code: -1, Signal: syscall.SIGKILL}
	told := cgroup.Kills{Limit: 1, OOM: 1}
	for i, step := range []struct {
		status process.Status
		byUs   bool
		now    cgroup.Kills
		want   string
	}{
		{killed, false, cgroup.Kills{Limit: 1, OOM: 1}, "signal: killed"},
		{process.Status{Code: 3}, false, cgroup.Kills{Limit: 2, OOM: 2}, "exit status 3"},
		{killed, false, cgroup.Kills{Limit: 2, OOM: 2}, "killed for memory (its cgroup's limit)"},
		{killed, false, cgroup.Kills{Limit: 2, OOM: 2}, "signal: killed"},
		{killed, false, cgroup.Kills{Limit: 3, OOM: 4}, "killed for memory (its cgroup's limit)"}, // two at once
		{killed, false, cgroup.Kills{Limit: 3, OOM: 4}, "killed for memory (its cgroup's limit)"},
		{killed, false, cgroup.Kills{Limit: 3, OOM: 5}, "killed for memory (the machine's"},
		{killed, true, cgroup.Kills{Limit: 3, OOM: 6}, "signal: killed"},
		{killed, false, cgroup.Kills{}, "signal: killed"}, // a count that began anew
	} {
		if got := killedFor(step.status, step.byUs, &told, step.now); !strings.HasPrefix(got, step.want) {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

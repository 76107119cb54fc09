package boot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"baton/internal/testkit"
)

// A machine begins in groups of its own wherever systemd keeps units, and none is left.
func TestEachMachineHasControlGroupsOfItsOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		testkit.Lack(t, "control groups are made by root alone")
	}
	m := &machine{name: "baton-group's $own"}
	cmd := exec.Command("cat", "/proc/self/cgroup")
	leave, err := m.groups(cmd)
	if err != nil {
		testkit.Lack(t, "%v", err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		// On a machine that has version 1 version 2 may not be mounted.
		_, unified := os.Stat("/sys/fs/cgroup/unified")
		_, second := os.Stat("/sys/fs/cgroup/cgroup.controllers")
		there := strings.Contains(line, ":name=systemd:") || strings.Contains(line, "::") && (unified == nil || second == nil)
		if own := strings.HasSuffix(strings.TrimSpace(line), "/"+m.name); own != there {
			t.Errorf("in a group of its own: %v, want %v: %s", own, there, line)
		}
	}
	leave()
	for _, h := range hierarchies {
		if left, err := filepath.Glob(h.mounted + "/" + m.name); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

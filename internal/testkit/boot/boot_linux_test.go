package boot_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baton/internal/process"
	"baton/internal/testkit"
	"baton/internal/testkit/boot"
)

func TestMain(m *testing.M) {
	process.Main()
	testkit.Main()
	os.Exit(m.Run())
}

func TestAMachineHasARealSystemdAndKeepsItsDiskOverABoot(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		if comm, err := os.ReadFile("/proc/1/comm"); err != nil || string(comm) != "systemd\n" {
			t.Errorf("process 1 is %q, %v", comm, err)
		}
		if out, _ := boot.Run(t, "systemctl", "--failed", "--no-legend"); strings.TrimSpace(out) != "" {
			t.Errorf("units have failed:\n%s", out)
		}
		if out := boot.Do(t, "baton", "version"); !strings.HasPrefix(out, "baton ") {
			t.Errorf("baton version: %s", out)
		}
		boot.Do(t, "loginctl", "enable-linger", boot.Joe)
		testkit.Wait(t, func() bool {
			out, _ := boot.RunAs(t, "systemctl", "--user", "is-system-running")
			return out == "running\n"
		}, "the manager of joe")
		if err := os.WriteFile("/root/here", []byte("was"), 0o600); err != nil {
			t.Fatal(err)
		}
	}, func(t *testing.T) {
		if text, err := os.ReadFile("/root/here"); string(text) != "was" {
			t.Errorf("the disk was not kept: %q, %v", text, err)
		}
		testkit.Wait(t, func() bool {
			out, _ := boot.Run(t, "systemctl", "is-active", "user@1000.service")
			return out == "active\n"
		}, "the manager of joe, who lingers")
	})
}

func TestASubtestCanBeInside(t *testing.T) {
	t.Run("a name", func(t *testing.T) {
		boot.Machine{Files: map[string]string{"/etc/said": "so"}, Binds: map[string]string{"/etc/bound:here": "/etc/os-release"}}.Test(t, func(t *testing.T) {
			for _, path := range []string{"/etc/said", "/etc/bound:here"} {
				if _, err := os.Stat(path); err != nil {
					t.Error(err)
				}
			}
		})
	})
}

// What goes wrong inside is seen outside. Each is this test, run once more by a process
// that is told which way to go wrong.
func TestWhatFailsInsideFailsOutside(t *testing.T) {
	kind := os.Getenv("BATON_BOOT_FAIL")
	if kind == "" && os.Getenv("BATON_TESTKIT_BOOT") != "" {
		text, _ := os.ReadFile("/etc/kind") // there is none in the machine that is to be well
		kind = string(text)
	}
	switch kind {
	case "":
		outsideFails(t)
	default:
		m := boot.Machine{Files: map[string]string{"/etc/kind": kind}}
		if kind == "hang" {
			m.Limit = 3 * time.Second
		}
		m.Test(t, func(t *testing.T) { goWrong(t, kind) })
	}
}

func goWrong(t *testing.T, kind string) {
	switch kind {
	case "error":
		t.Error("as it was told")
	case "skip":
		t.Skip("as it was told")
	case "exit":
		os.Exit(0)
	case "hang":
		select {}
	case "off":
		boot.Do(t, "systemctl", "--force", "--force", "poweroff")
		select {} // until the machine is off
	}
}

func outsideFails(t *testing.T) {
	boot.Test(t, func(*testing.T) {}) // is skipped where nothing boots, and so is the rest
	if os.Getenv("BATON_TESTKIT_BOOT") != "" {
		return
	}
	before := mounts(t)
	for _, kind := range []string{"error", "skip", "exit", "hang", "off"} {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestWhatFailsInsideFailsOutside$", "-test.v")
		cmd.Env = append(os.Environ(), "BATON_BOOT_FAIL="+kind, "TMPDIR="+dir, testkit.EnvBinary+"="+testkit.Binary(t))
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--- FAIL: TestWhatFailsInsideFailsOutside") {
			t.Errorf("%s: passed outside: %v\n%s", kind, err, out)
		}
		if kind == "error" && !strings.Contains(string(out), "as it was told") {
			t.Errorf("what was said inside is not told outside:\n%s", out)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind in %s: %v, %v", kind, dir, left, err)
		}
		if left, err := filepath.Glob(fmt.Sprintf("/run/systemd/nspawn/*/baton-%d-*", cmd.Process.Pid)); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", kind, left, err)
		}
	}
	if left, err := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/baton-%d-*", os.Getpid())); err != nil || len(left) > 0 {
		t.Errorf("control groups left behind: %v, %v", left, err)
	}
	if now := mounts(t); now != before {
		t.Errorf("mounts left behind:\n%s\nwas:\n%s", now, before)
	}
}

func mounts(t *testing.T) string {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

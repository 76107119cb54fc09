package boot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/testkit"
)

// As tests name them in the unit's environment.
const (
	testkitAll    = testkit.EnvAll
	testkitBinary = testkit.EnvBinary
)

// inside runs one boot's part of the test, once the machine is up.
func inside(t *testing.T, part func(*testing.T)) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			journal, _ := Run(t, "journalctl", "--boot", "--no-pager", "--output=short-monotonic", "--lines=300", "--reverse")
			t.Logf("the journal, its last line first:\n%s", journal)
		}
	})
	testkit.Wait(t, func() bool {
		out, _ := Run(t, "systemctl", "is-active", "multi-user.target")
		return strings.TrimSpace(out) == "active"
	}, "the machine to be up")
	part(t)
}

// Run runs a command, inside, and returns what it printed on both streams and its exit
// code.
func Run(t testing.TB, words ...string) (out string, code int) {
	t.Helper()
	return run(t, nil, words)
}

// Do is Run of a command that must succeed.
func Do(t testing.TB, words ...string) string {
	t.Helper()
	out, code := Run(t, words...)
	if code != 0 {
		t.Fatalf("%s: exit code %d\n%s", strings.Join(words, " "), code, out)
	}
	return out
}

// RunAs is Run as the user joe, at home, with the environment of a login.
func RunAs(t testing.TB, words ...string) (out string, code int) {
	t.Helper()
	return run(t, func(cmd *exec.Cmd) {
		cmd.Dir = JoeHome
		cmd.Env = []string{"HOME=" + JoeHome, "USER=" + Joe, "LOGNAME=" + Joe, "PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=/run/user/1000", "GORACE=atexit_sleep_ms=10"}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: JoeUID, Gid: JoeUID}
	}, words)
}

// DoAs is RunAs of a command that must succeed.
func DoAs(t testing.TB, words ...string) string {
	t.Helper()
	out, code := RunAs(t, words...)
	if code != 0 {
		t.Fatalf("as %s: %s: exit code %d\n%s", Joe, strings.Join(words, " "), code, out)
	}
	return out
}

func run(t testing.TB, change func(*exec.Cmd), words []string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // what it leaves in the background holds its output
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	cmd.Env = outsideSystemd(os.Environ())
	if change != nil {
		change(cmd)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// outsideSystemd leaves out what only a unit's processes have: a command is run as an
// administrator would.
func outsideSystemd(env []string) []string {
	var left []string
	for _, kv := range env {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", envBoot:
		default:
			left = append(left, kv)
		}
	}
	return left
}

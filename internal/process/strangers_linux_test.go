package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"baton/internal/testkit"
)

// A sleeper of the known's group, a child of it in a session of its own, and one that has
// nothing to do with it.
func TestStrangersAreNeitherOfAGroupNorDescendants(t *testing.T) {
	dir := t.TempDir()
	begin := func(words string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", words)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "BATON_GENERATION=5")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
			_ = cmd.Wait()
		})
		return cmd
	}
	known := begin("setsid sh -c 'echo $$ > away.new; mv away.new away; exec sleep 1000' & wait")
	stranger := begin("exec sleep 1000")
	var away int
	testkit.Wait(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "away"))
		away = atoi(strings.TrimSpace(string(text)))
		return err == nil
	}, "the child")
	t.Cleanup(func() { _ = syscall.Kill(away, syscall.SIGKILL) }) // likewise
	m, ok, err := MarkOf(known.Process.Pid)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	got := Strangers([]int{os.Getpid(), known.Process.Pid, away, stranger.Process.Pid, 1 << 22}, []Mark{m})
	if len(got) != 1 || got[0].PID != stranger.Process.Pid {
		t.Errorf("strangers: %+v, want %d alone", got, stranger.Process.Pid)
	}
	if got := Variable(stranger.Process.Pid, "BATON_GENERATION"); got != "5" {
		t.Errorf("its generation is %q", got)
	}
	if got := Variable(stranger.Process.Pid, "BATON_GEN"); got != "" {
		t.Errorf("half a name is %q", got)
	}
}

func atoi(s string) (n int) {
	for _, c := range s {
		n = 10*n + int(c-'0')
	}
	return n
}

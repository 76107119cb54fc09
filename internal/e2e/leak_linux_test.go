package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"baton/internal/testkit"
)

// built compiles a command of this module as it is shipped, without the race
// detector, which multiplies memory.
func built(t testing.TB, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(pkg)+".exe")
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "GOFLAGS=-race=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// memory reads a figure of /proc/PID/status, in kB.
func memory(t testing.TB, pid int, figure string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("/proc/%d/status has no %s", pid, figure)
	return 0
}

func TestAThousandSwapsLeaveNothingBehind(t *testing.T) {
	testkit.Leaks(t)
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	server := built(t, "baton/bench/server")
	path := config(t, []string{server}, "[handoff]\ndrain_delay = \"0s\"",
		listen("web", "127.0.0.1:0"), listen("file", "unix://"+shortDir(t)+"/web.sock"))
	a := &app{t: t, Launcher: testkit.StartBaton(t, built(t, "baton"), "run", "--config", path, "--log", "json")}
	a.serving(1)
	// 8,700 kB is what was measured, once what the start needed was given back.
	testkit.Wait(t, func() bool { return memory(t, a.PID(), "VmRSS") < 14000 }, "less than 14 MB resident when idle")

	swap := func() {
		a.HUP()
		a.serving(a.last + 1)
		a.gone(a.last - 1)
	}
	for range 50 { // until every slot and buffer it needs is there
		swap()
	}
	type figures struct{ descriptors, anonymous, threads int }
	now := func() figures {
		return figures{testkit.Descriptors(a.PID()), memory(t, a.PID(), "RssAnon"), memory(t, a.PID(), "Threads")}
	}
	before := now()
	for range 1000 {
		swap()
	}
	testkit.Wait(t, func() bool { return testkit.Descriptors(a.PID()) <= before.descriptors }, "descriptors to be as many as before")
	after := now()
	t.Logf("before %+v, after 1,000 swaps %+v", before, after)
	if after.anonymous > before.anonymous+2<<10 {
		t.Errorf("memory grew from %d to %d kB", before.anonymous, after.anonymous)
	}
	if after.threads > before.threads+4 { // the Go runtime keeps threads it once needed
		t.Errorf("threads grew from %d to %d", before.threads, after.threads)
	}
	for _, line := range a.Lines() {
		// The server accepts on one of its two listeners alone: baton's own question to
		// the other must not keep its generation.
		if strings.Contains(line.Text, "did not empty") {
			t.Errorf("a drain waited: %s", line.Text)
			break
		}
	}
	a.Stop()
}

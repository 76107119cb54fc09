package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
)

// deploy is an application whose executable, behaviours and configuration the
// test replaces between swaps, as deploys do.
type deploy struct {
	*app
	t         *testing.T
	exe       string // the executable on disk
	behaviour string // file that the target reads at each start
	path      string // configuration
}

// deployed drains as is the default: its servers are stock Go ones, which may drop
// what they have accepted and not read, so that under eight clients without a pause
// less time would show the server's loss and not baton's.
const deployed = "[handoff]\ndrain_delay = \"1s\""

func newDeploy(t *testing.T, more ...string) *deploy {
	t.Helper()
	dir := shortDir(t)
	d := &deploy{t: t, exe: filepath.Join(dir, "server"), behaviour: filepath.Join(dir, "behaviour"), path: filepath.Join(dir, "baton.toml")}
	d.good()
	d.configure(more...)
	d.app = run(t, d.path)
	return d
}

// good puts a working executable in place, by rename as a careful deploy does.
func (d *deploy) good() {
	d.t.Helper()
	testkit.Behave(d.t, d.behaviour, "ready=none")
	install(d.t, testkit.Target()[0], d.exe)
}

func (d *deploy) configure(more ...string) {
	d.t.Helper()
	d.keys(deployed, more...)
}

// keys is configure with a [handoff] of its own.
func (d *deploy) keys(handoff string, more ...string) {
	d.t.Helper()
	command := append([]string{d.exe}, testkit.Target("@" + d.behaviour)[1:]...)
	rewrite(d.t, d.path, command, append([]string{handoff, listen("web", "127.0.0.1:0")}, more...)...)
}

func TestABadNewcomerLeavesTheOldGenerationServing(t *testing.T) {
	testkit.Leaks(t)
	d := newDeploy(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()

	fresh := begun(t, load.Options{Targets: []load.Target{d.address("web")}, Clients: 8})
	for _, c := range []struct {
		name  string
		spoil func()
		kind  string   // of the event that gives the verdict
		says  []string // in its sentence
		tail  string   // among the last lines, "" for none
	}{
		{"exits", func() { testkit.Behave(t, d.behaviour, "exit=3", "words=cannot reach the database") },
			"rolledback", []string{"exit status 3"}, "cannot reach the database"},
		{"hangs", func() {
			testkit.Behave(t, d.behaviour, "hang", "lines=3")
			d.keys(deployed + "\nready_timeout = \"5s\"") // in which it prints
		},
			"rolledback", []string{"not ready within 5s"}, "stderr line 3 of 3"},
		{"is missing", func() { remove(t, d.exe) },
			"refused", []string{d.exe, "no such file"}, ""},
		{"is not executable", func() { chmod(t, d.exe, 0o644) },
			"refused", []string{d.exe, "not executable"}, ""},
		{"is a directory", func() { remove(t, d.exe); mkdir(t, d.exe) },
			"refused", []string{d.exe, "directory"}, ""},
		{"is empty", func() { truncate(t, d.exe, 0) },
			"rolledback", []string{d.exe, "empty"}, ""},
		{"is cut short", func() { truncate(t, d.exe, 4096) },
			"rolledback", nil, ""},
		{"is not a program", func() { write(t, d.exe, "not a program\n") },
			"rolledback", []string{d.exe}, ""},
		{"has a configuration that does not parse", func() { write(t, d.path, "[command\nexec = ") },
			"refused", []string{d.path + ":1"}, ""},
		{"has a configuration with a typing error", func() { d.configure("[restart]\nbackof_min = \"1s\"") },
			"refused", []string{"backof_min", "backoff_min"}, ""},
		{"wants a port that is taken", func() { d.configure(listen("admin", taken.Addr().String())) },
			"refused", []string{taken.Addr().String(), "address already in use"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := d.Next()
			c.spoil()
			d.HUP()
			line := d.WaitEvent(from, c.kind)
			message, _ := line.Event()["msg"].(string)
			for _, want := range append(c.says, fmt.Sprintf("generation %d serves on", d.last)) {
				if !strings.Contains(message, want) {
					t.Errorf("the log says %q, without %q", message, want)
				}
			}
			if c.tail != "" && !strings.Contains(line.Text, c.tail) {
				t.Errorf("the last lines are not in %s", line.Text)
			}
			if c.kind == "rolledback" {
				n, err := line.Event()["generation"].(interface{ Int64() (int64, error) }).Int64()
				if err != nil {
					t.Fatal(err)
				}
				d.gone(int(n))
			}
		})
		if os.Remove(d.exe) != nil { // it may be a directory, or not there
			_ = os.RemoveAll(d.exe)
		}
		d.good()
		d.configure()
		d.HUP()
		old := d.last
		line := d.WaitEvent(d.from, "serving")
		d.from = d.Next()
		n, err := line.Event()["generation"].(interface{ Int64() (int64, error) }).Int64()
		if err != nil {
			t.Fatal(err)
		}
		d.last = int(n)
		d.gone(old)
	}
	none(t, "fresh", fresh.Stop(), 100)
	d.Stop()
}

// A binary that is still being copied over is waited for, and then taken.
func TestABinaryStillBeingWrittenIsWaitedFor(t *testing.T) {
	testkit.Leaks(t)
	d := newDeploy(t)
	fresh := begun(t, load.Options{Targets: []load.Target{d.address("web")}, Clients: 4})
	from := d.Next()
	install(t, d.exe, d.exe+".new")
	busy, err := os.OpenFile(d.exe+".new", os.O_WRONLY, 0) // as a copy that has not ended
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.exe+".new", d.exe); err != nil {
		t.Fatal(err)
	}
	d.HUP()
	d.WaitEvent(from, "starting", "generation", 2)
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	d.serving(2)
	d.gone(1)
	none(t, "fresh", fresh.Stop(), 10)
	d.Stop()
}

// The first generation has nobody to go back to: baton ends and says why.
func TestAFirstGenerationThatFailsEndsTheLauncher(t *testing.T) {
	testkit.Leaks(t)
	a := begin(t, config(t, testkit.Target("exit=7", "words=no licence"), quick, listen("web", "127.0.0.1:0")))
	line := a.WaitEvent(0, "rolledback", "generation", 1)
	for _, want := range []string{"exit status 7", "nothing serves", "no licence"} {
		if !strings.Contains(line.Text, want) {
			t.Errorf("the log says %s, without %q", line.Text, want)
		}
	}
	if code := a.Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

// A crashed worker comes back from the release that was running, although
// another lies on disk by then.
func TestACrashedWorkerComesBackFromTheRunningRelease(t *testing.T) {
	testkit.Leaks(t)
	d := newDeploy(t)
	fresh := begun(t, load.Options{Targets: []load.Target{d.address("web")}, Clients: 4, Timeout: 10e9})
	from := d.Next()
	write(t, d.exe+".new", "#!/bin/false\n")
	chmod(t, d.exe+".new", 0o755)
	if err := os.Rename(d.exe+".new", d.exe); err != nil {
		t.Fatal(err)
	}
	kill(t, d.Children()[0])
	d.WaitEvent(from, "crashed", "generation", 1)
	d.WaitEvent(from, "ready", "generation", 1)
	r := fresh.Stop()
	if r.Reasons[load.Refused] > 0 || r.Reasons[load.Timeout] > 0 || r.Lost > 4 {
		t.Errorf("lost more than the killed process held: %v", r.Reasons)
	}
	d.Stop()
}

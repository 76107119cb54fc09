package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// supervision has a folder for each configuration of the one server in it.
const supervision = "supervision"

// supervised has what is to be seen of each configuration, and how many requests that
// may cost at most.
var supervised = map[string]func(*app) (most int){
	"canary": (*app).showsACanary,
	"bake":   (*app).showsABake,
	"limits": (*app).showsALimit,
	"watch":  (*app).showsAWatch,
	"hooks":  (*app).showsHooks,
}

func TestEachConfigurationOfSupervisionDoesWhatItSays(t *testing.T) {
	folders, err := filepath.Glob(supervision + "/*/baton.toml")
	if err != nil || len(folders) != len(supervised) {
		t.Errorf("%v (%v), want a test for each, and there are %d", folders, err, len(supervised))
	}
	for name, show := range supervised {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startSupervised(t, name)
			a.load(load.Options{Kind: load.Fresh, Clients: 4}, 2*time.Millisecond)
			a.answered()
			most := show(a)
			a.answered()
			a.lost(most)
			a.Stop()
		})
	}
}

// startSupervised runs one of the configurations in a copy of the folder.
func startSupervised(t *testing.T, name string) *app {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		testkit.Lack(t, "needs python3: %v", err)
	}
	a := &app{t: t, example: example{dir: supervision}, dir: readable(t), port: testkit.FreePort(t)}
	a.install()
	if err := command(t, filepath.Join(a.dir, name), testkit.Binary(t), "check"); err != nil {
		t.Error(err)
	}
	a.Launcher = testkit.Baton(t, "run", "--config", filepath.Join(a.dir, name, "baton.toml"), "--log", "json")
	a.serving(1)
	return a
}

// lost ends the load and fails the test when it lost more than that, or otherwise than
// with a process that had accepted it.
func (a *app) lost(most int) {
	a.t.Helper()
	for _, r := range a.runs {
		for _, runner := range r.runners {
			got := runner.Stop()
			a.t.Logf("%d requests by generation %v, %d lost", got.Requests, got.ByGeneration, got.Lost)
			if got.Lost > most || got.Lost != got.Reasons[load.EOF]+got.Reasons[load.Reset]+got.Reasons[load.Truncated] {
				a.t.Errorf("lost: %v", got)
			}
		}
	}
}

// edit saves another version of the server, as an editor does: a new file, renamed.
func (a *app) edit(from, to string) {
	a.t.Helper()
	path := filepath.Join(a.dir, "server.py")
	text, err := os.ReadFile(path)
	if err != nil {
		a.t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		a.t.Fatalf("server.py has no %q", from)
	}
	if err := os.WriteFile(path+".new", []byte(strings.Replace(string(text), from, to, 1)), 0o644); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		a.t.Fatal(err)
	}
}

const starts = "    stop = asyncio.Event()\n"

// baton runs a verb on the application, the only one in its home.
func (a *app) baton(verb ...string) string {
	a.t.Helper()
	c := exec.Command(testkit.Binary(a.t), verb...)
	c.Env = append(os.Environ(), "BATON_HOME="+a.Home)
	out, err := c.CombinedOutput()
	if err != nil {
		a.t.Errorf("baton %v: %v: %s", verb, err, out)
	}
	return string(out)
}

func (a *app) showsACanary() int {
	workers := len(a.Children())
	if workers < 1 {
		a.t.Errorf("%d workers", workers)
	}
	a.HUP()
	a.WaitEvent(a.from, "canary", "generation", 2, "weight", 5)
	a.baton("promote", "--step")
	a.WaitEvent(a.from, "canary", "generation", 2, "weight", 25)
	if n := len(a.Children()); n != 2*workers {
		a.t.Errorf("%d workers beside each other, want %d", n, 2*workers)
	}
	a.baton("promote")
	a.serving(2)
	a.WaitEvent(0, "gone", "generation", 1)
	return 0
}

func (a *app) showsABake() int {
	a.edit(starts, starts+"    asyncio.get_running_loop().call_later(1, os._exit, 3)\n")
	a.HUP()
	a.serving(2)
	a.WaitEvent(a.from, "rolledback", "generation", 2, "reason", "exit status 3")
	a.serving(1)
	a.WaitEvent(0, "gone", "generation", 2)
	return 4 // the dead one had accepted no more than one of each client
}

func (a *app) showsALimit() int {
	// Some 15 MB each at first: a hundred requests are too much for one of them.
	leak, err := load.Start(a.t.Context(), load.Options{Path: "/leak", Pause: 10 * time.Millisecond,
		Targets: []load.Target{{Network: "tcp4", Address: "127.0.0.1:" + strconv.Itoa(a.port)}}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { leak.Stop() })
	line := a.WaitEvent(a.from, "replacing", "generation", 1)
	if said := fmt.Sprint(line.Event()["reason"]); !strings.Contains(said, "may use 100 MB") {
		a.t.Errorf("%s", line.Text)
	}
	a.WaitEvent(a.from, "exited", "generation", 1)
	if got := leak.Stop(); got.Lost > 0 {
		a.t.Errorf("lost: %v", got)
	}
	return 0
}

func (a *app) showsAWatch() int {
	a.edit(`"hello"`, `"good day"`)
	a.serving(2)
	a.WaitEvent(0, "gone", "generation", 1)
	a.edit(starts, starts+"    return\n")
	a.WaitEvent(a.from, "rolledback", "generation", 3)
	a.edit("    return\n", "")
	a.serving(4)
	return 0
}

func (a *app) showsHooks() int {
	told := func(what string) bool {
		text, err := os.ReadFile(filepath.Join(a.dir, "hooks", "told.log"))
		return err == nil && strings.Contains(string(text), what)
	}
	testkit.Wait(a.t, func() bool { return told(" hooks: generation 1 serves\n") && told(`"event":"serving"`) }, "the swap to be told")
	from := a.Next()
	pid := a.Children()[0]
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		a.t.Fatal(err)
	}
	a.WaitEvent(from, "ready", "generation", 1)
	testkit.Wait(a.t, func() bool { return told("signal: killed") && told(`"event":"crashed"`) }, "the crash to be told")
	return 4 // the dead one had accepted no more than one of each client
}

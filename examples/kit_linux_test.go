package examples

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
)

// all in the environment makes a skip a failure: whoever sets it has installed
// what the examples need, and wants to know when one of them did not run.
const all = "BATON_EXAMPLES"

// lack ends the test of an example that cannot run here, and says why.
func lack(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv(all) == "all" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// app is one example under the real baton.
type app struct {
	*testkit.Launcher
	t       *testing.T
	example example
	dir     string // its copy
	port    int
	last    int // generation that serves
	from    int // line of the log after the one that said so
	runs    []run
}

// run is load of one kind on the app.
type run struct {
	kind    load.Kind
	runners []*load.Runner
}

// start copies the example, builds it there, and runs baton on its configuration
// until generation 1 serves.
func start(t *testing.T, e example) *app {
	t.Helper()
	for _, program := range e.needs {
		if _, err := exec.LookPath(program); err != nil {
			lack(t, "needs %s: %v", program, err)
		}
	}
	a := &app{t: t, example: e, dir: readable(t), port: testkit.FreePort(t)}
	a.install()
	if e.build != nil {
		e.build(t, a.dir)
	}
	if err := command(t, a.dir, testkit.Binary(t), "check"); err != nil {
		t.Error(err)
	}
	args := append([]string{"run", "--config", filepath.Join(a.dir, "baton.toml"), "--log", "json"}, e.flags...)
	a.Launcher = testkit.Baton(t, args...)
	a.serving(1)
	return a
}

// readable is a directory that every user can read, as that of an installed
// program: nginx and php-fpm serve as another user when root starts them.
// t.TempDir is for the test's user alone.
func readable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "baton-example-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fixed is the address that an example for HTTP listens on.
const fixed = "127.0.0.1:8080"

// install copies the example, with a port of the test's own in place of the fixed
// one, wherever a reader who wants another would change it.
func (a *app) install() {
	a.t.Helper()
	if err := os.CopyFS(a.dir, os.DirFS(a.example.dir)); err != nil {
		a.t.Fatal(err)
	}
	from, to := cmp.Or(a.example.address, fixed), "127.0.0.1:"+strconv.Itoa(a.port)
	changed := 0
	err := filepath.WalkDir(a.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), from) {
			return err
		}
		changed++
		return os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from, to)), 0o644)
	})
	if err != nil {
		a.t.Fatal(err)
	}
	if changed == 0 {
		a.t.Fatalf("%s: no file has the address %s", a.example.dir, from)
	}
}

// command runs one to its end in dir; what it says on failure is the error.
func command(t *testing.T, dir string, words ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, words[0], words[1:]...)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(words, " "), err, out)
	}
	return nil
}

// load begins to send requests, from as many runners as there are pauses between
// two requests; judge ends it.
func (a *app) load(o load.Options, pauses ...time.Duration) {
	a.t.Helper()
	o.Targets = []load.Target{{Network: "tcp4", Address: "127.0.0.1:" + strconv.Itoa(a.port)}}
	if a.example.dial != nil {
		o.Dial = a.example.dial(a.dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	a.t.Cleanup(cancel)
	r := run{kind: o.Kind}
	for _, o.Pause = range pauses {
		runner, err := load.Start(ctx, o)
		if err != nil {
			a.t.Fatal(err)
		}
		a.t.Cleanup(func() {
			cancel()
			<-runner.Done()
		})
		r.runners = append(r.runners, runner)
	}
	a.runs = append(a.runs, r)
}

// swap waits until the generation that serves has answered each kind of load, asks
// for the next, and waits until that serves. A few may drain meanwhile.
func (a *app) swap() {
	a.t.Helper()
	a.answered()
	a.HUP()
	a.serving(a.last + 1)
	if old := a.last - 1 - draining; old > 0 {
		a.WaitEvent(0, string(event.Gone), "generation", old)
	}
}

// answered waits until each kind of load had an answer of the generation that
// serves: a swap under load is one that had load before it and after it.
func (a *app) answered() {
	a.t.Helper()
	for _, r := range a.runs {
		testkit.Wait(a.t, func() bool { return slices.ContainsFunc(r.runners, a.heard) }, fmt.Sprintf("an answer of generation %d to a %v request", a.last, r.kind))
	}
}

// heard tells whether the generation that serves has answered the runner. By pid it
// would be the newest of as many as there were generations.
func (a *app) heard(r *load.Runner) bool {
	got := r.Result()
	if a.example.nameless {
		return len(got.ByPID) >= a.last
	}
	return got.ByGeneration[strconv.Itoa(a.last)] > 0
}

// serving waits until the generation serves. A newcomer that does not get there is
// told by its rollback at once, not by the wait's end.
func (a *app) serving(n int) {
	a.t.Helper()
	line := a.WaitLine(a.from, fmt.Sprintf("generation %d to serve", n), func(l testkit.Line) bool {
		switch e := l.Event(); fmt.Sprint(e["event"]) {
		case string(event.Serving), string(event.RolledBack):
			return fmt.Sprint(e["generation"]) == strconv.Itoa(n)
		case string(event.Refused):
			return true
		}
		return false
	})
	if line.Event()["event"] != string(event.Serving) {
		a.t.Fatalf("generation %d does not serve: %s", n, line.Text)
	}
	a.last, a.from = n, line.Index+1
}

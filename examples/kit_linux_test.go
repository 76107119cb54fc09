package examples

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	port    int
	last    int // generation that serves
	from    int // line of the log after the one that said so
	runs    []run
}

// run is load on the app.
type run struct {
	*load.Runner
	kind load.Kind
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
	a := &app{t: t, example: e, port: testkit.FreePort(t)}
	dir := readable(t)
	a.install(dir)
	if e.build != nil {
		e.build(t, dir)
	}
	args := append([]string{"run", "--config", filepath.Join(dir, "baton.toml"), "--log", "json"}, e.flags...)
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

// fixed is the address that every example listens on.
const fixed = "127.0.0.1:8080"

// install copies what git knows of the example, with a port of the test's own in
// place of the fixed one, wherever a reader who wants another would change it.
func (a *app) install(dir string) {
	a.t.Helper()
	err := os.CopyFS(dir, os.DirFS(a.example.dir))
	if err != nil {
		a.t.Fatal(err)
	}
	changed := 0
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), fixed) {
			return err
		}
		changed++
		mine := "127.0.0.1:" + strconv.Itoa(a.port)
		return os.WriteFile(path, []byte(strings.ReplaceAll(string(text), fixed, mine)), 0o644)
	})
	if err != nil {
		a.t.Fatal(err)
	}
	if changed == 0 {
		a.t.Fatalf("%s: no file has the address %s", a.example.dir, fixed)
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

// load begins to send requests; judge ends it.
func (a *app) load(o load.Options) {
	a.t.Helper()
	o.Targets = []load.Target{{Network: "tcp4", Address: "127.0.0.1:" + strconv.Itoa(a.port)}}
	o.Dial = a.example.dial
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	a.t.Cleanup(cancel)
	r, err := load.Start(ctx, o)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		cancel()
		<-r.Done()
	})
	a.runs = append(a.runs, run{r, o.Kind})
}

// swap waits until the generation that serves has answered each kind of load, asks
// for the next, and waits until that serves. A few may drain meanwhile.
func (a *app) swap() {
	a.t.Helper()
	a.answered()
	for _, r := range a.runs {
		r.Mark()
	}
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
		testkit.Wait(a.t, func() bool {
			got := r.Result()
			if a.example.nameless {
				return len(got.ByPID) >= a.last
			}
			return got.ByGeneration[strconv.Itoa(a.last)] > 0
		}, fmt.Sprintf("an answer of generation %d to a %v request", a.last, r.kind))
	}
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

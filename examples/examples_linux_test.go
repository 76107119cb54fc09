package examples

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// swaps is how often each example is swapped under load.
const swaps = 20

// draining is how many generations the test leaves draining before it goes on.
const draining = 3

// example is one folder, and what its test has to know that is not in it.
type example struct {
	dir   string
	needs []string // programs that must be installed
	// build prepares the copy of the folder, as README.md tells its readers to.
	build func(t *testing.T, dir string)
	// address is what the folder's files listen on; empty: that of http.
	address string
	// dial opens the load's connections to the copy in dir, where the example does
	// not speak HTTP.
	dial func(dir string) load.Dialer
	// politely: each open keep-alive connection is answered with "Connection:
	// close" before the worker ends, so that a client need not ever repeat a request.
	politely bool
	// nameless: its answers tell the process, and cannot tell the generation. It
	// must be one process that answers in each.
	nameless bool
}

var table = []example{
	{dir: "go-plain", build: goServer("go-plain")},
	{dir: "go-worker", build: goServer("go-worker"), politely: true},
	{dir: "go-systemd", build: goServer("go-systemd")},
	{dir: "go-tableflip", build: goServer("go-tableflip")},
	{dir: "node-express", needs: []string{"node", "npm"}, build: installExpress, politely: true},
	{dir: "python-asyncio", needs: []string{"python3"}},
	{dir: "gunicorn", needs: []string{"gunicorn"}},
	{dir: "nginx", needs: []string{"nginx"}, nameless: true},
	{dir: "php-fpm", needs: []string{"php-fpm8.2"}, address: "127.0.0.1:9000", dial: throughFastCGI},
	{dir: "java", needs: []string{"java", "javac"}, build: compileJava},
}

// goServer builds in the folder itself, since only there does the module know its
// imports, but from the copies of its files, which have the test's port.
func goServer(folder string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		from, err := filepath.Abs(folder)
		if err != nil {
			t.Fatal(err)
		}
		var overlay struct{ Replace map[string]string } // see go help build
		overlay.Replace = map[string]string{filepath.Join(from, "main.go"): filepath.Join(dir, "main.go")}
		text, err := json.Marshal(overlay)
		if err != nil {
			t.Fatal(err)
		}
		list := filepath.Join(t.TempDir(), "overlay.json")
		if err := os.WriteFile(list, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := command(t, folder, "go", "build", "-overlay", list, "-o", filepath.Join(dir, "server"), "."); err != nil {
			t.Fatal(err)
		}
	}
}

func installExpress(t *testing.T, dir string) {
	if err := command(t, dir, "npm", "ci", "--no-audit", "--no-fund"); err != nil {
		testkit.Lack(t, "needs express: %v", err)
	}
}

func compileJava(t *testing.T, dir string) {
	if err := command(t, dir, "javac", "Server.java"); err != nil {
		t.Fatal(err)
	}
}

func throughFastCGI(dir string) load.Dialer { return fastCGI(filepath.Join(dir, "index.php")) }

func TestEachExampleIsSwappedWithoutLoss(t *testing.T) {
	for _, e := range table {
		t.Run(e.dir, func(t *testing.T) {
			t.Parallel()
			a := start(t, e)
			a.load(load.Options{Kind: load.Fresh, Clients: 4}, 2*time.Millisecond)
			// Unlike pauses keep them out of step with each other and with the swaps, so
			// that at each signal some have just begun.
			a.load(load.Options{Kind: load.Slow, Path: "/slow"}, 0, 40*time.Millisecond, 90*time.Millisecond, 150*time.Millisecond)
			if e.dial == nil {
				a.load(load.Options{Kind: load.KeepAlive, Clients: 4}, 5*time.Millisecond)
			}
			for range swaps {
				a.swap()
			}
			a.answered()
			for _, r := range a.runs {
				a.judge(r)
			}
			a.Stop()
			if testkit.Listening(t, a.port) {
				t.Errorf("port %d is still listened on after the stop", a.port)
			}
		})
	}
}

// slowAnswer is the least that a request to an example's /slow takes.
const slowAnswer = 250 * time.Millisecond

// judge ends a run and fails the test for what it lost. A connection that a server
// closes while it is idle loses a request to a client that never repeats one: only
// some examples promise that this does not happen, what the others do is printed.
func (a *app) judge(r run) {
	a.t.Helper()
	for _, runner := range r.runners {
		got := runner.Stop()
		a.t.Logf("%v: %d requests, %d lost, %d closed while idle (%d raced), %d processes, at most %v",
			r.kind, got.Requests, got.Lost, got.IdleClosed, got.IdleRaced, len(got.ByPID),
			max(got.Steady.Max(), got.During.Max()).Round(time.Millisecond))
		if r.kind == load.KeepAlive && !a.example.politely {
			continue
		}
		if got.Lost+got.IdleClosed > 0 {
			a.t.Errorf("%v: lost: %v", r.kind, got)
		}
		if h := got.All(); r.kind == load.Slow && h.Quantile(0.01) < slowAnswer {
			a.t.Errorf("a slow answer took %v, not at least %v: it was not in flight for long", h.Quantile(0.01), slowAnswer)
		}
	}
}

// Every folder is run: one that is in no row would be a promise nobody holds.
func TestEveryFolderIsAnExampleThatRuns(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range entries {
		if !d.IsDir() {
			continue
		}
		in := d.Name() == supervision || d.Name() == container || d.Name() == "systemd" // which have tests of their own
		for _, e := range table {
			in = in || e.dir == d.Name()
		}
		if !in {
			t.Errorf("%s is in no row of the table", d.Name())
		}
	}
}

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/process"
	"baton/internal/testkit"
)

func TestMain(m *testing.M) {
	process.Main()
	testkit.Main()
	// They wait more than they work; go test -parallel still says otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)/2)); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(testkit.RunTogether(m))
}

// app is one application under the real baton.
type app struct {
	*testkit.Launcher
	t    testing.TB
	last int // generation that serves, as far as the test has seen
	from int // log line from which the next is looked for
}

// quoted is a TOML array of strings.
func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = strconv.Quote(w)
	}
	return "[" + strings.Join(q, ", ") + "]"
}

// config writes a configuration file and returns its path. more is TOML that
// follows the name and the command.
func config(t testing.TB, target []string, more ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "baton.toml")
	rewrite(t, path, target, more...)
	return path
}

func rewrite(t testing.TB, path string, target []string, more ...string) {
	t.Helper()
	text := "name = \"test\"\n[command]\nexec = " + quoted(target) + "\n" + strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listen is a [[listen]] table.
func listen(name, address string, more ...string) string {
	return fmt.Sprintf("[[listen]]\nname = %q\naddress = %q\n%s\n", name, address, strings.Join(more, "\n"))
}

// run starts baton on a configuration and waits until generation 1 serves.
func run(t testing.TB, path string, args ...string) *app {
	t.Helper()
	a := begin(t, path, args...)
	a.serving(1)
	return a
}

// begin starts baton and waits for nothing.
func begin(t testing.TB, path string, args ...string) *app {
	t.Helper()
	args = append([]string{"run", "--config", path, "--log", "json"}, args...)
	return &app{Launcher: testkit.Baton(t, args...), t: t}
}

// serving waits until the generation serves.
func (a *app) serving(n int) {
	a.t.Helper()
	a.WaitEvent(a.from, "serving", "generation", n)
	a.last = n
	a.from = a.Next()
}

// gone waits until nothing of the generation is left.
func (a *app) gone(n int) {
	a.t.Helper()
	a.WaitEvent(0, "gone", "generation", n)
}

// swap sends a HUP and waits until the next generation serves. A few may drain
// meanwhile, as under a busy deployer.
func (a *app) swap() {
	a.t.Helper()
	a.HUP()
	a.serving(a.last + 1)
	if a.last > 4 {
		a.gone(a.last - 4)
	}
}

// address of a listener, as the log says it was bound.
func (a *app) address(name string) load.Target {
	a.t.Helper()
	line := a.WaitEvent(0, "listener-opened", "listener", name)
	network, address, _ := strings.Cut(line.Event()["address"].(string), "://")
	return load.Target{Network: network, Address: strings.ReplaceAll(address, "[::]", "[::1]")}
}

// begun starts a load that the test stops. Its clients take a breath, or the load alone
// would be all that the machine does.
func begun(t testing.TB, o load.Options) *load.Runner {
	t.Helper()
	if pause := map[load.Kind]time.Duration{load.Fresh: 8 * time.Millisecond, load.KeepAlive: 5 * time.Millisecond}; o.Pause == 0 {
		o.Pause = pause[o.Kind]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	r, err := load.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// none fails the test when a request was lost, or when there were too few to
// tell.
func none(t testing.TB, what string, r load.Result, atLeast int) {
	t.Helper()
	t.Logf("%s: %d requests, %d lost, %d closed idle, %d generations answered",
		what, r.Requests, r.Lost, r.IdleClosed, len(r.ByGeneration))
	if r.Requests < atLeast {
		t.Errorf("%s: %d requests, too few to tell; want %d", what, r.Requests, atLeast)
	}
	if r.Lost > 0 {
		t.Errorf("%s: %d of %d requests lost: %v", what, r.Lost, r.Requests, r.Reasons)
		for _, l := range r.Examples {
			t.Log(l)
		}
	}
}

// inDir puts a path where a listener's address says PATH.
func inDir(listen, path string) string { return strings.ReplaceAll(listen, "PATH", path) }

// shortDir is a directory whose path leaves room for a unix socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func chmod(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// write replaces a file's content; a program that runs from it is not changed,
// because the new content is another file.
func write(t testing.TB, path, text string) {
	t.Helper()
	_ = os.Remove(path) // it may not be there
	// A child that another test forks meanwhile would have it open for writing until its
	// exec, and nobody could execute it (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func contents(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// truncate replaces a file by its first n bytes.
func truncate(t testing.TB, path string, n int) {
	t.Helper()
	write(t, path, contents(t, path)[:n])
}

// kill ends a process of the test's own at once.
func kill(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

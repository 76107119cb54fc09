package testkit

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// recorder is a test whose failures are looked at.
type recorder struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
func (r *recorder) Error(args ...any) { r.errors = append(r.errors, fmt.Sprint(args...)) }
func (r *recorder) Failed() bool      { return len(r.errors) > 0 }
func (r *recorder) Cleanup(f func())  { r.cleanups = append(r.cleanups, f) }

// finish does what the end of a test does.
func (r *recorder) finish() string {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return strings.Join(r.errors, "\n")
}

func TestLeaksSeesWhatIsLeftBehind(t *testing.T) {
	for name, c := range map[string]struct {
		leave func(*testing.T) (undo func())
		says  string
	}{
		"nothing": {func(*testing.T) func() { return func() {} }, ""},
		"a goroutine": {func(*testing.T) func() {
			c := make(chan struct{})
			go func() { <-c }()
			return func() { close(c) }
		}, "found unexpected goroutines"},
		"a descriptor": {func(t *testing.T) func() {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = f.Close() }
		}, "/dev/null"},
		"a socket": {func(t *testing.T) func() {
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = l.Close() }
		}, "socket:["},
		"a process": {func(t *testing.T) func() {
			cmd := exec.Command(Target()[0], holderArg)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
		}, "child processes left behind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if os.Getenv("BATON_TESTKIT_LEAK") != name {
				alone(t, name)
				return
			}
			impatient(t)
			r := &recorder{TB: t}
			Leaks(r)
			undo := c.leave(t)
			said := r.finish()
			undo()
			if (said == "") != (c.says == "") || !strings.Contains(said, c.says) {
				t.Errorf("said %q, not %q", said, c.says)
			}
		})
	}
}

// A goroutine that is held up on its way to its end is no leak: a busy machine does that.
func TestAGoroutineThatEndsLateIsNoLeak(t *testing.T) {
	r := &recorder{TB: t}
	Leaks(r)
	c := make(chan struct{})
	go func() { <-c }()
	time.AfterFunc(700*time.Millisecond, func() { close(c) }) // goleak by itself waits for 0.43 s
	if said := r.finish(); said != "" {
		t.Error(said)
	}
}

func impatient(t *testing.T) {
	before := settle
	settle = 200 * time.Millisecond
	t.Cleanup(func() { settle = before })
}

// alone runs one of the cases in a process of its own, where the others' leaks
// are not seen.
func alone(t *testing.T, name string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLeaksSeesWhatIsLeftBehind$/^"+
		strings.ReplaceAll(name, " ", "_")+"$")
	cmd.Env = append(os.Environ(), "BATON_TESTKIT_LEAK="+name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestALauncherThatLeavesAProcessFailsItsTest(t *testing.T) {
	impatient(t)
	r := &recorder{TB: t}
	target := Target("child=pipes")
	l := newLauncher(r, "/bin/sh", append([]string{"-c", `LISTEN_FDS=0 exec "$@"`, "sh"}, append(target,
		fmt.Sprintf("listen=127.0.0.1:%d", FreePort(t)))...)...)
	l.Start()
	l.WaitLog("^target: child")
	l.Stop()
	if said := r.finish(); !strings.Contains(said, "processes left behind") || !strings.Contains(said, holderArg) {
		t.Errorf("said %q", said)
	}
	Wait(t, func() bool { return len(l.Processes()) == 0 }, "the end of what was left")
}

func TestFreePortsDifferAndAreFree(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		port := FreePort(t)
		if seen[port] || Listening(t, port) {
			t.Errorf("%d again, or listened on", port)
		}
		seen[port] = true
	}
}

func TestAPortThatIsTakenOrPromisedIsNotFree(t *testing.T) {
	port := FreePort(t)
	if reserve(t, port) {
		t.Error("promised twice")
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if reserve(t, l.Addr().(*net.TCPAddr).Port) {
		t.Error("taken, and promised")
	}
}

func TestWaitFailsWhenWhatItWaitsForDoesNotCome(t *testing.T) {
	if poll(0, func() bool { return false }) {
		t.Error("came")
	}
	n := 0
	Wait(t, func() bool { n++; return n == 4 }, "the fourth look")
}

func TestEventsAreReadAsTheyWerePrinted(t *testing.T) {
	l := newLauncher(t, "/bin/sh", "-c", `echo '{"event":"ready","pid":12345678,"generation":2}'; echo text >&2; exit 3`)
	l.Start()
	line := l.WaitEvent(0, "ready", "pid", 12345678, "generation", 2)
	if !line.Stdout || line.Event()["event"] != "ready" {
		t.Errorf("%+v", line)
	}
	if text := l.WaitLog("^text$"); text.Stdout || text.Event() != nil {
		t.Errorf("%+v", text)
	}
	if code := l.Wait(); code != 3 {
		t.Errorf("exit code %d", code)
	}
}

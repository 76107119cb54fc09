package testkit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// envRun marks everything that a Launcher started, however deep, so that what is
// left of it is found without guessing by names.
const envRun = "BATON_TESTKIT_RUN"

var launchers atomic.Int64

// Line is one line that baton or a worker printed.
type Line struct {
	At     time.Time
	Stdout bool // else stderr
	Text   string
	Index  int // among all lines of both streams, from 0

	event func() map[string]any // decodes once: who waits again and again looks at all lines
}

// Event is the line as JSON, nil when it is not an object; for reading only.
func (l Line) Event() map[string]any { return l.event() }

func newLine(stdout bool, text string, index int) Line {
	return Line{time.Now(), stdout, text, index, sync.OnceValue(func() map[string]any {
		var fields map[string]any
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber() // a pid as a float is not printed as a pid
		if decoder.Decode(&fields) != nil {
			return nil
		}
		return fields
	})}
}

// Launcher is the real baton as a process of the test.
type Launcher struct {
	// Cmd may be changed until Start: environment, directory, namespace.
	Cmd *exec.Cmd
	// StartBy starts Cmd, in another namespace for one; it is (*exec.Cmd).Start.
	StartBy func(*exec.Cmd) error
	// Home is its BATON_HOME, a directory of its own with a short path.
	Home string

	t      testing.TB
	marker string
	exited chan struct{} // closed when the process has been waited for
	err    error         // of that wait

	mu    sync.Mutex
	lines []Line
	grown chan struct{} // closed and replaced whenever a line comes
}

// Baton starts the real binary with these arguments and fails the test when
// that is not possible, or when any process of it is left at the end.
func Baton(t testing.TB, args ...string) *Launcher {
	t.Helper()
	l := NewBaton(t, args...)
	l.Start()
	return l
}

// StartBaton is Baton with a binary that the test has built itself.
func StartBaton(t testing.TB, path string, args ...string) *Launcher {
	t.Helper()
	l := newLauncher(t, path, args...)
	l.Start()
	return l
}

// NewBaton is Baton without the start.
func NewBaton(t testing.TB, args ...string) *Launcher {
	t.Helper()
	return newLauncher(t, Binary(t), args...)
}

// NewTarget is the target as a process of the test, with no baton above it: its
// sockets are what "listen=" says.
func NewTarget(t testing.TB, behaviours ...string) *Launcher {
	t.Helper()
	target := Target(behaviours...)
	return newLauncher(t, target[0], target[1:]...)
}

func newLauncher(t testing.TB, path string, args ...string) *Launcher {
	t.Helper()
	home, err := os.MkdirTemp("", "bt") // t.TempDir is too long for a unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	l := &Launcher{Cmd: exec.Command(path, args...), StartBy: (*exec.Cmd).Start, Home: home, t: t,
		marker: fmt.Sprintf("%s=%d-%d", envRun, os.Getpid(), launchers.Add(1)),
		exited: make(chan struct{}), grown: make(chan struct{})}
	// The race detector of baton and its workers would linger for 1 s on exit.
	l.Cmd.Env = append(os.Environ(), "BATON_HOME="+home, l.marker, "GORACE=atexit_sleep_ms=10")
	// A process group of its own: a terminal's ^C is for the test alone.
	l.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return l
}

// Start starts what NewBaton made.
func (l *Launcher) Start() {
	l.t.Helper()
	// Bare pipes, and not exec's: its Wait would wait for grandchildren as well.
	var ours, theirs [2]*os.File
	for i := range ours {
		var err error
		if ours[i], theirs[i], err = os.Pipe(); err != nil {
			l.t.Fatal(err)
		}
	}
	l.Cmd.Stdout, l.Cmd.Stderr = theirs[0], theirs[1]
	err := l.StartBy(l.Cmd)
	for i := range ours {
		_ = theirs[i].Close() // the child has its own
		if err == nil {
			go l.read(ours[i], i == 0) // ends when the last holder of the pipe has closed it
		} else {
			_ = ours[i].Close()
		}
	}
	if err != nil {
		l.t.Fatal(err)
	}
	go func() { // ends with the process
		l.err = l.Cmd.Wait()
		close(l.exited)
	}()
	l.t.Cleanup(l.cleanup)
}

func (l *Launcher) read(from *os.File, stdout bool) {
	defer from.Close()
	lines := bufio.NewReader(from)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			l.mu.Lock()
			l.lines = append(l.lines, newLine(stdout, strings.TrimSuffix(text, "\n"), len(l.lines)))
			close(l.grown)
			l.grown = make(chan struct{})
			l.mu.Unlock()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				l.t.Errorf("reading what baton prints: %v", err)
			}
			return
		}
	}
}

// PID of the launcher.
func (l *Launcher) PID() int { return l.Cmd.Process.Pid }

// Children are the pids of the processes that the launcher started itself.
func (l *Launcher) Children() []int { return Children(l.PID()) }

// Processes are the pids and command lines of all that is left of what Start
// started, the launcher included.
func (l *Launcher) Processes() map[int]string { return marked(l.marker) }

// Lines is all that was printed so far.
func (l *Launcher) Lines() []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// Log is Lines as text.
func (l *Launcher) Log() string {
	var b strings.Builder
	for _, line := range l.Lines() {
		fmt.Fprintf(&b, "%s %s\n", line.At.Format("05.000000"), line.Text)
	}
	return b.String()
}

// Next is the index that the next line will have: a place to wait from.
func (l *Launcher) Next() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// WaitLog waits until a line matches a regular expression, or has already, and
// returns the first. The test fails when baton ends without one.
func (l *Launcher) WaitLog(pattern string) Line { l.t.Helper(); return l.WaitLogFrom(0, pattern) }

// WaitLogFrom is WaitLog among the lines from an index on.
func (l *Launcher) WaitLogFrom(from int, pattern string) Line {
	l.t.Helper()
	match := regexp.MustCompile(pattern)
	return l.WaitLine(from, "a line that matches "+pattern, func(line Line) bool { return match.MatchString(line.Text) })
}

// WaitEvent waits for a JSON line from an index on whose "event" is kind and
// whose other fields are these: pairs of name and value, the value as fmt.Sprint
// writes what JSON decoding gives.
func (l *Launcher) WaitEvent(from int, kind string, pairs ...any) Line {
	l.t.Helper()
	return l.WaitLine(from, fmt.Sprintf("an event %s with %v", kind, pairs), func(line Line) bool {
		fields := line.Event()
		if fields["event"] != kind {
			return false
		}
		for i := 0; i < len(pairs); i += 2 {
			if fmt.Sprint(fields[pairs[i].(string)]) != fmt.Sprint(pairs[i+1]) {
				return false
			}
		}
		return true
	})
}

// WaitLine waits until a line from an index on satisfies ok and returns the
// first; what completes "waiting for".
func (l *Launcher) WaitLine(from int, what string, ok func(Line) bool) Line {
	l.t.Helper()
	limit := time.After(patience)
	exited := l.exited
	for {
		l.mu.Lock()
		grown, fresh := l.grown, l.lines[min(from, len(l.lines)):]
		l.mu.Unlock()
		for _, line := range fresh {
			if ok(line) {
				return line
			}
		}
		from += len(fresh)
		select {
		case <-grown:
		case <-exited:
			exited = nil
			limit = time.After(time.Second) // what is still in the pipe
		case <-limit:
			l.t.Fatalf("waiting for %s: not printed; printed was:\n%s", what, l.Log())
		}
	}
}

// Signal sends a signal to the launcher alone.
func (l *Launcher) Signal(s syscall.Signal) {
	l.t.Helper()
	if err := l.Cmd.Process.Signal(s); err != nil {
		l.t.Fatalf("%v to baton: %v; printed was:\n%s", s, err, l.Log())
	}
}

// HUP asks for a swap.
func (l *Launcher) HUP() { l.t.Helper(); l.Signal(syscall.SIGHUP) }

// Exited is closed when the launcher has ended.
func (l *Launcher) Exited() <-chan struct{} { return l.exited }

// Wait waits until the launcher has ended and returns its exit code, or -1 when
// a signal ended it.
func (l *Launcher) Wait() int {
	l.t.Helper()
	select {
	case <-l.exited:
		return l.Cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		l.t.Fatalf("waiting for baton to end: not within %v; printed was:\n%s", patience, l.Log())
		return -1
	}
}

// Stop sends TERM and waits; the test fails when the exit code is not 0.
func (l *Launcher) Stop() {
	l.t.Helper()
	l.Signal(syscall.SIGTERM)
	if code := l.Wait(); code != 0 {
		l.t.Errorf("exit code %d after TERM (%v); printed was:\n%s", code, l.err, l.Log())
	}
}

// KillLeftovers ends what is left of a launcher that the test itself killed, and
// returns how many processes that were.
func (l *Launcher) KillLeftovers() int {
	left := l.Processes()
	for pid := range left {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may just have ended by itself
	}
	return len(left)
}

// cleanup stops baton when the test did not, and fails the test for what is left.
func (l *Launcher) cleanup() {
	select {
	case <-l.exited:
	default:
		_ = l.Cmd.Process.Signal(syscall.SIGTERM) // it may just have ended by itself
		if !poll(patience, func() bool { return isClosed(l.exited) }) {
			l.t.Errorf("baton did not end on TERM within %v", patience)
			_ = l.Cmd.Process.Kill() // likewise
			<-l.exited
		}
	}
	if !poll(settle, func() bool { return len(l.Processes()) == 0 }) {
		l.t.Errorf("processes left behind: %v", l.Processes())
		l.KillLeftovers()
	}
	if l.t.Failed() {
		l.t.Logf("baton printed:\n%s", l.Log())
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

package hooks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"baton/internal/event"
	"baton/internal/process"
	"baton/internal/testkit"
)

func TestMain(m *testing.M) {
	process.Main() // commands are run through the shim
	os.Exit(m.Run())
}

// book is a log that can be read while it is written.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// line is one line of the log.
type line struct {
	Level, Msg, On, Command, Output string

	Ready, Crash int // dropped
}

func (b *book) lines(t *testing.T) []line {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []line
	for dec := json.NewDecoder(bytes.NewReader(b.text.Bytes())); dec.More(); {
		var l line
		if err := dec.Decode(&l); err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// open makes hooks that are closed with the test, if it has not done so.
func open(t *testing.T, c Config) (*Hooks, *book) {
	t.Helper()
	testkit.Leaks(t)
	b := &book{}
	h := New(Options{Name: "shop", Config: c, Env: os.Environ(),
		Log: slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	t.Cleanup(h.Close)
	return h, b
}

// sh is a command that runs a script with arguments.
func sh(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "sh"}, args...)
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

// gone waits for the end of the process whose pid is the file's first line.
func gone(t *testing.T, file string) {
	t.Helper()
	pid := strings.TrimSpace(read(t, file))
	if pid == "" {
		t.Fatalf("no pid in %s", file)
	}
	testkit.Wait(t, func() bool {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		return err != nil || bytes.Contains(b, []byte(") Z "))
	}, "the end of "+pid)
}

func TestEachEventHasItsHook(t *testing.T) {
	file := filepath.Join(t.TempDir(), "said")
	note := func(which string) []string {
		return sh(`echo "$1 $BATON_HOOK $BATON_EVENT" >>"$2"`, which, file)
	}
	h, _ := open(t, Config{Ready: note("ready"), Swap: note("swap"), Rollback: note("rollback"), Crash: note("crash"), Stuck: note("stuck")})
	for _, k := range []event.Kind{
		event.ListenerOpened, event.ListenerClosed, event.Requested, event.Superseded, event.Refused, event.Starting,
		event.Started, event.Ready, event.Serving, event.Standby, event.RolledBack, event.Draining, event.Signalled,
		event.Killed, event.Crashed, event.Restarting, event.Emptying, event.Abandoned, event.Exited, event.Gone,
		event.Finding, event.Status, event.Canary, event.Stuck, event.Unhealthy, event.Replacing, event.Scaled,
		event.CrashLoop, event.Reverting, event.LeftStopped, event.Stopping, event.Stopped,
	} {
		h.Observe(event.Event{Kind: k})
	}
	h.Close()
	got := strings.Split(strings.TrimSpace(read(t, file)), "\n")
	slices.Sort(got) // several run at once
	want := []string{"crash crash crash-loop", "crash crash crashed", "ready ready ready", "rollback rollback reverting",
		"rollback rollback rolledback", "stuck stuck stuck", "stuck stuck unhealthy", "swap swap serving"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// sample has every field that a command can see.
func sample() event.Event {
	return event.Event{
		Time: time.Date(2030, 4, 5, 6, 7, 8, 9, time.UTC), Kind: event.Crashed, Message: "a worker of generation 7 was lost",
		Generation: 7, Worker: 12, Slot: 2, PID: 4711, Reason: "exit status 3", Delay: time.Second, Tail: []string{"one", "t\x00wo"},
	}
}

func TestACommandIsToldTheEventTwice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "said")
	t.Setenv("BATON_REASON", "left over")
	t.Setenv("KEPT", "yes")
	h, b := open(t, Config{Crash: sh(`{ cat; set -u; printf '%s|' "$KEPT" "$BATON_HOOK" "$BATON_EVENT" "$BATON_NAME" "$BATON_GENERATION" \
		"$BATON_SERIAL" "$BATON_PID" "$BATON_REASON" "$BATON_MESSAGE" "$BATON_TIME"; } >>"$1"; echo >>"$1"`, file)})
	h.Observe(sample())
	testkit.Wait(t, func() bool { return len(b.lines(t)) == 1 }, "the first command")
	h.Observe(event.Event{Kind: event.Crashed})
	h.Close()
	said := strings.Split(read(t, file), "\n")
	if len(said) != 5 {
		t.Fatalf("said %q, log %+v", said, b.lines(t))
	}
	want := []string{
		"yes|crash|crashed|shop|7|12|4711|exit status 3|a worker of generation 7 was lost|2030-04-05T06:07:08Z|",
		"yes|crash|crashed|shop||||||0001-01-01T00:00:00Z|",
	}
	if diff := cmp.Diff(want, []string{said[1], said[3]}); diff != "" {
		t.Error(diff)
	}
	var got told
	if err := json.Unmarshal([]byte(said[0]), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(told{"crash", "shop", sample()}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAWorkersWordsAreOneLineOfOneVariable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "said")
	h, b := open(t, Config{Crash: sh(`{ printf '%s\n' "$BATON_REASON" "$BATON_MESSAGE" "${INJECTED-none}"; } >"$1"`, file)})
	e := sample()
	e.Reason = "a\x00INJECTED=1\x00\r\nBcc: all@example.org\xff\u0085z"
	e.Message = strings.Repeat("ü", 200<<10)
	h.Observe(e)
	h.Close()
	said := strings.Split(read(t, file), "\n")
	if len(said) != 4 || said[0] != "a INJECTED=1   Bcc: all@example.org? z" || said[2] != "none" {
		t.Errorf("the command saw %.200q; log: %+v", said, b.lines(t))
	} else if m := said[1]; !strings.HasPrefix(m, "üü") || !strings.HasSuffix(m, "ü…") || len(m) > longest || len(m) < longest-4 {
		t.Errorf("a long message became %d bytes: %q", len(m), m)
	}
}

func TestACommandGetsNoDescriptorOfTheLaunchers(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// A socket that somebody forgot to close on exec.
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	if f.Fd() > 100 {
		t.Fatalf("descriptor %d is beyond what the command looks at", f.Fd())
	}
	h, b := open(t, Config{Swap: sh(`for n in $(seq 0 100); do if [ -e /proc/$$/fd/$n ]; then printf "$n "; fi; done`)})
	h.Observe(event.Event{Kind: event.Serving})
	h.Close()
	if got := b.lines(t); len(got) != 1 || got[0].Output != "0 1 2" {
		t.Errorf("open in the command: %+v", got)
	}
}

func TestACommandGetsNoVariableThatIsNotGiven(t *testing.T) {
	testkit.Leaks(t)
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	b := &book{}
	h := New(Options{Config: Config{Crash: []string{"env"}}, Log: slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	h.Observe(event.Event{Kind: event.Crashed})
	h.Close()
	got := b.lines(t)
	if len(got) != 1 {
		t.Fatalf("the log says %+v", got)
	}
	for kv := range strings.Lines(got[0].Output) {
		if !strings.HasPrefix(kv, "BATON_") {
			t.Errorf("the command has %q", kv)
		}
	}
}

func TestWhatACommandSaysIsInTheLog(t *testing.T) {
	for _, c := range []struct {
		name string
		argv []string
		want line
	}{
		{"it is quiet", []string{"true"}, line{Level: "DEBUG", Msg: "hook crash is done"}},
		{"it speaks", sh("echo one; echo two >&2"), line{Level: "DEBUG", Msg: "hook crash is done", Output: "one\ntwo"}},
		{"it fails", sh("echo why; exit 3"), line{Level: "WARN", Msg: "hook crash failed: exit status 3: why"}},
		{"it fails at length", sh("echo one; echo why; exit 3"), line{Level: "WARN", Msg: "hook crash failed: exit status 3: why", Output: "one\nwhy"}},
		{"it is missing", []string{"/no/such"}, line{Level: "WARN", Msg: "hook crash failed: exec /no/such: no such file or directory"}},
		{"it takes too long", sh("echo begun; exec sleep 600"), line{Level: "WARN", Msg: "hook crash failed: not done within 1s", Output: "begun"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, b := open(t, Config{Crash: c.argv, Timeout: time.Second})
			h.Observe(event.Event{Kind: event.Crashed})
			testkit.Wait(t, func() bool { return len(b.lines(t)) > 0 }, "a line in the log")
			c.want.On, c.want.Command = "crashed", c.argv[0]
			if diff := cmp.Diff([]line{c.want}, b.lines(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestACommandThatTakesTooLongEndsWithItsGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	h, b := open(t, Config{Crash: sh(`trap '' TERM; sleep 600 & echo $! >"$1"; wait`, file), Timeout: time.Second})
	h.Observe(event.Event{Kind: event.Crashed})
	testkit.Wait(t, func() bool { return len(b.lines(t)) > 0 }, "the command's end")
	gone(t, file)
}

// crowd has as many commands run as may, and as many events wait; each command adds a
// line to began, and ends when the file go is there.
func crowd(t *testing.T, timeout time.Duration) (h *Hooks, b *book, began, goAhead string) {
	t.Helper()
	dir := t.TempDir()
	began, goAhead = filepath.Join(dir, "began"), filepath.Join(dir, "go")
	argv := sh(`echo $$ >>"$1"; until [ -e "$2" ]; do sleep 0.01; done`, began, goAhead)
	h, b = open(t, Config{Crash: argv, Ready: argv, Timeout: timeout})
	for range atOnce {
		h.Observe(event.Event{Kind: event.Crashed})
	}
	testkit.Wait(t, func() bool { return strings.Count(read(t, began), "\n") == atOnce }, "the first commands")
	begin := time.Now()
	for range waiting {
		h.Observe(event.Event{Kind: event.Crashed})
	}
	for range 20 {
		h.Observe(event.Event{Kind: event.Ready})
	}
	for range 11 {
		h.Observe(event.Event{Kind: event.Crashed})
	}
	if took := time.Since(begin); took > time.Second { // nobody has ended one
		t.Errorf("Observe took %v for %d events", took, waiting+31)
	}
	return h, b, began, goAhead
}

func TestEventsBeyondTheQueueAreCountedAndSaid(t *testing.T) {
	h, b, began, goAhead := crowd(t, time.Minute)
	if n := strings.Count(read(t, began), "\n"); n != atOnce {
		t.Errorf("%d commands at once, want %d", n, atOnce)
	}
	if err := os.WriteFile(goAhead, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { return strings.Count(read(t, began), "\n") == atOnce+waiting }, "those that waited")
	h.Close()
	var warned []line
	for _, l := range b.lines(t) {
		if l.Level == "WARN" {
			warned = append(warned, l)
		}
	}
	want := []line{{Level: "WARN", Msg: "hooks were not run for 31 events: their commands took too long", Ready: 20, Crash: 11}}
	if diff := cmp.Diff(want, warned); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(read(t, began), "\n"); n != atOnce+waiting {
		t.Errorf("%d commands in all, want %d", n, atOnce+waiting)
	}
}

func TestCloseEndsWhatRunsAndWhatWaits(t *testing.T) {
	h, b, began, _ := crowd(t, 2*time.Second)
	h.Set(Config{Crash: []string{"true"}, Timeout: 50 * time.Millisecond})
	begin := time.Now()
	h.Close()
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("Close took %v", took)
	}
	if n := strings.Count(read(t, began), "\n"); n != atOnce {
		t.Errorf("%d commands were begun, want %d", n, atOnce)
	}
	failed, dropped := 0, 0
	for _, l := range b.lines(t) {
		switch {
		case l.Msg == "hook crash failed: baton ends, and waited 50ms for it":
			failed++
		case strings.HasPrefix(l.Msg, "hooks were not run"):
			dropped += l.Ready + l.Crash
		default:
			t.Errorf("the log says %+v", l)
		}
	}
	if failed != atOnce || dropped != waiting+31 {
		t.Errorf("%d commands failed, %d events were dropped; want %d and %d", failed, dropped, atOnce, waiting+31)
	}
	said := len(b.lines(t))
	h.Observe(event.Event{Kind: event.Crashed})
	h.Close()
	if after := b.lines(t)[said:]; len(after) > 0 {
		t.Errorf("an event after the end was heard: %+v", after)
	}
}

func TestCloseLetsWhatRunsFinish(t *testing.T) {
	dir := t.TempDir()
	began, done := filepath.Join(dir, "began"), filepath.Join(dir, "done")
	h, _ := open(t, Config{Crash: sh(`: >"$1"; sleep 0.3; : >"$2"`, began, done)})
	h.Observe(event.Event{Kind: event.Crashed})
	testkit.Wait(t, func() bool { _, err := os.Stat(began); return err == nil }, "the command")
	h.Close()
	if _, err := os.Stat(done); err != nil {
		t.Errorf("the command was not waited for: %v", err)
	}
}

func TestADaemonThatHoldsTheOutputIsNotWaitedFor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	h, b := open(t, Config{Crash: sh(`setsid sh -c 'echo $$ >"$1.new"; mv "$1.new" "$1"; exec sleep 600' sh "$1" &
		until [ -e "$1" ]; do sleep 0.01; done; echo left`, file), Timeout: time.Minute})
	begin := time.Now()
	h.Observe(event.Event{Kind: event.Crashed})
	h.Close()
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := b.lines(t); len(got) != 1 || got[0].Output != "left" {
		t.Errorf("the log says %+v", got)
	}
	var pid int
	if _, err := fmt.Sscan(read(t, file), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the daemon: %v", err)
	}
	gone(t, file)
}

func TestSetIsForTheEventsFromThenOn(t *testing.T) {
	h, b, began, goAhead := crowd(t, time.Minute)
	h.Set(Config{Crash: []string{"/no/such"}})
	if err := os.WriteFile(goAhead, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { return strings.Count(read(t, began), "\n") == atOnce+waiting }, "those that waited")
	h.Observe(event.Event{Kind: event.Crashed})
	h.Observe(event.Event{Kind: event.Ready})
	h.Close()
	failed := 0
	for _, l := range b.lines(t) {
		if strings.HasPrefix(l.Msg, "hook crash failed: exec /no/such") {
			failed++
		}
	}
	if n := strings.Count(read(t, began), "\n"); failed != 1 || n != atOnce+waiting {
		t.Errorf("the new command ran %d times, the old one %d times; want 1 and %d", failed, n, atOnce+waiting)
	}
}

func TestHurryEndsTheWaitOfClose(t *testing.T) {
	began := filepath.Join(t.TempDir(), "began")
	h, b := open(t, Config{Crash: sh(`echo $$ >"$1.new"; mv "$1.new" "$1"; exec sleep 600`, began), Timeout: time.Hour})
	h.Observe(event.Event{Kind: event.Crashed})
	testkit.Wait(t, func() bool { return read(t, began) != "" }, "the command")
	closed := make(chan struct{})
	go func() { // ends with the hooks
		h.Close()
		close(closed)
	}()
	h.Hurry()
	h.Hurry()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Fatal("it still waits")
	}
	gone(t, began)
	if l := b.lines(t); len(l) != 1 || l[0].Msg != "hook crash failed: baton ends now" {
		t.Errorf("the log says %+v", l)
	}
}

package launcher

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/health"
	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/logs"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
	"baton/internal/testkit"
)

func TestMain(m *testing.M) {
	process.Main()
	testkit.Main()
	os.Exit(m.Run())
}

// running is a real Supervisor, adapted.
type running struct {
	*controlled
	done chan error // Run's

	mu   sync.Mutex
	exec []string
	err  error
}

func (r *running) load() (*handoff.Plan, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &handoff.Plan{
		Command: process.Command{Exec: r.exec, Base: append(protocol.Scrub(os.Environ()), "GORACE=atexit_sleep_ms=0")},
		Listeners: []handoff.ListenerPlan{{
			Address: socket.Address{Network: "tcp", Host: "127.0.0.1"}, Options: socket.Options{Name: "web", UID: -1, GID: -1},
		}},
		Ready: health.Auto, DrainSignals: []syscall.Signal{syscall.SIGTERM}, HandshakeWait: time.Second,
		Policy: machine.Policy{Workers: 1, ReadyTimeout: 20 * time.Second, DrainTimeout: 10 * time.Second,
			MaxDraining: 8, BackoffMin: 10 * time.Millisecond, BackoffMax: time.Second, ResetAfter: 10 * time.Second},
	}, r.err
}

func (r *running) next(exec []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exec, r.err = exec, err
}

func supervise(t *testing.T) *running {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := logs.NewPassthrough(null, null)
	r := &running{done: make(chan error, 1), exec: testkit.Target()}
	s := handoff.New(handoff.Options{
		Name: "test", Load: r.load,
		Output: func(int, int) (handoff.Output, error) {
			o, err := out.Open()
			return piped{o}, err
		},
		Observe: func(e event.Event) { r.observe(e) },
	})
	r.controlled = newControlled(s)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with Run
		r.done <- s.Run(ctx)
		r.end()
	}()
	t.Cleanup(func() {
		cancel()
		<-r.Ended()
		out.Close()
		if err := null.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// verdict of what was asked for.
func (r *running) verdict(t *testing.T, ask func(func(event.Verdict))) event.Verdict {
	t.Helper()
	c := make(chan event.Verdict, 1)
	ask(func(v event.Verdict) { c <- v })
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatal("no verdict")
		return event.Verdict{}
	}
}

func (r *running) reload(done func(event.Verdict)) { r.Reload(0, done) }

func TestTheEngineAnswersForTheControlSocket(t *testing.T) {
	testkit.Leaks(t)
	r := supervise(t)
	testkit.Wait(t, func() bool { return r.Report().Verdict == "swapped" }, "the first generation")
	if v := r.verdict(t, r.reload); v.Outcome != control.Swapped || v.Generation != 2 {
		t.Errorf("verdict %+v", v)
	}
	r.next(testkit.Target("exit=7", "words=no_licence"), nil)
	if v := r.verdict(t, r.reload); v.Outcome != control.RolledBack || v.Generation != 3 || v.Reason != "exit status 7" ||
		len(v.Tail) == 0 || !strings.Contains(v.Tail[len(v.Tail)-1], "no_licence") {
		t.Errorf("verdict %+v", v)
	}
	r.next(nil, errors.New("baton.toml:1:1: wrong"))
	if v := r.verdict(t, r.reload); v.Outcome != control.Refused || v.Reason != "baton.toml:1:1: wrong" || v.Tail != nil {
		t.Errorf("verdict %+v", v)
	}
	report := r.Report()
	if !strings.HasPrefix(report.Verdict, "refused") || !slices.ContainsFunc(report.Generations, func(g event.Generation) bool {
		return g.Number == 2 && g.Phase == "serving"
	}) {
		t.Errorf("report %+v", report)
	}
	select {
	case <-r.Ended():
		t.Error("ended before the stop")
	default:
	}
	r.Stop()
	<-r.Ended()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	if r.Report() != nil {
		t.Error("there is a report after the end")
	}
	r.Stop() // none of these waits
	r.End()
	r.Reload(0, func(event.Verdict) { t.Error("a verdict after the end") })
}

func TestTheEngineEndsNow(t *testing.T) {
	testkit.Leaks(t)
	r := supervise(t)
	testkit.Wait(t, func() bool { return r.Report().Verdict == "swapped" }, "the first generation")
	r.next(testkit.Target("ready=never"), nil)
	got := make(chan event.Verdict, 1)
	r.reload(func(v event.Verdict) { got <- v })
	testkit.Wait(t, func() bool { return len(r.Report().Generations) == 2 }, "the newcomer")
	r.End()
	<-r.Ended()
	if v := <-got; v.Outcome != control.Stopped {
		t.Errorf("verdict %+v", v)
	}
}

// answers is supervision that answers as it is told to, for as long as the engine has
// none of its own; its answers come from a goroutine of the engine's, as those will.
type answers struct {
	post chan func() // nil: no answer comes
	err  error
}

func (a answers) do(f func()) {
	if a.post != nil {
		a.post <- f
	}
}

func (a answers) ReloadIf(n int, done func(handoff.Verdict)) {
	a.do(func() { done(handoff.Verdict{Outcome: machine.Superseded, Generation: n}) })
}

func (a answers) Rollback(done func(handoff.Verdict)) {
	a.do(func() { done(handoff.Verdict{Outcome: machine.Swapped, Generation: 9}) })
}

// What is not asked here.
func (a answers) Report() *event.Report        { return nil }
func (a answers) Glance() *event.Report        { return nil }
func (a answers) Reload(func(handoff.Verdict)) {}
func (a answers) Stop()                        {}
func (a answers) End()                         {}

func (a answers) Promote(_ bool, answer func(error)) { a.do(func() { answer(a.err) }) }
func (a answers) Abort(answer func(error))           { a.do(func() { answer(a.err) }) }

func (a answers) Scale(n int, _ bool, answer func(int, error)) {
	a.do(func() { answer(n, a.err) })
}

func TestAnswersAreWaitedFor(t *testing.T) {
	testkit.Leaks(t)
	post := make(chan func())
	go func() { // ends with the test
		for f := range post {
			f()
		}
	}()
	defer close(post)
	c := &controlled{engine: answers{post: post}, ended: make(chan struct{})}
	if n, err := c.Scale(4, false); n != 4 || err != nil {
		t.Errorf("scale: %d, %v", n, err)
	}
	if err := errors.Join(c.Promote(true), c.Abort()); err != nil {
		t.Error(err)
	}
	v := make(chan event.Verdict, 2)
	c.Reload(7, func(got event.Verdict) { v <- got })
	if got := <-v; got.Outcome != control.Superseded || got.Generation != 7 {
		t.Errorf("reload: %+v", got)
	}
	c.Rollback(func(got event.Verdict) { v <- got })
	if got := <-v; got.Outcome != control.Swapped || got.Generation != 9 {
		t.Errorf("rollback: %+v", got)
	}
	none := errors.New("there is no canary")
	c.engine = answers{post: post, err: none}
	if n, err := c.Scale(4, false); n != 0 || !errors.Is(err, none) || !errors.Is(c.Promote(false), none) || !errors.Is(c.Abort(), none) {
		t.Errorf("scale: %d, %v", n, err)
	}
	// An engine that ends first never answers.
	c.engine = answers{}
	time.AfterFunc(10*time.Millisecond, c.end)
	if err := c.Promote(false); err == nil || err.Error() != "the launcher has ended" {
		t.Errorf("promote: %v", err)
	}
}

// Without a directory baton runs, and says once that there is no control socket;
// when somebody has the name it does not.
func TestTakingTheName(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, home := range []func() (string, error){
		func() (string, error) { return filepath.Join(file, "run"), nil },
		func() (string, error) { return "", errors.New("nobody says where") },
	} {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		c, err := take(Options{Home: home}, "web", logger)
		if err != nil {
			t.Fatal(err)
		}
		c.serve(&controlled{ended: make(chan struct{})}, control.Options{Log: logger})
		c.leave(logger)
		if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, `level=WARN msg="no control socket: `) {
			t.Errorf("the log has %q", text)
		}
	}
	first, err := take(Options{Home: func() (string, error) { return dir, nil }}, "web", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var taken *control.TakenError
	if _, err := take(Options{Home: func() (string, error) { return dir, nil }}, "web", slog.New(slog.DiscardHandler)); !errors.As(err, &taken) {
		t.Errorf("taken twice: %v", err)
	}
	first.leave(slog.New(slog.DiscardHandler))
}

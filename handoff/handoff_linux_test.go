package handoff_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/health"
	"baton/internal/event"
	"baton/internal/keep"
	"baton/internal/logs"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
	"baton/internal/testkit"
)

func TestMain(m *testing.M) {
	process.Main()
	testkit.Main()
	if os.Getenv(launcherWord) != "" {
		launcherMain()
	}
	os.Exit(m.Run())
}

// engine is a Supervisor in this process, with real sockets and workers.
type engine struct {
	*handoff.Supervisor
	t     testing.TB
	ended chan error
	keeps atomic.Int64 // how often there was something to keep

	mu     sync.Mutex
	plan   *handoff.Plan
	err    error
	full   error         // when not nil, why no output can be opened
	hang   chan struct{} // when not nil, load waits for it
	events []event.Event
}

func start(t *testing.T, behaviours ...string) *engine {
	t.Helper()
	return startAs(t, func(*handoff.Plan) {}, behaviours...)
}

// startAs is start with a plan that differs.
func startAs(t testing.TB, differ func(*handoff.Plan), behaviours ...string) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "h") // short, for the unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, ended: make(chan error, 1), plan: planIn(dir, behaviours...)}
	differ(e.plan)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := logs.NewPassthrough(null, null)
	e.Supervisor = handoff.New(handoff.Options{
		Name:    "test",
		Load:    e.load,
		Output:  func(int, int) (handoff.Output, error) { return e.output(out) },
		Observe: e.observe,
		Keep:    func(handoff.State, *keep.Files) { e.keeps.Add(1) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with Run
		e.ended <- e.Run(ctx)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		out.Close()
		if err := errors.Join(null.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, ev := range e.events { // nobody adds any more
				t.Log(ev.Time.Format("05.000"), ev.Message)
			}
		}
	})
	return e
}

// planIn is one of the target, with a port and a path in the directory.
func planIn(dir string, behaviours ...string) *handoff.Plan {
	// Without GORACE a worker takes a second to end under the race detector.
	return &handoff.Plan{
		Command: process.Command{Exec: testkit.Target(behaviours...), Base: append(protocol.Scrub(os.Environ()), "GORACE=atexit_sleep_ms=0")},
		Listeners: []handoff.ListenerPlan{
			{Address: socket.Address{Network: "tcp", Host: "127.0.0.1"}, Options: socket.Options{Name: "web", UID: -1, GID: -1}},
			{Address: socket.Address{Network: "unix", Path: filepath.Join(dir, "s")}, Options: socket.Options{Name: "file", UID: -1, GID: -1}},
		},
		Ready: health.Auto, DrainSignals: []syscall.Signal{syscall.SIGTERM}, HandshakeWait: 3 * time.Second,
		Policy: machine.Policy{Workers: 1, ReadyTimeout: 10 * time.Second, DrainTimeout: 10 * time.Second,
			MaxDraining: 8, BackoffMin: 10 * time.Millisecond, BackoffMax: time.Second, ResetAfter: 10 * time.Second},
	}
}

func (e *engine) load() (*handoff.Plan, error) {
	e.mu.Lock()
	plan, err, hang := *e.plan, e.err, e.hang
	e.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return &plan, err
}

func (e *engine) output(out *logs.Passthrough) (handoff.Output, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.full != nil {
		return nil, e.full
	}
	o, err := out.Open()
	return piped{o}, err
}

// piped is what the launcher makes of an output.
type piped struct{ *logs.Output }

func (p piped) Keep(prefix string, f *keep.Files) any { return p.Output.Keep(prefix, f) }

func (e *engine) observe(ev event.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, ev)
}

// wait until an event of the kind has been seen for the generation.
func (e *engine) wait(kind event.Kind, generation int) {
	e.t.Helper()
	testkit.Wait(e.t, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, ev := range e.events {
			if ev.Kind == kind && ev.Generation == generation {
				return true
			}
		}
		return false
	}, string(kind))
}

// reload swaps and returns the verdict.
func (e *engine) reload() handoff.Verdict {
	e.t.Helper()
	verdict := make(chan handoff.Verdict, 1)
	e.Reload(func(v handoff.Verdict) { verdict <- v })
	select {
	case v := <-verdict:
		return v
	case <-time.After(30 * time.Second):
		e.t.Fatal("no verdict")
		return handoff.Verdict{}
	}
}

func (e *engine) stop() {
	e.t.Helper()
	e.Stop()
	select {
	case err := <-e.ended:
		if err != nil {
			e.t.Error(err)
		}
	case <-time.After(30 * time.Second):
		e.t.Fatal("Run did not return after Stop")
	}
}

// A swap needs goroutines and descriptors while it lasts and none afterwards.
func TestSwapsLeaveNoGoroutineAndNoDescriptor(t *testing.T) {
	testkit.Leaks(t)
	e := start(t)
	e.wait(event.Serving, 1)
	swap := func(n int) {
		t.Helper()
		if v := e.reload(); v.Outcome != machine.Swapped || v.Generation != n {
			t.Fatalf("verdict %+v on generation %d", v, n)
		}
		e.wait(event.Gone, n-1)
	}
	for n := 2; n < 10; n++ {
		swap(n)
	}
	goroutines, descriptors := runtime.NumGoroutine(), testkit.Descriptors(os.Getpid())
	for n := 10; n < 60; n++ {
		swap(n)
	}
	testkit.Wait(t, func() bool {
		return runtime.NumGoroutine() <= goroutines && testkit.Descriptors(os.Getpid()) <= descriptors
	}, "goroutines and descriptors to be as many as before")
	e.stop()
}

func TestTheReportTellsWhatThereIs(t *testing.T) {
	testkit.Leaks(t)
	e := start(t, "ready=notify")
	e.wait(event.Serving, 1)
	r := e.Report()
	if r.Name != "test" || r.PID != os.Getpid() || len(r.Listeners) != 2 || len(r.Generations) != 1 {
		t.Fatalf("%+v", r)
	}
	g := r.Generations[0]
	if g.Number != 1 || g.Phase != "serving" || len(g.Workers) != 1 || g.Workers[0].State != "ready" || g.Workers[0].PID == 0 {
		t.Errorf("%+v", g)
	}
	for _, l := range r.Listeners {
		if l.Mode != "steered" {
			t.Errorf("%+v", l)
		}
	}
	e.stop()
	if r := e.Report(); r != nil {
		t.Errorf("after the end there is still %+v", r)
	}
}

func TestEveryReloadGetsAVerdict(t *testing.T) {
	testkit.Leaks(t)
	e := start(t)
	e.wait(event.Serving, 1)

	e.mu.Lock()
	e.err = errors.New("line 3: what is this?")
	e.mu.Unlock()
	if v := e.reload(); v.Outcome != machine.Unfit || v.Reason != "line 3: what is this?" {
		t.Errorf("a bad configuration: %+v", v)
	}
	e.mu.Lock()
	e.err = nil
	e.plan.Command.Exec = testkit.Target("exit=3")
	e.mu.Unlock()
	if v := e.reload(); v.Outcome != machine.RolledBack || v.Reason != "exit status 3" {
		t.Errorf("a newcomer that exits: %+v", v)
	}
	e.mu.Lock()
	e.plan.Command.Exec = testkit.Target("ready=never")
	e.mu.Unlock()
	verdicts := make(chan handoff.Verdict, 3)
	for range 3 { // one starts and hangs, one is superseded, one is remembered
		e.Reload(func(v handoff.Verdict) { verdicts <- v })
	}
	if v := <-verdicts; v.Outcome != machine.Superseded {
		t.Errorf("the second of three: %+v", v)
	}
	e.Stop()
	for range 2 {
		if v := <-verdicts; v.Outcome != machine.Stopped {
			t.Errorf("at a stop: %+v", v)
		}
	}
	if err := <-e.ended; err != nil {
		t.Error(err)
	}
}

func TestRunReturnsWhyNothingServes(t *testing.T) {
	testkit.Leaks(t)
	e := start(t, "exit=3", "words=the disk is full")
	err := <-e.ended
	if !errors.Is(err, handoff.ErrNeverServed) {
		t.Fatalf("got %v", err)
	}
	if want := "nothing serves: exit status 3"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// Once the first generation has failed nothing is about to serve, though its worker may
// take its time to end.
func TestALauncherThatGivesUpIsStopping(t *testing.T) {
	testkit.Leaks(t)
	e := startAs(t, func(p *handoff.Plan) { p.Policy.ReadyTimeout = 300 * time.Millisecond }, "ready=never", "term=ignore")
	e.wait(event.Starting, 1)
	if r := e.Report(); r.State != event.StateStarting || r.Stopping {
		t.Errorf("before: %s, stopping: %t", r.State, r.Stopping)
	}
	e.wait(event.RolledBack, 1)
	if r := e.Report(); r.State != event.StateStopping || !r.Stopping {
		t.Errorf("after: %s, stopping: %t", r.State, r.Stopping)
	}
	said := make(chan error, 1)
	e.Scale(2, false, func(_ int, err error) { said <- err })
	if err := <-said; err == nil || err.Error() != "the launcher is stopping" {
		t.Errorf("scale: %v", err)
	}
	if v := e.reload(); v.Outcome != machine.Stopped {
		t.Errorf("reload: %+v", v)
	}
	e.End() // it does not end by itself
	if err := <-e.ended; !errors.Is(err, handoff.ErrNeverServed) {
		t.Errorf("got %v", err)
	}
}

// An end does not wait for a configuration that cannot be read.
func TestAnEndDoesNotWaitForAConfigurationThatHangs(t *testing.T) {
	testkit.Leaks(t)
	e := start(t)
	e.wait(event.Serving, 1)
	e.mu.Lock()
	e.hang = make(chan struct{})
	e.mu.Unlock()
	defer close(e.hang)
	verdict := make(chan handoff.Verdict, 1)
	e.Reload(func(v handoff.Verdict) { verdict <- v })
	e.End()
	if err := <-e.ended; err != nil {
		t.Error(err)
	}
	if v := <-verdict; v.Outcome != machine.Stopped {
		t.Errorf("%+v", v)
	}
}

package handoff_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/testkit"
)

// A launcher of these tests is this test binary again, so that it can really be killed, or
// become another program. It does what it is told on its standard input, tells on its
// standard output, line by line in JSON, and hands its descriptors to the test over a
// socket, as a service manager's store has them.

// launcherWord in the environment makes the test binary a launcher.
const launcherWord = "HANDOFF_TEST_LAUNCHER"

// order is what a launcher is told.
type order struct {
	Do    string // a verb of obey; "begin" and "resume" are the first
	When  string `json:",omitempty"` // of "die": a name of moments
	N     int    `json:",omitempty"`
	Plan  *handoff.Plan
	State json.RawMessage `json:",omitempty"` // of "resume"
	Names int             `json:",omitempty"` // likewise: how many descriptors come
	Store []string        `json:",omitempty"` // likewise, of the same process: what was told to be stored
}

// told is what a launcher tells; one of the fields is set.
type told struct {
	Event   *event.Event     `json:",omitempty"`
	State   json.RawMessage  `json:",omitempty"`
	Verdict *handoff.Verdict `json:",omitempty"`
	Answer  *answer          `json:",omitempty"`
	Ended   string           `json:",omitempty"` // how Run ended
}

// answer is that to an order.
type answer struct {
	Report *event.Report `json:",omitempty"`
	Error  string        `json:",omitempty"`
	Left   []string      `json:",omitempty"` // names of descriptors that Resume did not need
}

// moments at which a launcher dies: when the State that it has just told is so.
var moments = map[string]func(handoff.State) bool{
	"now":       func(handoff.State) bool { return true },
	"preparing": func(s handoff.State) bool { return s.Preparing != 0 },
	"executing": func(s handoff.State) bool {
		return slices.ContainsFunc(s.Workers, func(w handoff.WorkerState) bool { return !w.Running })
	},
	"orphan": func(s handoff.State) bool {
		return slices.ContainsFunc(s.Watches, func(w handoff.WatchState) bool { return w.Orphan })
	},
	"delay": func(s handoff.State) bool {
		return slices.ContainsFunc(s.Timers, func(t handoff.TimerState) bool { return t.Timer.Kind == machine.TimerDelay })
	},
	"canary": inPhase(machine.Canary), "standby": inPhase(machine.Standby),
}

func init() {
	for _, state := range []machine.State{
		machine.Waiting, machine.Coming, machine.Probing, machine.Ready, machine.Failed,
		machine.Quieting, machine.Idling, machine.Signalled, machine.Killed,
	} {
		moments[string(state)] = inState(state)
	}
}

func inPhase(phase machine.Phase) func(handoff.State) bool {
	return func(s handoff.State) bool {
		return slices.ContainsFunc(s.Rules.Generations, func(g machine.GenerationMemory) bool { return g.Phase == phase })
	}
}

// inState: a worker that runs, or waits, is in that state.
func inState(state machine.State) func(handoff.State) bool {
	return func(s handoff.State) bool {
		for _, g := range s.Rules.Generations {
			for _, w := range g.Workers {
				runs := slices.ContainsFunc(s.Workers, func(x handoff.WorkerState) bool { return x.ID == w.ID && x.Running })
				if w.State == state && (runs || state == machine.Waiting) {
					return true
				}
			}
		}
		return false
	}
}

// realm is an application whose launchers follow each other.
type realm struct {
	t    *testing.T
	dir  string
	plan handoff.Plan

	// Of the present launcher.
	cmd      *exec.Cmd
	orders   *json.Encoder
	in       io.Closer
	dead     chan struct{} // closed when all that it said was heard
	answers  chan *answer
	dying    bool // it was told when to die, and may be dead
	verdicts chan handoff.Verdict
	ended    chan string

	mu     sync.Mutex
	events []event.Event
	text   json.RawMessage // the last State
	store  map[string]int
}

// reign begins one with its first launcher.
func reign(t *testing.T, differ func(*handoff.Plan), behaviours ...string) *realm {
	t.Helper()
	testkit.Leaks(t)
	dir, err := os.MkdirTemp("", "h") // short, for the unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	r := &realm{t: t, dir: dir, plan: *planIn(dir, behaviours...), store: make(map[string]int)}
	r.plan.Command.Base = append(r.plan.Command.Base, r.mark())
	differ(&r.plan)
	t.Cleanup(r.end)
	r.start(order{Do: "begin", Plan: &r.plan})
	return r
}

// end leaves nothing, whatever became of it.
func (r *realm) end() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill() // it may have ended
		r.buried()
	}
	for _, pid := range r.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // likewise
	}
	for name := range r.store {
		r.forget(name)
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Error(err)
	}
	if r.t.Failed() {
		for _, e := range r.events {
			r.t.Log(e.Time.Format("05.000"), e.Message)
		}
	}
}

// mark is in the environment of every process of the application.
func (r *realm) mark() string { return "HANDOFF_TEST_REALM=" + r.dir }

// processes are all those of the application: also those of which no launcher knows.
func (r *realm) processes() (pids []int) {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(text), "\x00"), r.mark()) {
			continue // it has ended, or is another's
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// start starts a launcher and gives it its first order, with what lies in the store.
func (r *realm) start(first order) {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "store")
	r.cmd = exec.Command("/proc/self/exe")
	r.cmd.Env = append(os.Environ(), launcherWord+"=1", "HANDOFF_TEST_DIR="+r.dir, "GORACE=atexit_sleep_ms=0")
	r.cmd.ExtraFiles, r.cmd.Stderr = []*os.File{theirs}, os.Stderr
	in, err1 := r.cmd.StdinPipe()
	out, err2 := r.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, r.cmd.Start(), theirs.Close()); err != nil {
		r.t.Fatal(err)
	}
	r.in, r.orders = in, json.NewEncoder(in)
	r.answers, r.verdicts = make(chan *answer, 1), make(chan handoff.Verdict, 16)
	r.ended, r.dead = make(chan string, 1), make(chan struct{})
	first.Names = len(r.store)
	if err := r.orders.Encode(first); err != nil {
		r.t.Fatal(err)
	}
	for name, fd := range r.store {
		if err := send(pair[0], name, fd); err != nil {
			r.t.Fatal(err)
		}
	}
	var both sync.WaitGroup
	both.Go(func() { r.keepStore(pair[0]) }) // these end with the launcher
	both.Go(func() { r.hear(out) })
	dead := r.dead
	go func() {
		both.Wait()
		close(dead)
	}()
}

func (r *realm) keepStore(socket int) {
	defer unix.Close(socket) // nothing is buffered in it
	for {
		name, fd, err := receive(socket)
		if err != nil {
			return
		}
		r.mu.Lock()
		if fd < 0 {
			r.forget(name[1:])
		} else {
			r.store[name] = fd
		}
		r.mu.Unlock()
	}
}

func (r *realm) forget(name string) {
	unix.Close(r.store[name]) // nothing was written by it
	delete(r.store, name)
}

func (r *realm) hear(out io.Reader) {
	lines := json.NewDecoder(bufio.NewReader(out))
	for {
		var line told
		if lines.Decode(&line) != nil {
			return
		}
		switch {
		case line.Event != nil:
			r.mu.Lock()
			r.events = append(r.events, *line.Event)
			r.mu.Unlock()
		case line.State != nil:
			r.mu.Lock()
			r.text = line.State
			r.mu.Unlock()
		case line.Verdict != nil:
			r.verdicts <- *line.Verdict
		case line.Answer != nil:
			r.answers <- line.Answer
		case line.Ended != "":
			r.ended <- line.Ended
		}
	}
}

// ask gives an order.
func (r *realm) ask(o order) *answer {
	r.t.Helper()
	if err := r.orders.Encode(o); err != nil {
		r.t.Fatal(o.Do, ": ", err)
	}
	select {
	case a := <-r.answers:
		if a.Error != "" {
			r.t.Fatal(o.Do, ": ", a.Error)
		}
		return a
	case <-r.dead:
		if !r.dying { // else before its answer
			r.t.Fatal(o.Do, ": the launcher has ended")
		}
	case <-time.After(time.Minute):
		r.t.Fatal(o.Do, ": no answer")
	}
	return nil
}

func (r *realm) report() *event.Report { r.t.Helper(); return r.ask(order{Do: "report"}).Report }

// configure is what later generations are to be.
func (r *realm) configure(differ func(*handoff.Plan)) {
	r.t.Helper()
	differ(&r.plan)
	r.ask(order{Do: "plan", Plan: &r.plan})
}

func (r *realm) verdict() handoff.Verdict {
	r.t.Helper()
	select {
	case v := <-r.verdicts:
		return v
	case <-time.After(time.Minute):
		r.t.Fatal("no verdict")
		return handoff.Verdict{}
	}
}

// swap swaps to the generation.
func (r *realm) swap(generation int) {
	r.t.Helper()
	r.ask(order{Do: "reload"})
	if v := r.verdict(); v.Outcome != machine.Swapped || v.Generation != generation {
		r.t.Fatalf("%+v, want generation %d", v, generation)
	}
}

// seen are the events of the kind for the generation; 0: for any.
func (r *realm) seen(kind event.Kind, generation int) (all []event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == kind && (e.Generation == generation || generation == 0) {
			all = append(all, e)
		}
	}
	return all
}

func (r *realm) wait(kind event.Kind, generation int) event.Event {
	r.t.Helper()
	testkit.Wait(r.t, func() bool { return len(r.seen(kind, generation)) > 0 }, fmt.Sprintf("%s of generation %d", kind, generation))
	return r.seen(kind, generation)[0]
}

// dies kills the launcher at that moment; act, which may be nil, leads to it.
func (r *realm) dies(when string, act func()) {
	r.t.Helper()
	if when == "now" {
		if err := r.orders.Encode(order{Do: "die", When: when}); err != nil {
			r.t.Fatal(err)
		}
	} else {
		r.ask(order{Do: "die", When: when})
		r.dying = true
		act()
	}
	select {
	case <-r.dead:
	case <-time.After(time.Minute):
		r.t.Fatalf("the launcher never came to the moment %q", when)
	}
	r.buried()
}

func (r *realm) buried() {
	<-r.dead
	_ = r.cmd.Wait() // it was killed
	_ = r.in.Close() // nobody reads it
	r.cmd, r.dying = nil, false
}

// state is what the last launcher has left.
func (r *realm) state() (s handoff.State) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.Unmarshal(r.text, &s); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// succeed has another launcher take a dead one's place.
func (r *realm) succeed() {
	r.t.Helper()
	r.mu.Lock()
	r.events = nil
	text := r.text
	r.mu.Unlock()
	r.start(order{Do: "resume", Plan: &r.plan, State: text})
	r.resumed()
}

// becomes has the launcher become another program.
func (r *realm) becomes() {
	r.t.Helper()
	r.mu.Lock()
	r.events = nil
	r.mu.Unlock()
	if err := r.orders.Encode(order{Do: "become"}); err != nil {
		r.t.Fatal(err)
	}
	r.resumed()
}

func (r *realm) resumed() {
	r.t.Helper()
	select {
	case a := <-r.answers:
		if a.Error != "" || len(a.Left) > 0 {
			r.t.Fatalf("resumed with %+v", a)
		}
	case <-r.dead:
		r.t.Fatal("it could not be resumed")
	case <-time.After(time.Minute):
		r.t.Fatal("no answer of who was to resume")
	}
	r.wait(event.Resumed, 0)
}

// stop ends the application gracefully.
func (r *realm) stop() {
	r.t.Helper()
	r.ask(order{Do: "stop"})
	select {
	case end := <-r.ended:
		if end != "<nil>" {
			r.t.Error(end)
		}
	case <-time.After(time.Minute):
		r.t.Fatal("no end")
	}
	if left := r.processes(); len(left) > 0 {
		r.t.Errorf("processes %v are left", left)
	}
}

// pids of the generation's workers that are ready, once there are so many.
func (r *realm) pids(generation, workers int) (pids []int) {
	r.t.Helper()
	testkit.Wait(r.t, func() bool {
		pids = nil
		for _, g := range r.report().Generations {
			for _, w := range g.Workers {
				if g.Number == generation && w.State == string(machine.Ready) {
					pids = append(pids, w.PID)
				}
			}
		}
		return len(pids) == workers
	}, fmt.Sprintf("%d workers of generation %d to be ready", workers, generation))
	return pids
}

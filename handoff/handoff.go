// Package handoff is the engine: listeners in, generations over them. A
// Supervisor owns the listeners, starts each generation's workers on slots of
// their own, steers new connections to whoever serves, and ends the old
// generation when nobody new can reach it.
//
// What is to be done is decided by handoff/machine alone; this package carries
// it out and tells it what came of it. The invariant: whatever happens to a
// newcomer, the generation that serves is not touched until the newcomer has
// proved itself.
//
// One goroutine, the one in Run, owns the state. All others only wait (for an
// exit, a message, a proof, an empty queue) and post what they found to it. The
// package never reads a configuration file, a flag or a signal.
package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"baton/handoff/machine"
	"baton/health"
	"baton/internal/cgroup"
	"baton/internal/event"
	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// Plan is what one generation is to be, resolved from a configuration.
type Plan struct {
	Command       process.Command
	Note          string         // what will not work with this command, for the log; or ""
	Listeners     []ListenerPlan // in the order in which a worker sees them
	Ready         health.Mode
	ReadyDelay    time.Duration    // for health.Delay
	Probe         *Probe           // nil: none, and Ready is none of those by a probe
	HandshakeWait time.Duration    // longest wait for handshakes half open at a switch
	DrainSignals  []syscall.Signal // at least one; the times of the further ones are Policy.Ladder
	Quiesce       syscall.Signal   // sent when new connections stop; 0: none
	StayCodes     []int            // exit codes after which a worker is left stopped
	Live          Live
	Protocols     protocol.Settings
	Stdin         string // name of the listener that is the worker's standard input; "": none
	Together      bool   // all workers have one socket of each listener, not only of unix ones
	Policy        machine.Policy
	Origin        any `json:"-"` // what it was made from: the caller's own, for Options.Applied
}

// Live is how it is found out that a worker which was ready does not serve any more.
type Live struct {
	Probe    *Probe        // asked of each worker in isolation; nil: none
	Watchdog time.Duration // how long a worker that has begun to send WATCHDOG=1 may be silent; 0: for ever
	Stuck    time.Duration // how long it may leave a connection of the launcher's unaccepted; 0: for ever
	Replace  bool          // one that is stuck is replaced, not only reported
	Memory   uint64        // bytes beyond which a worker, with its children, is replaced; 0: no limit
	// GroupMemory is how many bytes all of the generation's processes may have before the
	// kernel kills one; 0: any number. It takes Options.Unit.
	GroupMemory uint64
	MaxAge      time.Duration // after which a worker is replaced, up to a tenth later; 0: never
}

// ListenerPlan is one configured address. Its identity across generations is
// the address as it was asked for.
type ListenerPlan struct {
	Address socket.Address
	Options socket.Options
}

// Output is where one worker writes. Stdout and Stderr are descriptors for it
// to inherit; they stay the Output's own.
type Output interface {
	Stdout() int
	Stderr() int
	// Started lets go of what only the worker needs. pid is the worker's, 0 when none
	// could be started.
	Started(pid int)
	// Tail returns the last lines written; after the worker's end all that it
	// wrote has arrived, whoever else still holds its descriptors.
	Tail() []string
	// Keep names its descriptors and returns what Options.ResumeOutput needs besides, as
	// something that has words in JSON.
	Keep(prefix string, f *keep.Files) any
}

// Options are what a Supervisor needs from outside.
type Options struct {
	Name    string // of the application
	Version string // of the program, for Report
	// Load resolves the configuration afresh: for the first generation and at
	// each reload. It is called from another goroutine, never twice at once.
	Load func() (*Plan, error)
	// Given, which may be nil, returns a descriptor of a socket that came from elsewhere and
	// that the listener is to serve on, to be the Supervisor's; -1: there is none, and one
	// is to be opened. all are the plan's listeners, and open tells which ones, by the
	// address as it was asked for, are there. Called from where Load is, before they are
	// opened. An error refuses the generation.
	Given func(l ListenerPlan, all []ListenerPlan, open func(key string) bool) (fd int, err error)
	// Output opens the output of a worker.
	Output func(generation, index int) (Output, error)
	// Listed, which may be nil, is told the pid of a worker that is being started, on a
	// goroutine of its own, before it is: what is not listed anywhere when this process
	// is killed does not begin to run.
	Listed func(pid int)
	// Observe receives every event, in order, on the goroutine of Run. It must
	// not block nor call the Supervisor.
	Observe func(event.Event)
	// Applied, which may be nil, is told the plan of each generation that comes to
	// serve, before Observe hears that it does. As for Observe.
	Applied func(*Plan)
	// Keep, which may be nil, is told what there is whenever that may have changed, with
	// the descriptors that belong to it, which stay the Supervisor's. As for Observe.
	Keep func(State, *keep.Files)
	// ResumeOutput takes up a worker's output from what Output.Keep gave, and Origin a
	// plan's Origin from its JSON. For Resume.
	ResumeOutput func(generation, index int, kept json.RawMessage, prefix string, f *keep.Files) (Output, error)
	Origin       func(json.RawMessage) (any, error)
	// Pulse, which may be nil, is told how it goes by the loop that does the work: at
	// least every Beat (a second, when that is 0), and when something has come of what was
	// done. A loop that hangs tells nothing. As for Observe.
	Pulse func(Pulse)
	Beat  time.Duration
	// Unit is the control group in which each generation is given one; nil, or one that is
	// not delegated: generations have none.
	Unit *cgroup.Unit
	Log  *slog.Logger
}

// Verdict is the one answer to a reload.
type Verdict struct {
	Outcome    machine.Outcome
	Generation int // 0 when none was begun
	Reason     string
}

// ErrNeverServed is wrapped by Run's error when the first generation could not
// be brought to serve.
var ErrNeverServed = errors.New("nothing serves")

// Supervisor runs one application. Make it with New; it is used once.
type Supervisor struct {
	opts  Options
	log   *slog.Logger
	calls chan func()   // to the goroutine of Run, never from it
	done  chan struct{} // closed when Run returns: nobody reads calls any more
	wg    sync.WaitGroup
	hub   *protocol.Hub // safe for concurrent use
	extra *extras       // likewise
	lost  atomic.Pointer[process.Status]

	// What follows belongs to the goroutine of Run.
	ctx       context.Context // of all waiting goroutines
	rules     machine.Machine
	inbox     []machine.Event // what a step in progress has led to
	stepping  bool
	gens      map[machine.Generation]*generation
	releases  map[machine.Generation]*release // by who resolved them
	workers   map[machine.Worker]*worker
	ended     map[machine.Worker]int // pids of workers whose end is being told
	listeners map[string]*listener   // by the address as asked for
	slots     map[machine.Slot]machine.Generation
	occupants *occupants
	table     []machine.Share
	timers    map[machine.Timer]*timer
	watches   map[machine.Slot]*watch
	verdicts  map[machine.Request]func(Verdict)
	preparing machine.Generation // whose Prepare is not answered; 0: none
	// preparingFrom is whose release that one is to run again.
	preparingFrom machine.Generation
	lastReq       machine.Request
	open          int         // how many requests have no verdict yet
	news          bool        // something happened that Pulse has not been told of
	resumes       int         // how often this took the place of another
	lastNamed     int         // names of descriptors that were given
	changed       bool        // there may be something to keep
	calm          func(error) // told when nothing is being started; nil: nobody is
	resumed       *State      // what Run begins with; nil: with nothing
	scaled        scaled
	began         time.Time
	sampling      bool   // somebody looks at what workers use
	restarts      int    // how many workers were started in the place of others
	verdict       string // the last one, in words
	stopping      bool
	halted        bool
	failure       string
}

// New returns a Supervisor that has done nothing yet.
func New(o Options) *Supervisor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(event.Event) {}
	}
	extra := newExtras(o.Log)
	s := &Supervisor{
		opts: o, log: o.Log, extra: extra, began: time.Now(),
		calls:     make(chan func()), // unbuffered: what was taken is done
		done:      make(chan struct{}),
		gens:      make(map[machine.Generation]*generation),
		releases:  make(map[machine.Generation]*release),
		workers:   make(map[machine.Worker]*worker),
		ended:     make(map[machine.Worker]int),
		listeners: make(map[string]*listener),
		slots:     make(map[machine.Slot]machine.Generation),
		occupants: newOccupants(),
		timers:    make(map[machine.Timer]*timer),
		watches:   make(map[machine.Slot]*watch),
		verdicts:  make(map[machine.Request]func(Verdict)),
	}
	s.hub = protocol.NewHub(s.hubOptions())
	return s
}

func (s *Supervisor) hubOptions() protocol.HubOptions {
	return protocol.HubOptions{Listen: s.extra.listen, Log: s.log}
}

// upkeep is how often the sockets are compared with what they should be: what a
// worker did to its sockets is put right within this time.
const upkeep = time.Second

// Run starts the first generation and returns when everything has ended: nil
// after Stop or End, an error that wraps ErrNeverServed when nothing could be
// brought to serve. A cancelled ctx is an End.
func (s *Supervisor) Run(ctx context.Context) error {
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithCancel(context.WithoutCancel(ctx))
	whole := false // else a panic is on its way, and must not wait for what only closeAll ends
	defer func() {
		if whole {
			s.wg.Wait()
		}
	}()
	defer cancel()
	defer close(s.done)

	s.regroup()
	if s.resumed != nil {
		s.goOn()
	} else {
		s.reload(nil)
	}
	s.keepNow()
	tick, beat := time.NewTicker(upkeep), time.NewTicker(s.beat())
	defer tick.Stop()
	defer beat.Stop()
	ended := ctx.Done()
	for !s.halted {
		select {
		case f := <-s.calls:
			f()
			s.changed = true
			s.settle()
		case <-beat.C:
			s.news = true
		case <-tick.C:
			s.maintain()
			s.lookAfter()
		case <-ended:
			ended = nil
			s.end()
		}
		s.keepNow()
		s.pulse()
	}
	if s.calm != nil {
		s.calm(errStopping)
	}
	s.closeAll()
	whole = true
	s.emit(event.Event{Kind: event.Stopped, Message: "stopped", Reason: s.failure})
	if s.failure != "" {
		return &neverServed{s.failure}
	}
	return nil
}

type neverServed struct{ reason string }

func (e *neverServed) Error() string { return ErrNeverServed.Error() + ": " + e.reason }
func (e *neverServed) Unwrap() error { return ErrNeverServed }

// Lost is how the last worker has ended that was lost without being asked to end; nil:
// none was.
func (s *Supervisor) Lost() *process.Status { return s.lost.Load() }

// Reload asks for a swap. done, which may be nil, gets the verdict, exactly
// once, on the goroutine of Run; not at all when Run has returned.
func (s *Supervisor) Reload(done func(Verdict)) { s.post(func() { s.reload(done) }) }

// Stop ends everything gracefully.
func (s *Supervisor) Stop() {
	s.post(func() {
		s.stopping = true
		s.step(machine.Stop{})
		s.giveUpPreparing()
	})
}

// Signalled says that the process pid has sent the launcher a signal, and returns
// whether that is a process of one of the workers. Some programs tell their parent
// in this way that they are ready and it may go: of a worker that is not ready yet,
// TERM is taken as its message.
func (s *Supervisor) Signalled(pid int, sig syscall.Signal) bool {
	answer := make(chan bool, 1)
	s.post(func() { answer <- s.signalled(pid, sig) })
	select {
	case ours := <-answer:
		return ours
	case <-s.done:
		return false
	}
}

// End kills everything now.
func (s *Supervisor) End() {
	s.post(func() {
		s.end()
	})
}

// Report returns the present state; nil when Run has returned.
func (s *Supervisor) Report() *event.Report { return s.told(s.usage) }

// Glance is Report without what workers use, which takes a look at every process of the
// machine: who asks many launchers takes that look once, itself.
func (s *Supervisor) Glance() *event.Report { return s.told(nil) }

func (s *Supervisor) told(usage func() map[machine.Worker]process.Usage) *event.Report {
	c := make(chan *event.Report, 1)
	s.post(func() {
		var used map[machine.Worker]process.Usage // of nobody
		if usage != nil {
			used = usage()
		}
		c <- s.report(used)
	})
	select {
	case r := <-c:
		return r
	case <-s.done:
		return nil
	}
}

func (s *Supervisor) end() {
	s.stopping = true
	s.step(machine.End{})
	s.giveUpPreparing()
}

// request is a new one, whose verdict done is to get.
func (s *Supervisor) request(done func(Verdict)) machine.Request {
	s.lastReq++
	s.open++
	s.news = true
	if done != nil {
		s.verdicts[s.lastReq] = done
	}
	return s.lastReq
}

func (s *Supervisor) reload(done func(Verdict)) {
	r := s.request(done)
	if r > 1 {
		s.emit(event.Event{Kind: event.Requested, Message: "a reload was requested"})
	}
	s.step(machine.Reload{Request: r})
}

// post hands f to the goroutine of Run; it is dropped when Run has returned.
func (s *Supervisor) post(f func()) {
	select {
	case s.calls <- f:
	case <-s.done:
	}
}

// spawn runs f in a goroutine that Run waits for; f ends when s.ctx does.
func (s *Supervisor) spawn(f func()) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		f()
	}()
}

// step tells the rules a fact and does what they say. A fact that comes of
// doing it waits until the actions at hand are done.
func (s *Supervisor) step(e machine.Event) {
	s.inbox = append(s.inbox, e)
	if s.stepping {
		return
	}
	s.stepping = true
	for len(s.inbox) > 0 {
		next := s.inbox[0]
		s.inbox = s.inbox[1:]
		s.carryOut(s.rules.Step(next))
	}
	s.stepping = false
}

// carryOut does what the rules say, in order; what is refused one slot after the other
// is refused at once.
func (s *Supervisor) carryOut(actions []machine.Action) {
	var refused []machine.Slot
	for _, a := range actions {
		if r, ok := a.(machine.Refuse); ok {
			refused = append(refused, r.Slot)
			continue
		}
		s.refuse(refused...)
		refused = nil
		s.do(a)
	}
	s.refuse(refused...)
}

func (s *Supervisor) do(a machine.Action) {
	switch a := a.(type) {
	case machine.Prepare:
		s.prepare(a.Gen, a.From)
	case machine.Forget:
		s.forget(a.Gen)
	case machine.Discard:
		s.discard(a.Gen)
	case machine.Start:
		s.start(a)
	case machine.Probe:
		s.with(a.Worker, s.probe)
	case machine.Steer:
		s.steer(a.Table)
	case machine.Watch:
		s.watch(a.Slot, a.Orphan)
	case machine.WatchIdle:
		s.with(a.Worker, s.watchIdle)
	case machine.Quiesce:
		s.with(a.Worker, s.quiesce)
	case machine.Signal:
		s.with(a.Worker, func(w *worker) { s.signal(w, a.Rung) })
	case machine.Kill:
		s.with(a.Worker, s.kill)
	case machine.SetTimer:
		s.setTimer(a.Timer, a.After)
	case machine.ExtendTimer:
		s.extendTimer(a.Timer, a.After)
	case machine.StopTimer:
		s.stopTimer(a.Timer)
	case machine.Verdict:
		s.judge(a)
	case machine.Note:
		s.note(a)
	case machine.Halt:
		s.halted, s.failure = true, a.Failure
	}
}

// with does what the rules say to a worker, unless that is gone and they do not know yet:
// of several that could not be started they learn of one after the other.
func (s *Supervisor) with(id machine.Worker, do func(*worker)) {
	if w := s.workers[id]; w != nil {
		do(w)
	}
}

func (s *Supervisor) judge(v machine.Verdict) {
	s.news = true
	if v.Request != 0 { // else nobody had asked
		s.open--
	}
	s.verdict = string(v.Outcome)
	if v.Reason != "" {
		s.verdict += ": " + v.Reason
	}
	switch v.Outcome {
	case machine.Unfit:
		s.emit(event.Event{Kind: event.Refused, Generation: int(v.Gen), Reason: v.Reason, Message: s.refusedWords(v)})
	case machine.Superseded:
		s.emit(event.Event{Kind: event.Superseded, Message: "a remembered reload gave way to a later one"})
	}
	if done := s.verdicts[v.Request]; done != nil {
		delete(s.verdicts, v.Request)
		done(Verdict{v.Outcome, int(v.Gen), v.Reason})
	}
}

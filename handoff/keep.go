package handoff

import (
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"baton/handoff/machine"
	"baton/health"
	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// State is all that a Supervisor knows and that must outlive it: what Resume makes the
// next one of. Its descriptors are in the keep.Files beside it.
type State struct {
	Rules       machine.Memory       `json:"rules"`
	Releases    []ReleaseState       `json:"releases"`
	Generations []GenerationState    `json:"generations"`
	Listeners   []ListenerState      `json:"listeners"`
	Workers     []WorkerState        `json:"workers"`
	Extras      []ExtraState         `json:"extras"`
	Hub         protocol.HubState    `json:"hub"`
	Timers      []TimerState         `json:"timers"`
	Watches     []WatchState         `json:"watches"`
	Slots       []machine.Generation `json:"slots"`     // whose each is, by number; 0: nobody's
	Preparing   machine.Generation   `json:"preparing"` // 0: none
	From        machine.Generation   `json:"from"`      // whose release that one is to run again; 0: a new one
	LastRequest machine.Request      `json:"last_request"`
	ScaledTo    int                  `json:"scaled_to"` // 0: nobody asked for a number
	ScaledFrom  int                  `json:"scaled_from"`
	Began       time.Time            `json:"began"`
	Restarts    int                  `json:"restarts"`
	Verdict     string               `json:"verdict"`
	Stopping    bool                 `json:"stopping"`
	Resumed     int                  `json:"resumed"` // how often another one's place was taken
	Named       int                  `json:"named"`   // names of descriptors that were given
}

// ReleaseState is one release.
type ReleaseState struct {
	Number  machine.Generation   `json:"number"`
	Plan    Plan                 `json:"plan"`
	Origin  json.RawMessage      `json:"origin"` // Plan.Origin
	Program process.ReleaseState `json:"program"`
	Choice  protocol.Choice      `json:"choice"`
}

// GenerationState is one generation.
type GenerationState struct {
	Number      machine.Generation `json:"number"`
	Release     machine.Generation `json:"release"`
	Environment []string           `json:"environment"`
	Listeners   []string           `json:"listeners"` // by their keys, in the plan's order
	Phase       machine.Phase      `json:"phase"`
	Served      bool               `json:"served"`
	SaysReady   bool               `json:"says_ready"`
	Tail        []string           `json:"tail"`
	Hint        string             `json:"hint"`
	ScaledTo    int                `json:"scaled_to"` // as in State, of when it served before
	ScaledFrom  int                `json:"scaled_from"`
}

// ListenerState is one listener.
type ListenerState struct {
	Key     string               `json:"key"`
	Name    string               `json:"name"` // of its descriptors
	Socket  socket.State         `json:"socket"`
	Asked   socket.Options       `json:"asked"`
	Users   []machine.Generation `json:"users"`
	Steered bool                 `json:"steered"`
	Stale   bool                 `json:"stale"`
	Shut    machine.Generation   `json:"shut"`
}

// WorkerState is one worker that was started, or is being started.
type WorkerState struct {
	ID        machine.Worker       `json:"id"`
	Gen       machine.Generation   `json:"generation"`
	Index     int                  `json:"index"`
	Slot      machine.Slot         `json:"slot"`
	Role      machine.Role         `json:"role"`
	Running   bool                 `json:"running"` // false: it is not known to have been executed
	Process   process.ProcessState `json:"process"`
	Link      protocol.LinkState   `json:"link"`
	Output    json.RawMessage      `json:"output"`
	Started   time.Time            `json:"started"`
	Readiness health.Readiness     `json:"readiness"`
	Ready     bool                 `json:"ready"`
	Given     map[string]uint64    `json:"given"` // sockets' inodes, by listener
	Held      map[string]bool      `json:"held"`  // nil: not looked at
	Status    string               `json:"status"`
	Drain     bool                 `json:"drain"`
	Signalled bool                 `json:"signalled"`
	Killed    bool                 `json:"killed"`
	Pinged    time.Time            `json:"pinged"`
	Interval  time.Duration        `json:"interval"`
	Due       time.Time            `json:"due"`
	Stuck     bool                 `json:"stuck"`
}

// ExtraState is an address that workers asked for.
type ExtraState struct {
	Key    string       `json:"key"`
	Name   string       `json:"name"` // of its descriptors
	Socket socket.State `json:"socket"`
}

// TimerState is a timer that runs.
type TimerState struct {
	Timer machine.Timer `json:"timer"`
	Due   time.Time     `json:"due"`
}

// WatchState is a slot whose queue is followed.
type WatchState struct {
	Slot   machine.Slot `json:"slot"`
	Orphan bool         `json:"orphan"`
}

// prefixes of descriptors' names.
func (r *release) prefix() string { return "r" + strconv.Itoa(int(r.number)) }
func (w *worker) prefix() string  { return "w" + strconv.Itoa(int(w.id)) }

const hubPrefix = "h"

// named is a name for one more thing's descriptors, which no other has.
func (s *Supervisor) named(kind string) string {
	s.lastNamed++
	return kind + strconv.Itoa(s.lastNamed)
}

// keep returns what there is, and names its descriptors.
func (s *Supervisor) keep(f *keep.Files) State {
	st := State{
		Rules: s.rules.Keep(), Hub: s.hub.Keep(hubPrefix, f), Extras: s.extra.keep(f),
		Preparing: s.preparing, From: s.preparingFrom, LastRequest: s.lastReq,
		ScaledTo: s.scaled.to, ScaledFrom: s.scaled.configured,
		Began: s.began, Restarts: s.restarts, Verdict: s.verdict, Stopping: s.stopping, Resumed: s.resumes, Named: s.lastNamed,
	}
	for _, n := range slices.Sorted(maps.Keys(s.releases)) {
		st.Releases = append(st.Releases, s.keepRelease(s.releases[n], f))
	}
	for _, n := range slices.Sorted(maps.Keys(s.gens)) {
		g := s.gens[n]
		x := GenerationState{
			Number: n, Release: g.release.number, Environment: g.environment, Phase: g.phase,
			Served: g.served, SaysReady: g.saysReady, Tail: g.tail, Hint: g.hint,
			ScaledTo: g.scaled.to, ScaledFrom: g.scaled.configured,
		}
		for _, l := range g.listeners {
			x.Listeners = append(x.Listeners, l.key)
		}
		st.Generations = append(st.Generations, x)
	}
	for _, key := range slices.Sorted(maps.Keys(s.listeners)) {
		l := s.listeners[key]
		st.Listeners = append(st.Listeners, ListenerState{
			Key: key, Name: l.name, Socket: l.Keep(l.name, f), Asked: l.asked, Users: slices.Sorted(maps.Keys(l.users)),
			Steered: l.steered, Stale: l.stale, Shut: l.shut,
		})
	}
	for _, id := range slices.Sorted(maps.Keys(s.workers)) {
		st.Workers = append(st.Workers, s.keepWorker(s.workers[id], f))
	}
	for id, t := range s.timers {
		st.Timers = append(st.Timers, TimerState{id, t.due})
	}
	slices.SortFunc(st.Timers, func(a, b TimerState) int { return a.Timer.Seq - b.Timer.Seq })
	for _, slot := range slices.Sorted(maps.Keys(s.watches)) {
		st.Watches = append(st.Watches, WatchState{slot, s.watches[slot].orphan})
	}
	for slot, n := range s.slots {
		for int(slot) >= len(st.Slots) {
			st.Slots = append(st.Slots, 0)
		}
		st.Slots[slot] = n
	}
	return st
}

func (s *Supervisor) keepRelease(r *release, f *keep.Files) ReleaseState {
	if r.origin == nil {
		// It is the caller's own, and does not change. What has no words is not kept: the
		// next launcher then has none for this release.
		if r.origin, _ = json.Marshal(r.plan.Origin); r.origin == nil {
			r.origin = json.RawMessage("null")
		}
	}
	return ReleaseState{Number: r.number, Plan: *r.plan, Origin: r.origin, Program: r.program.Keep(r.prefix(), f), Choice: *r.choice}
}

func (s *Supervisor) keepWorker(w *worker, f *keep.Files) WorkerState {
	x := WorkerState{
		ID: w.id, Gen: w.gen, Index: w.index, Slot: w.slot, Role: w.role, Running: w.running,
		Started: w.started, Readiness: w.readiness, Ready: w.ready, Status: w.status,
		Drain: w.drain, Signalled: w.signalled, Killed: w.killed,
		Pinged: w.alive.pinged, Interval: w.alive.interval, Due: w.alive.due, Stuck: w.alive.stuck,
		Given: make(map[string]uint64, len(w.given)),
	}
	for l, inode := range w.given {
		x.Given[l.key] = inode
	}
	if w.held != nil {
		x.Held = make(map[string]bool, len(w.held))
		for l, held := range w.held {
			x.Held[l.key] = held
		}
	}
	if !w.running { // its link and output belong to a process that may not come to be
		return x
	}
	x.Process = w.proc.Keep(w.prefix(), f)
	x.Link = w.link.Keep(w.prefix(), f)
	// What has no words is not kept: its output is lost to the next launcher.
	x.Output, _ = json.Marshal(w.out.Keep(w.prefix(), f))
	return x
}

// keepNow tells whoever keeps it what there is, if anything may have changed.
func (s *Supervisor) keepNow() {
	if s.opts.Keep == nil || !s.changed || s.halted {
		return
	}
	s.changed = false
	var f keep.Files
	st := s.keep(&f)
	s.opts.Keep(st, &f)
}

// Freeze calls do at a moment when nothing is being started, with all messages of workers
// taken and no more on their way, on the goroutine of Run: nothing of the engine moves
// meanwhile. take gives what there is, with descriptors that stay the Supervisor's; do may
// make another program of the process with them (exec(2)). Freeze returns what do did, or why
// there was no such moment: the engine stops, or somebody else waits for one.
func (s *Supervisor) Freeze(do func(take func() (State, *keep.Files)) error) error {
	for {
		// While something is started a worker may be waited for that has to be heard.
		links, err := s.quiet()
		if err != nil {
			return err
		}
		unpause := pause(links, s.log)
		done, err := s.frozenBy(links, do)
		unpause()
		if done {
			return err
		}
	}
}

// quiet waits until nothing is being started, and returns the links of all workers then.
func (s *Supervisor) quiet() (links []*protocol.Link, err error) {
	answer := make(chan error, 1)
	s.post(func() {
		if s.calm != nil {
			answer <- errFreezing
			return
		}
		s.calm = func(err error) {
			links = s.links()
			answer <- err
		}
		s.settle()
	})
	select {
	case err = <-answer:
		return links, err
	case <-s.done:
		return nil, errStopping
	}
}

// settle tells who waits that nothing is being started, if that is so: while a release is
// resolved its descriptors are nobody's yet, and while a worker is started its process is
// not known.
func (s *Supervisor) settle() {
	tell := s.calm
	if tell == nil {
		return
	}
	switch {
	case s.rules.Look().Stopping:
		s.calm = nil
		tell(errStopping)
	case s.calmly():
		s.calm = nil
		tell(nil)
	}
}

func (s *Supervisor) calmly() bool {
	starting := slices.ContainsFunc(slices.Collect(maps.Values(s.workers)), func(w *worker) bool { return !w.running })
	return s.preparing == 0 && !starting
}

func (s *Supervisor) links() (all []*protocol.Link) {
	for _, id := range slices.Sorted(maps.Keys(s.workers)) {
		if w := s.workers[id]; w.link != nil {
			all = append(all, w.link)
		}
	}
	return all
}

// pause has links stand still, all at the same time. One that does not is left as it is:
// a message of its worker may be lost.
func pause(links []*protocol.Link, log *slog.Logger) (unpause func()) {
	var wg sync.WaitGroup
	for _, l := range links {
		wg.Go(func() {
			if err := l.Pause(); err != nil {
				log.Warn("what a worker says may be lost by the upgrade: " + err.Error())
			}
		})
	}
	wg.Wait()
	return func() {
		for _, l := range links {
			l.Unpause()
		}
	}
}

// frozenBy has do called, unless a worker has come whose link does not stand still, or
// something is being started again.
func (s *Supervisor) frozenBy(links []*protocol.Link, do func(take func() (State, *keep.Files)) error) (done bool, err error) {
	answer := make(chan bool, 1)
	s.post(func() {
		now := s.links()
		if !s.calmly() || slices.ContainsFunc(now, func(l *protocol.Link) bool { return !slices.Contains(links, l) }) {
			answer <- false
			return
		}
		err = do(func() (State, *keep.Files) {
			var f keep.Files
			return s.keep(&f), &f
		})
		answer <- true
	})
	select {
	case done = <-answer:
		return done, err
	case <-s.done:
		return true, errStopping
	}
}

// Living are the workers of a State that run now.
func (st *State) Living() (marks []process.Mark) {
	for _, w := range st.Workers {
		if !w.Running {
			continue
		}
		// An error: it may be there, and cannot be looked at.
		if m, ok, err := process.MarkOf(w.Process.PID); err == nil && ok && m.Start == w.Process.Start {
			marks = append(marks, m)
		}
	}
	return marks
}

// Sockets are the listening sockets of a State: the names of their descriptors, and their
// inodes.
func (st *State) Sockets() map[string]uint64 {
	all := make(map[string]uint64)
	for _, l := range st.Listeners {
		maps.Copy(all, l.Socket.Sockets(l.Name))
	}
	for _, x := range st.Extras {
		maps.Copy(all, x.Socket.Sockets(x.Name))
	}
	return all
}

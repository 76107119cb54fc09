package handoff

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// errFreezing is what a second Freeze is told.
var errFreezing = errors.New("another upgrade is under way")

// Check says whether a State fits together, and its sockets are there and are what it
// says, without touching any of them.
func (st *State) Check(f *keep.Files) error {
	for _, l := range st.Listeners {
		if err := socket.Check(l.Socket, l.Name, f); err != nil {
			return err
		}
	}
	return st.fits()
}

// fits says whether it fits together.
func (st *State) fits() error {
	if _, err := machine.Resume(st.Rules); err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	gens, releases, keys := map[machine.Generation]bool{}, map[machine.Generation]bool{}, map[string]bool{}
	ruled := func(n machine.Generation) bool {
		return slices.ContainsFunc(st.Rules.Generations, func(g machine.GenerationMemory) bool { return g.Number == n })
	}
	for _, r := range st.Releases {
		releases[r.Number] = true
	}
	for _, l := range st.Listeners {
		keys[l.Key] = true
	}
	for _, g := range st.Generations {
		if !releases[g.Release] {
			return fmt.Errorf("generation %d: its release, %d, is not there", g.Number, g.Release)
		}
		if !ruled(g.Number) {
			return fmt.Errorf("generation %d: the rules know nothing of it", g.Number)
		}
		for _, key := range g.Listeners {
			if !keys[key] && g.Phase != machine.Draining { // what drains may have had one that is closed
				return fmt.Errorf("generation %d: its listener %s is not there", g.Number, key)
			}
		}
		gens[g.Number] = true
	}
	workers := map[machine.Worker]bool{}
	for _, w := range st.Workers {
		if !gens[w.Gen] {
			return fmt.Errorf("worker %d: its generation, %d, is not there", w.ID, w.Gen)
		}
		workers[w.ID] = true
	}
	return known(st.Rules, gens, workers)
}

// known says whether there is all that the rules know of: for one of these they would wait
// for ever, or give an order about it.
func known(rules machine.Memory, gens map[machine.Generation]bool, workers map[machine.Worker]bool) error {
	for _, g := range rules.Generations {
		if g.Phase != machine.Preparing && !gens[g.Number] {
			return fmt.Errorf("generation %d, which the rules know, is not there", g.Number)
		}
		for _, w := range g.Workers {
			if w.State != machine.Waiting && !workers[w.ID] {
				return fmt.Errorf("worker %d, which the rules know, is not there", w.ID)
			}
		}
	}
	return nil
}

// Resume returns a Supervisor that goes on where the one stood that State is of: its Run
// takes the workers over as they are. What of it is lost, and why, is logged; the error
// says that nothing can be made of it. Descriptors that were not needed are left in f.
func Resume(o Options, st State, f *keep.Files) (*Supervisor, error) {
	if err := st.fits(); err != nil {
		return nil, err
	}
	s := New(o)
	rules, err := machine.Resume(st.Rules)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	s.rules, s.table = rules, st.Rules.Table
	s.preparing, s.preparingFrom, s.lastReq = 0, st.From, st.LastRequest
	s.scaled = scaled{to: st.ScaledTo, configured: st.ScaledFrom}
	s.began, s.restarts, s.verdict, s.stopping, s.lastNamed = st.Began, st.Restarts, st.Verdict, st.Stopping, st.Named
	s.resumes = st.Resumed + 1
	for _, g := range st.Rules.Generations {
		if !g.Judged && (g.Phase == machine.Preparing || g.Phase == machine.Starting || g.Phase == machine.Canary) {
			s.open++
		}
	}
	if st.Rules.Pending != nil {
		s.open++
	}
	for slot, n := range st.Slots {
		if n != 0 {
			s.slots[machine.Slot(slot)] = n
		}
	}
	hub, err := protocol.ResumeHub(s.hubOptions(), st.Hub, hubPrefix, f)
	if err != nil {
		return nil, fmt.Errorf("protocols: %w", err)
	}
	s.hub = hub
	s.extra.resume(st.Extras, f)
	if err := s.resumeAll(st, f); err != nil {
		s.letGo()
		return nil, err
	}
	s.extra.settle()
	s.resumed = &st
	return s, nil
}

// resumeAll takes up listeners, releases, generations and workers, in this order.
func (s *Supervisor) resumeAll(st State, f *keep.Files) error {
	for _, x := range st.Listeners {
		l, err := socket.Resume(x.Socket, x.Name, f, s.log)
		if err != nil {
			return fmt.Errorf("listener %s: %w", x.Key, err)
		}
		users := make(map[machine.Generation]bool)
		for _, n := range x.Users {
			users[n] = true
		}
		s.listeners[x.Key] = &listener{
			Listener: l, key: x.Key, name: x.Name, asked: x.Asked, users: users,
			steered: x.Steered, stale: x.Stale, shut: x.Shut,
		}
	}
	for _, x := range st.Releases {
		program, err := process.ResumeRelease(x.Program, (&release{number: x.Number}).prefix(), f)
		if err != nil {
			return fmt.Errorf("release of generation %d: %w", x.Number, err)
		}
		plan, choice := x.Plan, x.Choice
		if s.opts.Origin != nil {
			if plan.Origin, err = s.opts.Origin(x.Origin); err != nil {
				return fmt.Errorf("release of generation %d: %w", x.Number, err)
			}
		}
		s.releases[x.Number] = &release{number: x.Number, plan: &plan, program: program, choice: &choice, origin: x.Origin}
	}
	for _, x := range st.Generations {
		g := &generation{
			environment: x.Environment, number: x.Number, release: s.releases[x.Release], phase: x.Phase,
			served: x.Served, saysReady: x.SaysReady, tail: x.Tail, hint: x.Hint,
			scaled: scaled{to: x.ScaledTo, configured: x.ScaledFrom},
		}
		for _, key := range x.Listeners {
			if l := s.listeners[key]; l != nil {
				g.listeners = append(g.listeners, l)
			}
		}
		s.gens[g.number] = g
	}
	for _, x := range st.Workers {
		s.resumeWorker(x, f)
	}
	return nil
}

// letGo closes what was taken up by a Supervisor that does not come to be. Its workers
// keep what they have.
func (s *Supervisor) letGo() {
	for _, w := range s.workers {
		w.cancel()
		if w.link != nil {
			_ = w.link.Close() // nobody is to hear of it
		}
	}
	for _, l := range s.listeners {
		if err := l.Close(); err != nil {
			s.log.Warn(err.Error())
		}
	}
	for _, r := range s.releases {
		_ = r.program.Close() // only read from
	}
	_ = s.hub.Close() // as with links
}

// resumeWorker takes a worker up. One whose process cannot be taken up is not running:
// the rules are told when Run begins.
func (s *Supervisor) resumeWorker(x WorkerState, f *keep.Files) {
	w := &worker{
		id: x.ID, gen: x.Gen, index: x.Index, slot: x.Slot, role: x.Role, up: make(chan struct{}),
		given: make(map[*listener]uint64), started: x.Started, readiness: x.Readiness, ready: x.Ready, status: x.Status,
		drain: x.Drain, signalled: x.Signalled, killed: x.Killed,
	}
	w.alive.pinged, w.alive.interval, w.alive.stuck = x.Pinged, x.Interval, x.Stuck
	w.ctx, w.cancel = context.WithCancel(context.Background()) // Run ends it with its own
	for key, inode := range x.Given {
		if l := s.listeners[key]; l != nil {
			w.given[l] = inode
		}
	}
	if x.Held != nil {
		w.held = make(map[*listener]bool)
		for key, held := range x.Held {
			if l := s.listeners[key]; l != nil {
				w.held[l] = held
			}
		}
	}
	s.workers[w.id] = w
	if !x.Running {
		s.occupants.set(w.slot, w.id, nil)
		return
	}
	proc, err := process.ResumeProcess(x.Process, w.prefix(), f)
	if err != nil {
		s.log.Error("a worker is not taken over: "+err.Error(), "worker", int(w.id), "generation", int(w.gen))
		s.occupants.set(w.slot, w.id, nil)
		return
	}
	w.proc, w.running = proc, true
	s.occupants.set(w.slot, w.id, proc)
	s.resumeTies(w, x, f)
	close(w.up)
}

// resumeTies takes up what ties the worker to the launcher. One without is no reason to
// give the worker up: it serves.
func (s *Supervisor) resumeTies(w *worker, x WorkerState, f *keep.Files) {
	g := s.gens[w.gen]
	var socks []protocol.Socket
	for i, l := range g.listeners {
		fd, err := l.Number(int(w.slot)) // not FD: it runs
		if err != nil || i >= len(g.plan.Listeners) {
			continue // it is of another generation's making by now
		}
		socks = append(socks, asSocket(g.plan.Listeners[i], l.Address(), fd))
	}
	link, err := s.hub.Resume(g.choice, s.spoken(g, w, socks, g.program.Env()), x.Link, w.prefix(), f)
	if err != nil {
		w.torn = "it is not heard any more: " + err.Error()
	}
	if w.link = link; link == nil { // some of it may be left
		w.link = new(protocol.Link)
	}
	if s.opts.ResumeOutput != nil {
		w.out, err = s.opts.ResumeOutput(int(w.gen), w.index, x.Output, w.prefix(), f)
	}
	if err != nil || w.out == nil {
		w.torn = fmt.Sprintf("its output is lost: %v", cmp.Or(err, errNoOutput))
	}
	if w.out == nil { // likewise
		w.out = noOutput{}
	}
}

var errNoOutput = errors.New("nobody takes it")

// noOutput is that of a worker whose pipes are gone.
type noOutput struct{}

func (noOutput) Stdout() int                  { return -1 }
func (noOutput) Stderr() int                  { return -1 }
func (noOutput) Started(int)                  {}
func (noOutput) Tail() []string               { return nil }
func (noOutput) Keep(string, *keep.Files) any { return nil }

// goOn is how Run begins that was resumed: everything that waited for something waits
// again, and what became of it meanwhile is told.
func (s *Supervisor) goOn() {
	st := s.resumed
	s.resumed = nil
	for _, l := range s.listeners {
		s.follow(l)
	}
	for l, err := range s.steerAll(s.listeners) {
		s.finding(l, "steer: "+err.Error())
	}
	for _, id := range slices.Sorted(maps.Keys(s.workers)) {
		w := s.workers[id]
		context.AfterFunc(s.ctx, w.cancel) // nothing is left of it when the worker is gone
		if w.running {
			s.await(w)
		}
	}
	for _, t := range st.Timers {
		s.resumeTimer(t)
	}
	for _, x := range st.Watches {
		s.watch(x.Slot, x.Orphan)
	}
	e := event.Event{Kind: event.Resumed, Message: s.resumedWords()}
	if sv := s.serving(); sv != nil {
		e.Generation = int(sv.number)
		e.Message += fmt.Sprintf("; generation %d serves", sv.number)
	}
	s.emit(e)
	for _, id := range slices.Sorted(maps.Keys(s.workers)) {
		if w := s.workers[id]; w != nil && !w.running {
			s.launched(w, nil, errors.New("the launcher ended while it was being started"))
		}
	}
	s.look()
	if st.Preparing != 0 {
		s.prepare(st.Preparing, st.From)
	}
}

func (s *Supervisor) resumedWords() string {
	n := 0
	for _, w := range s.workers {
		if w.running && !w.ended() {
			n++
		}
	}
	return fmt.Sprintf("goes on with %d running workers", n)
}

// look begins again with what the rules wait for of each worker.
func (s *Supervisor) look() {
	for _, g := range s.rules.Look().Generations {
		for _, v := range g.Workers {
			w := s.workers[v.ID]
			if w == nil || !w.running {
				continue
			}
			switch v.State {
			case machine.Coming:
				s.awaitReady(s.gens[w.gen], w)
			case machine.Probing:
				s.probe(w)
			case machine.Ready:
				due := w.alive.due
				s.keepAlive(w)
				if !due.IsZero() {
					w.alive.due = due
				}
				s.mend(w)
			case machine.Idling:
				s.watchIdle(w)
			}
			if w.drain && !w.killed && !w.signalled {
				s.awaitFinish(w, w.link.Drain())
			}
			if w.killed {
				_ = w.proc.Kill() // gone already: exited tells
			}
		}
	}
}

// mend has a worker replaced of which the launcher before this one has taken something
// along: it serves, and what it writes to a pipe that nobody reads would end it.
func (s *Supervisor) mend(w *worker) {
	if w.torn == "" {
		return
	}
	s.log.Warn("a worker was taken over in part, and is replaced: "+w.torn, "pid", w.proc.PID(), "generation", int(w.gen))
	s.step(machine.Outgrown{Worker: w.id, Reason: "the launcher before this one was killed, and what tied it to that is lost"})
}

// resumeTimer sets a timer again for the time when it was due.
func (s *Supervisor) resumeTimer(t TimerState) {
	id := t.Timer
	s.timers[id] = &timer{
		due: t.Due,
		t:   time.AfterFunc(time.Until(t.Due), func() { s.post(func() { s.timeUp(id) }) }),
	}
}

// resume takes up the addresses that workers asked for.
func (x *extras) resume(states []ExtraState, f *keep.Files) {
	for _, e := range states {
		l, err := socket.Resume(e.Socket, e.Name, f, x.log)
		if err != nil {
			x.log.Warn("an address that workers asked for is lost: "+err.Error(), "address", e.Key)
			continue
		}
		n, _ := strconv.Atoi(strings.TrimPrefix(e.Name, "x")) // of another form it is no other's
		x.lastName = max(x.lastName, n)
		one := &extra{Listener: l, key: e.Key, name: e.Name}
		x.all[one] = true
		x.spare = append(x.spare, one)
	}
}

// keep names the descriptors of the addresses that workers asked for.
func (x *extras) keep(f *keep.Files) (states []ExtraState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for e := range x.all {
		states = append(states, ExtraState{Key: e.key, Name: e.name, Socket: e.Keep(e.name, f)})
	}
	return states
}

// origin is a release's as it was told.
type origin = json.RawMessage

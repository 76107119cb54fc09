package handoff

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"baton/handoff/machine"
	"baton/internal/cgroup"
	"baton/internal/event"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// generation is one start of a release, with all that it holds.
type generation struct {
	environment []string // what is other about it; process.Changes
	number      machine.Generation
	*release
	listeners []*listener // in the plan's order
	phase     machine.Phase
	served    bool         // it came to serve once
	scaled    scaled       // what an operator had asked for when another one came to serve
	saysReady bool         // one of its workers has sent its ready message
	tail      []string     // the last lines of the worker that made it fail
	hint      string       // what is known about why that one failed
	grouped   bool         // it has a control group
	kills     cgroup.Kills // there, that were told of
	lacks     string       // what of that was complained of
}

// release is what a generation runs, held open for as long as it may be run again.
type release struct {
	number  machine.Generation // that resolved it
	plan    *Plan
	program *process.Release
	choice  *protocol.Choice
	origin  origin // of the plan, once it was asked for
}

// listener is a socket.Listener and who needs it.
type listener struct {
	socket.Listener
	key     string // the address as asked for
	name    string // of its descriptors, where they are kept
	asked   socket.Options
	users   map[machine.Generation]bool
	given   bool               // its first socket came from elsewhere; it is not known of one that was resumed
	steered bool               // somebody was given its connections
	stale   bool               // the last change of steering failed
	shut    machine.Generation // whose slots are refused until somebody serves on it; 0: nobody's
	said    map[string]bool    // what upkeep has complained of and not seen put right
}

// prepared is what came of preparing a generation.
type prepared struct {
	*release
	again  bool   // the release is one that was kept
	note   string // what of a kept release cannot be restored
	opened map[string]*listener
	err    error
}

// prepare resolves a generation in a goroutine: from the configuration, or from the
// release that the generation from had resolved. Until it is done the generation
// keeps every listener there is from being closed, since it may want it.
func (s *Supervisor) prepare(n, from machine.Generation) {
	kept := s.releases[from]
	known := make(map[string]bool, len(s.listeners))
	for key, l := range s.listeners {
		l.users[n] = true
		known[key] = true
	}
	s.preparing, s.preparingFrom = n, from
	// Ends with Load and Listen. Run does not wait for it: a file system that
	// hangs must not keep the launcher from ending.
	go func() {
		p := s.resolve(n, kept, known)
		select {
		case s.calls <- func() { s.prepared(n, p) }:
		case <-s.done:
			p.discard()
		}
	}()
}

// giveUpPreparing answers for a generation that is not needed any more and may
// never be prepared.
func (s *Supervisor) giveUpPreparing() {
	if n := s.preparing; n != 0 {
		s.preparing = 0
		s.disuse(n)
		s.step(machine.Refused{Gen: n, Reason: "the launcher is stopping"})
	}
}

func (s *Supervisor) resolve(n machine.Generation, kept *release, known map[string]bool) (p prepared) {
	p.opened = make(map[string]*listener)
	if kept != nil {
		p.release, p.again = kept, true
		if p.note, p.err = kept.program.Kept(); p.err != nil {
			return p
		}
	} else if p.release, p.err = s.resolveFresh(n); p.err != nil {
		return p
	}
	open := func(key string) bool { return known[key] || p.opened[key] != nil }
	for _, lp := range p.plan.Listeners {
		key := lp.Address.String()
		if open(key) {
			continue
		}
		l, given, err := s.listen(lp, p.plan.Listeners, open)
		if err != nil {
			p.err = err
			return p
		}
		p.opened[key] = &listener{Listener: l, key: key, given: given, asked: lp.Options, users: map[machine.Generation]bool{n: true}}
	}
	return p
}

// listen makes a listener: of the socket that is given for it, or of a new one.
func (s *Supervisor) listen(lp ListenerPlan, all []ListenerPlan, open func(key string) bool) (l socket.Listener, given bool, err error) {
	fd := -1
	if s.opts.Given != nil {
		fd, err = s.opts.Given(lp, all, open)
	}
	switch {
	case err != nil:
	case fd >= 0:
		given = true
		l, err = socket.Adopt(s.ctx, fd, lp.Address, lp.Options)
	default:
		l, err = socket.Listen(s.ctx, lp.Address, lp.Options)
	}
	return l, given, err
}

// resolveFresh resolves what is configured now.
func (s *Supervisor) resolveFresh(n machine.Generation) (*release, error) {
	plan, err := s.opts.Load()
	if err != nil {
		return nil, err
	}
	program, err := process.Resolve(plan.Command)
	if err != nil {
		return nil, err
	}
	choice, err := Speak(plan, program)
	if err != nil {
		_ = program.Close() // only read from
		return nil, err
	}
	return &release{number: n, plan: plan, program: program, choice: choice}, nil
}

// discard undoes what preparing did; safe whatever was reached.
func (p prepared) discard() {
	for _, l := range p.opened {
		_ = l.Close() // nobody was told of it
	}
	if p.release != nil && !p.again {
		_ = p.program.Close() // only read from
	}
}

func (s *Supervisor) prepared(n machine.Generation, p prepared) {
	if s.preparing != n {
		p.discard()
		return
	}
	s.preparing = 0
	if p.err != nil {
		p.discard()
		s.disuse(n)
		s.step(machine.Refused{Gen: n, Reason: p.err.Error()})
		return
	}
	for key, l := range p.opened {
		l.name = s.named("l")
		s.listeners[key] = l
		s.opened(l)
	}
	s.releases[p.release.number] = p.release
	g := &generation{number: n, release: p.release, phase: machine.Starting}
	for _, lp := range p.plan.Listeners {
		l := s.listeners[lp.Address.String()]
		g.listeners = append(g.listeners, l)
		if l.asked.Shared != lp.Options.Shared {
			s.finding(l, "steering changes only when the listener is opened anew: restart to apply it")
		}
	}
	for _, note := range []string{p.plan.Note, p.note} {
		if note != "" {
			s.log.Warn(note, "generation", int(n))
		}
	}
	if was := s.serving(); was != nil {
		g.environment = process.Changes(was.program.Env(), g.program.Env())
		if len(g.environment) > 0 {
			s.log.Info("environment of generation "+strconv.Itoa(int(n))+": "+strings.Join(g.environment, " "), "generation", int(n))
		}
	}
	s.gens[n] = g
	others := false
	for _, g := range s.gens {
		others = others || g.plan.Command.User != "" || g.plan.Command.Group != ""
	}
	s.extra.serve(others)
	for _, l := range s.listeners {
		if !slices.Contains(g.listeners, l) {
			delete(l.users, n)
		}
	}
	s.closeUnused()
	policy := p.plan.Policy
	policy.Workers = s.scaled.workers(policy.Workers)
	s.step(machine.Prepared{Gen: n, Policy: policy})
}

func (s *Supervisor) opened(l *listener) {
	verb := "listening on "
	if l.given {
		verb = "taking over the socket at "
	}
	s.emit(event.Event{
		Kind: event.ListenerOpened, Listener: l.Name(), Address: l.Address().String(),
		Mode: string(l.Mode()), Reason: l.Reason(),
		Message: verb + l.Address().String() + ", " + string(l.Mode()) + because(l.Reason()),
	})
	s.follow(l)
}

// follow hears what the listener finds out.
func (s *Supervisor) follow(l *listener) {
	s.spawn(func() { // ends when the listener is closed
		for f := range l.Findings() {
			s.post(func() { s.found(l, f) })
		}
	})
}

// forget lets go of a generation of which nothing is left, and of listeners
// that only it had.
func (s *Supervisor) forget(n machine.Generation) {
	if g := s.gens[n]; g != nil {
		s.dissolve(g)
	}
	delete(s.gens, n)
	s.disuse(n)
	s.inherit()
}

// discard lets go of a release that nobody runs, nor will.
func (s *Supervisor) discard(n machine.Generation) {
	if r := s.releases[n]; r != nil {
		_ = r.program.Close() // only read from
		delete(s.releases, n)
	}
}

func (s *Supervisor) disuse(n machine.Generation) {
	for _, l := range s.listeners {
		delete(l.users, n)
	}
	s.closeUnused()
}

func (s *Supervisor) closeUnused() {
	if s.stopping {
		return // all are closed together, at the end
	}
	for _, key := range slices.Sorted(maps.Keys(s.listeners)) {
		if l := s.listeners[key]; len(l.users) == 0 {
			s.close(l)
		}
	}
}

func (s *Supervisor) close(l *listener) {
	delete(s.listeners, l.key)
	err := l.Close()
	e := event.Event{Kind: event.ListenerClosed, Listener: l.Name(), Address: l.Address().String(), Message: "closed " + l.Address().String()}
	if err != nil {
		e.Reason = err.Error()
	}
	s.emit(e)
}

// closeAll is the end: nothing is left that could accept.
func (s *Supervisor) closeAll() {
	for _, key := range slices.Sorted(maps.Keys(s.listeners)) {
		s.close(s.listeners[key])
	}
	for _, r := range s.releases {
		_ = r.program.Close() // only read from
	}
	if err := s.hub.Close(); err != nil {
		s.log.Warn("what protocols put on disk is left", "error", err)
	}
}

// newestFirst returns the generations, the newest first.
func (s *Supervisor) newestFirst() []*generation {
	return slices.SortedFunc(maps.Values(s.gens), func(a, b *generation) int { return cmp.Compare(b.number, a.number) })
}

// serving returns the generation that serves, or nil.
func (s *Supervisor) serving() *generation {
	for _, g := range s.gens {
		if g.phase == machine.Serving {
			return g
		}
	}
	return nil
}

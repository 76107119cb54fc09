package handoff

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"baton/handoff/machine"
	"baton/health"
	"baton/internal/process"
	"baton/internal/socket"
)

// Probe is what every newcomer is asked before it is let in.
type Probe struct {
	health.Probe
	Listener string // by name; "": the first on which an acceptance can be proved
}

// awaitProbe looks for a worker's probe to pass, as its sign of being ready. It may
// fail as long as there is time.
func (s *Supervisor) awaitProbe(g *generation, w *worker) {
	p := g.plan.Probe.Probe
	p.Failures = 0
	target := s.target(g, w, g.plan.Probe)
	target.Tried = w.lastTry.set
	s.spawn(func() { // ends with the worker, or when it has passed
		if p.Until(w.ctx, target) == nil {
			s.post(func() { s.sign(w, health.Passed, "it passed "+p.String()) })
		}
	})
}

// probe asks a worker that is said to be ready whether it serves, in isolation: by
// the plan's probe, or else whether it accepts.
func (s *Supervisor) probe(w *worker) {
	g := s.gens[w.gen]
	ask := func(ctx context.Context) error {
		return prove(ctx, provable(g.listeners), w)
	}
	if p := g.plan.Probe; p != nil {
		target := s.target(g, w, p)
		ask = func(ctx context.Context) error { return p.Until(ctx, target) }
	}
	s.spawn(func() { // ends with the worker, or the time to be ready
		ctx, cancel := context.WithTimeout(w.ctx, g.plan.Policy.ReadyTimeout)
		defer cancel()
		var failure string
		if err := ask(ctx); err != nil {
			failure = err.Error()
		}
		s.post(func() { s.step(machine.Probed{Worker: w.id, Failure: failure}) })
	})
}

// target is how a probe reaches the worker, and nobody else.
func (s *Supervisor) target(g *generation, w *worker, probe *Probe) health.Target {
	l := probed(g, probe)
	if l == nil {
		return health.Target{Run: s.runProbe(g, w, nil)}
	}
	slot, owns := int(w.slot), w.owns
	p := newPeer()
	return health.Target{
		Address: hostPort(l),
		Dial:    func(ctx context.Context) (net.Conn, error) { return l.Dial(ctx, slot, owns) },
		Prove:   func(ctx context.Context) error { return proveOne(ctx, l, slot, owns) },
		Run:     s.runProbe(g, w, p),
		Allowed: p.allowed,
	}
}

// probed is the listener that a probe asks; nil when there is none.
func probed(g *generation, probe *Probe) *listener {
	for _, l := range provable(g.listeners) {
		if name := probe.Listener; name == "" || name == l.Name() {
			return l
		}
	}
	return nil
}

func hostPort(l *listener) string {
	a := l.Address()
	if a.Network == "unix" {
		return a.Path
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(a.Port))
}

// lastTry is how the last try of a probe ended.
type lastTry struct {
	mu  sync.Mutex
	err error
}

func (l *lastTry) set(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *lastTry) words() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return ""
	}
	return l.err.Error()
}

// peer says who may come through a probe's door: the command that probes, while it
// runs.
type peer struct {
	mu      sync.Mutex
	started chan struct{} // closed when it is known whether, and as what, the command runs
	process *process.Process
}

// newPeer is nobody.
func newPeer() *peer {
	p := &peer{started: make(chan struct{})}
	close(p.started)
	return p
}

// expect says that the command is about to be started.
func (p *peer) expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started, p.process = make(chan struct{}), nil
}

// is says what expect has led to; nil: nothing.
func (p *peer) is(proc *process.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process = proc
	close(p.started)
}

// ended says that the command is gone.
func (p *peer) ended() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process = nil
}

// allowed is health.Target.Allowed: local is the door's end, remote the one who
// comes. A command may come before its start has been taken note of.
func (p *peer) allowed(local, remote netip.AddrPort) bool {
	p.mu.Lock()
	started := p.started
	p.mu.Unlock()
	<-started // the start ends, one way or the other
	p.mu.Lock()
	proc := p.process
	p.mu.Unlock()
	inode, err := socket.Inode(remote, local)
	if err != nil || inode == 0 || proc == nil {
		return false
	}
	held, err := proc.Holds(inode)
	return held && err == nil
}

// runProbe is health.Target.Run: the command runs as the worker does. Its error has
// the last line it said.
func (s *Supervisor) runProbe(g *generation, w *worker, who *peer) health.Run {
	return func(ctx context.Context, argv, env []string) error {
		c := g.plan.Command
		c.Exec = argv
		r, err := process.Resolve(c)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }() // only read from
		env = append(env, "BATON_GENERATION="+strconv.Itoa(int(w.gen)), "BATON_PID="+strconv.Itoa(w.proc.PID()))
		if who == nil { // there is no door
			who = newPeer()
		}
		who.expect()
		defer who.ended()
		_, err = process.Run(ctx, process.Job{Release: r, Env: overlay(r.Env(), env), Started: who.is})
		return err
	}
}

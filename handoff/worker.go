package handoff

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"time"

	"baton/handoff/machine"
	"baton/health"
	"baton/internal/event"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// worker is one process of a generation, from the order to start it until
// nothing of it is left.
type worker struct {
	id     machine.Worker
	gen    machine.Generation
	index  int
	slot   machine.Slot
	role   machine.Role
	ctx    context.Context // ends with the worker
	cancel context.CancelFunc
	out    Output
	link   *protocol.Link

	up      chan struct{} // closed when proc is set
	proc    *process.Process
	started time.Time

	readiness health.Readiness
	ready     bool
	proved    func()               // ends the search for a proof; nil: there is none
	lastTry   lastTry              // of the probe that is to make it ready
	early     []protocol.Message   // said before launched was told
	given     map[*listener]uint64 // the sockets it was started with, by inode
	held      map[*listener]bool   // listeners whose slot it was seen to have open when ready
	status    string               // in its own words
	running   bool                 // launched has been told; proc may be used
	drain     bool                 // the drain signal is due, or was sent
	signalled bool                 // it was sent
	killed    bool                 // KILL is due, or was sent
	alive     alive
	torn      string // what was lost of it when it was taken over; "": nothing
}

// start gives a worker its sockets, channel and output, and executes it in a
// goroutine, because that takes milliseconds.
func (s *Supervisor) start(a machine.Start) {
	g := s.gens[a.Gen]
	w := &worker{id: a.Worker, gen: a.Gen, index: a.Index, slot: a.Slot, role: a.Role, up: make(chan struct{}), given: make(map[*listener]uint64)}
	w.ctx, w.cancel = context.WithCancel(s.ctx)
	s.workers[w.id] = w
	s.occupants.set(w.slot, w.id, nil)
	if a.Role == machine.Member {
		s.slots[a.Slot] = a.Gen
	}
	w.readiness = health.Readiness{Mode: g.plan.Ready, Expected: s.saysReady(g)}

	spec, err := s.spec(g, w)
	if err != nil {
		w.handed(nil)
		s.launched(w, nil, err)
		return
	}
	s.spawn(func() { // ends when the target is executed, or cannot be
		p, err := process.Start(w.ctx, spec)
		w.handed(p)
		select {
		case s.calls <- func() { s.launched(w, p, err) }:
		case <-s.done:
		}
	})
}

// handed lets go of what only the worker needs: it has it by now, or never will.
func (w *worker) handed(p *process.Process) {
	pid := 0
	if p != nil {
		pid = p.PID()
	}
	if w.out != nil {
		w.out.Started(pid)
	}
	if w.link != nil {
		w.link.Started()
	}
}

// saysReady says whether a ready message is sure to come from a worker of g: by
// its protocol, or because one of its own has sent it, or one of the generation
// that serves.
func (s *Supervisor) saysReady(g *generation) bool {
	sv := s.serving()
	return g.choice.Says || g.saysReady || sv != nil && sv.saysReady && sameProgram(g, sv)
}

// sameProgram says whether what one generation does is to be expected of the other.
func sameProgram(a, b *generation) bool {
	return a.program.Path() == b.program.Path() && slices.Equal(a.program.Args(), b.program.Args())
}

// spec collects what the worker inherits.
func (s *Supervisor) spec(g *generation, w *worker) (process.Spec, error) {
	// Nothing to read: the launcher's own standard input may be a terminal, which
	// a process group in the background cannot read.
	spec := process.Spec{Release: g.program, Stdin: -1, Listed: s.opts.Listed}
	var socks []protocol.Socket
	for i, l := range g.listeners {
		if err := s.reserve(g, l, w); err != nil {
			return spec, err
		}
		fd, err := l.FD(int(w.slot))
		if err != nil {
			return spec, err
		}
		if w.given[l], err = l.Inode(int(w.slot)); err != nil {
			return spec, err
		}
		socks = append(socks, asSocket(g.plan.Listeners[i], l.Address(), fd))
		if g.plan.Stdin == l.Name() {
			spec.Stdin = fd
		}
	}
	args, env, err := expand(g.choice, g.program, socks)
	if err != nil {
		return spec, err
	}
	spec.Args = args
	if w.out, err = s.opts.Output(int(w.gen), w.index); err != nil {
		return spec, err
	}
	spec.Stdout, spec.Stderr = w.out.Stdout(), w.out.Stderr()
	if w.link, err = s.hub.Open(g.choice, s.spoken(g, w, socks, env)); err != nil {
		return spec, err
	}
	spec.Files = w.link.Files()
	spec.Group = s.enclose(g)
	spec.Env = overlay(env, append(w.link.Env(),
		"BATON_GENERATION="+strconv.Itoa(int(w.gen)), "BATON_WORKER="+strconv.Itoa(max(w.index, 0))))
	if len(s.gens) == 1 {
		w.link.Alone()
	}
	return spec, nil
}

// spoken is a worker as protocols see it.
func (s *Supervisor) spoken(g *generation, w *worker, socks []protocol.Socket, env []string) *protocol.Worker {
	return &protocol.Worker{
		Generation: int(w.gen), Index: max(w.index, 0), Sockets: socks, Base: env, Member: w.member,
		Watchdog: g.plan.Live.Watchdog,
		On:       func(m protocol.Message) { s.post(func() { s.message(w, m) }) },
		Changed:  func() { s.post(func() {}) }, // there may be something to keep
		Log:      s.log.With("generation", int(w.gen)),
	}
}

// reserve makes the worker's slot exist on the listener. Nobody reaches a new
// listener before the newcomer that brought it is let in; the very first one
// queues what comes for whoever will be the first to serve.
func (s *Supervisor) reserve(g *generation, l *listener, w *worker) error {
	slot := int(w.slot)
	if w.role == machine.Emptier {
		if _, err := l.FD(slot); err == nil {
			return nil // it has the slot; Reserve would take back a Refuse
		}
	}
	if err := s.unite(g, l, w); err != nil {
		return err
	}
	unserved := !l.steered && w.role == machine.Member
	if unserved && s.serving() != nil && l.Mode() != socket.Shared { // what is refused there cannot be probed either
		return s.keepShut(l, w.gen)
	}
	if err := l.Reserve(slot); err != nil || !unserved || s.serving() != nil {
		return err
	}
	return l.Steer([]socket.Share{{Slot: slot, Weight: 1}})
}

// keepShut lets nobody reach a newcomer's slots on a listener that nobody has served
// on. All at once: a refusal takes its time, and Reserve of one of several slots that
// are one takes it back for all.
func (s *Supervisor) keepShut(l *listener, n machine.Generation) error {
	if l.shut == n {
		return nil
	}
	slots := s.members(n)
	for _, slot := range slots {
		if err := l.Reserve(slot); err != nil {
			return err
		}
	}
	err := l.Refuse(append(slots, 0)...) // 0 is where a listener steers by itself
	if err == nil {
		l.shut = n
	}
	return err
}

// member says whether pid is one of the worker's processes. It waits until the
// start has been taken note of, since a target may be faster than that.
func (w *worker) member(pid int) bool {
	select {
	case <-w.up:
		return w.proc.Contains(pid)
	case <-w.ctx.Done():
		return false
	}
}

// launched goes on when the target was executed, or was not.
func (s *Supervisor) launched(w *worker, p *process.Process, err error) {
	g := s.gens[w.gen]
	if err != nil {
		g.tail = nil
		if w.out != nil {
			g.tail = w.out.Tail()
		}
		s.release(w)
		s.step(machine.Unstartable{Worker: w.id, Reason: err.Error()})
		return
	}
	w.proc, w.running, w.started = p, true, time.Now()
	close(w.up)
	s.occupants.set(w.slot, w.id, p)
	s.emit(s.of(w, event.Event{Kind: event.Started, Message: fmt.Sprintf("started pid %d for generation %d", p.PID(), w.gen)}))
	s.await(w)
	switch {
	case w.killed:
		_ = p.Kill() // gone already: Done tells
	case w.drain:
		s.askToEnd(w)
	default:
		s.awaitReady(g, w)
		for _, m := range w.early {
			s.message(w, m)
		}
		w.early = nil
	}
}

// await waits for the end of the worker's main process.
func (s *Supervisor) await(w *worker) {
	s.spawn(func() { // ends when the process does: at the latest when it is killed
		<-w.proc.Done()
		s.post(func() { s.exited(w) })
	})
}

// exited handles the end of the worker's main process. Processes that it left
// behind in its group may still serve what they accepted: a worker that was
// asked to end is gone when they are too; one that crashed is followed at once,
// and they are given the drain timeout. Those of a newcomer never served and
// must not be taken for the next one on its slot: they are killed first.
func (s *Supervisor) exited(w *worker) {
	g := s.gens[w.gen]
	newcomer := g.phase == machine.Starting
	switch {
	case !w.proc.Group():
		s.gone(w)
	case w.drain || w.killed || newcomer:
		s.spawn(func() { // ends with the group, which drain_timeout bounds
			if newcomer {
				_ = w.proc.Kill() // gone already: awaitGroup sees it
			}
			s.awaitGroup(w, 0)
			s.post(func() { s.gone(w) })
		})
	default:
		timeout := g.plan.Policy.DrainTimeout
		s.spawn(func() { // ends with the group, after the timeout at the latest
			_ = w.proc.Signal(syscall.SIGTERM) // gone already: awaitGroup sees it
			s.awaitGroup(w, timeout)
		})
		s.gone(w)
	}
}

// awaitGroup waits until no process of the worker's group is left, and kills it
// after the timeout, if there is one, or when the launcher ends.
func (s *Supervisor) awaitGroup(w *worker, timeout time.Duration) {
	var late <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		late = t.C
	}
	ended := s.ctx.Done()
	for pause := 2 * time.Millisecond; w.proc.Group(); pause = min(pause*2, 50*time.Millisecond) {
		select {
		case <-time.After(pause):
		case <-late:
			_ = w.proc.Kill() // gone already: the loop sees it
		case <-ended:
			ended = nil
			_ = w.proc.Kill() // as above
		}
	}
}

// gone is the end of a worker.
func (s *Supervisor) gone(w *worker) {
	g := s.gens[w.gen]
	status := w.proc.Status()
	reason := s.why(w, status)
	if !w.drain {
		s.lost.Store(&status)
		g.tail = w.out.Tail()
		g.hint = s.inTheWay(g, g.tail)
	}
	s.release(w)
	s.ended[w.id] = w.pid()
	stay := status.Signal == 0 && slices.Contains(g.plan.StayCodes, status.Code)
	s.step(machine.Exited{Worker: w.id, Reason: reason, Stay: stay})
	delete(s.ended, w.id)
}

// release frees what the launcher held for the worker.
func (s *Supervisor) release(w *worker) {
	w.cancel()
	if w.link != nil {
		// Nobody is left to write to it. Not here: it waits for a reader that may
		// be waiting for this goroutine.
		s.spawn(func() {
			if err := w.link.Close(); err != nil {
				s.log.Warn("a channel to a worker that is gone", "error", err)
			}
		})
	}
	delete(s.workers, w.id)
	s.occupants.leave(w.slot, w.id)
}

// quiesce tells a worker that it gets no new connections any more.
func (s *Supervisor) quiesce(w *worker) {
	if w.running && !w.ended() {
		s.send(w, s.gens[w.gen].plan.Quiesce)
	}
}

// signal sends a drain signal: the first one, or a further one of the ladder.
func (s *Supervisor) signal(w *worker, rung int) {
	w.drain = true
	w.alive.stop()
	switch {
	case !w.running: // launched does it
	case rung == 0:
		s.askToEnd(w)
	case !w.ended():
		s.send(w, s.gens[w.gen].plan.DrainSignals[rung])
	}
}

// askToEnd tells a worker to finish: by a message, where its protocol has one and
// it serves, and by its signal once it has finished; else by its signal at once.
func (s *Supervisor) askToEnd(w *worker) {
	var finished <-chan struct{}
	if w.ready {
		finished = w.link.Drain()
	}
	if finished == nil {
		s.sendDrainSignal(w)
		return
	}
	s.emit(s.of(w, event.Event{Kind: event.Signalled, Message: fmt.Sprintf("asked pid %d of generation %d to finish", w.proc.PID(), w.gen)}))
	s.awaitFinish(w, finished)
}

// awaitFinish sends the drain signal to a worker that was asked to finish, when it has,
// or takes too long for it. finished is nil when that is not known.
func (s *Supervisor) awaitFinish(w *worker, finished <-chan struct{}) {
	wait := patience(s.gens[w.gen].plan.Policy.DrainTimeout)
	s.spawn(func() { // ends with the worker, or when it has got its signal
		late := time.NewTimer(wait)
		defer late.Stop()
		select {
		case <-finished:
			late.Reset(farewell)
		case <-late.C:
			late.Reset(0)
		case <-w.ctx.Done():
			return
		}
		select {
		case <-late.C:
			s.post(func() {
				if s.workers[w.id] == w && !w.killed && !w.ended() {
					s.sendDrainSignal(w)
				}
			})
		case <-w.proc.Done():
		case <-w.ctx.Done():
		}
	})
}

// patience is how long a worker that was asked to finish is left without a signal:
// of the time before KILL, so much that a program which acts on its signal can.
func patience(drainTimeout time.Duration) time.Duration {
	return max(drainTimeout/2, drainTimeout-5*time.Second)
}

// farewell is how long a worker that has finished may take to end by itself, before
// the signal: it may have a log to flush or a database to leave.
const farewell = time.Second

func (s *Supervisor) sendDrainSignal(w *worker) {
	w.signalled = true
	s.send(w, s.gens[w.gen].plan.DrainSignals[0])
}

func (s *Supervisor) send(w *worker, sig syscall.Signal) {
	_ = w.proc.Signal(sig) // gone already: exited tells
	s.emit(s.of(w, event.Event{Kind: event.Signalled, Message: fmt.Sprintf("sent %s to pid %d of generation %d", signalName(sig), w.proc.PID(), w.gen)}))
}

func (s *Supervisor) kill(w *worker) {
	w.killed = true
	w.alive.stop()
	if !w.running {
		w.cancel() // a start that waits for its executable gives up
		return     // launched kills what was started all the same
	}
	_ = w.proc.Kill() // gone already: exited tells
	s.emit(s.of(w, event.Event{Kind: event.Killed, Message: fmt.Sprintf("killed pid %d of generation %d", w.proc.PID(), w.gen)}))
}

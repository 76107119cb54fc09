package handoff

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"baton/handoff/machine"
	"baton/health"
	"baton/internal/event"
	"baton/internal/protocol"
)

func (s *Supervisor) emit(e event.Event) {
	e.Time = time.Now()
	s.opts.Observe(e)
}

// of fills in who the event is about.
func (s *Supervisor) of(w *worker, e event.Event) event.Event {
	e.Generation, e.Worker, e.Slot, e.PID = int(w.gen), int(w.id), int(w.slot), w.pid()
	return e
}

func (w *worker) pid() int {
	if w.running {
		return w.proc.PID()
	}
	return 0
}

// phases are the notes that move a generation on.
var phases = map[machine.NoteKind]machine.Phase{
	machine.NoteStarting:   machine.Starting,
	machine.NoteServing:    machine.Serving,
	machine.NoteStandby:    machine.Standby,
	machine.NoteRolledBack: machine.Draining,
	machine.NoteDraining:   machine.Draining,
}

// note turns a transition of the rules into an event.
func (s *Supervisor) note(n machine.Note) {
	e := event.Event{
		Kind: event.Kind(n.Kind), Generation: int(n.Gen), Worker: int(n.Worker),
		Slot: int(n.Slot), Reason: n.Reason, Delay: n.Delay,
	}
	if w := s.workers[n.Worker]; w != nil {
		e.PID = w.pid()
	}
	g := s.gens[n.Gen]
	if p, ok := phases[n.Kind]; ok && g != nil {
		g.phase = p
	}
	switch n.Kind {
	case machine.NoteCrashed:
		e.Tail = g.tail
	case machine.NoteRolledBack:
		e.Tail = s.lastLines(g)
	case machine.NoteServing:
		g.served = true
		s.applyOptions(g)
	case machine.NoteLate, machine.NoteLeft:
		e.Kind = event.Finding
	}
	e.Message = s.words(n, g)
	s.emit(e)
}

// lastLines returns what a generation that failed said last: a worker that
// ended, else those that live.
func (s *Supervisor) lastLines(g *generation) []string {
	if g.tail != nil {
		return g.tail
	}
	for _, w := range s.workers {
		if w.gen == g.number && w.out != nil {
			if tail := w.out.Tail(); len(tail) > 0 {
				return tail
			}
		}
	}
	return nil
}

// applyOptions gives the listeners what the generation that now serves says of
// them.
func (s *Supervisor) applyOptions(g *generation) {
	for i, l := range g.listeners {
		o := g.plan.Listeners[i].Options
		o.Shared = l.asked.Shared
		if err := l.Apply(o); err != nil {
			s.finding(l, err.Error())
		}
	}
}

// words says a transition in one sentence.
func (s *Supervisor) words(n machine.Note, g *generation) string {
	gen := fmt.Sprintf("generation %d", n.Gen)
	switch n.Kind {
	case machine.NoteStarting:
		return gen + " starts " + g.release.Path() + " (" + spoken(g.choice) + ")"
	case machine.NoteServing:
		return gen + " serves" + because(n.Reason)
	case machine.NoteStandby:
		return gen + " stands by"
	case machine.NoteRolledBack:
		return gen + " failed: " + n.Reason + s.hint(g, n.Reason) + "; " + s.whoServes(n.Gen)
	case machine.NoteDraining:
		return gen + " drains"
	case machine.NoteGone:
		return gen + " is gone"
	case machine.NoteCrashed:
		return "a worker of " + gen + " was lost: " + n.Reason + s.hint(g, n.Reason)
	case machine.NoteRestarting:
		if n.Delay > 0 {
			return fmt.Sprintf("its successor starts in %v", n.Delay)
		}
		return "its successor starts"
	case machine.NoteLeft, machine.NoteLate:
		return "a worker of " + gen + ": " + n.Reason
	case machine.NoteEmptying:
		return fmt.Sprintf("a worker of %s serves what was left queued on slot %d", gen, n.Slot)
	case machine.NoteAbandoned:
		return fmt.Sprintf("connections queued on slot %d are lost: %s", n.Slot, n.Reason)
	case machine.NoteExited:
		return "a worker of " + gen + " ended: " + n.Reason
	case machine.NoteStopping:
		return "stopping"
	}
	return string(n.Kind)
}

// whoServes says what users of a failed newcomer's application meet.
func (s *Supervisor) whoServes(failed machine.Generation) string {
	for _, g := range s.newestFirst() {
		if g.number != failed && (g.phase == machine.Serving || g.phase == machine.Standby) {
			return fmt.Sprintf("generation %d serves on", g.number)
		}
	}
	return "nothing serves"
}

// hint adds what the engine knows about a failure and the rules do not.
func (s *Supervisor) hint(g *generation, reason string) string {
	late := strings.HasPrefix(reason, "not ready")
	if late && g.hint == "" {
		g.hint = s.inTheWay(g, s.lastLines(g))
	}
	switch words := s.channelHint(g); {
	case late && words != "":
		return " (" + words + ")"
	case g.hint != "":
		return " (" + g.hint + ")"
	case late && s.saysReady(g) && !g.saysReady && !g.choice.Says:
		return " (a ready message was waited for, because the generation that serves sent one)"
	case late && g.plan.Ready.ByMessage():
		return " (no ready message came: it was given " + spoken(g.choice) + ")"
	case late && g.plan.Ready.ByProbe():
		return because(s.lastTry(g))
	case late && g.plan.Ready != health.Delay:
		return " (it did not accept on all of its sockets: does it take them from LISTEN_FDS?)"
	case reason == "exit status 0":
		return " (a target must stay in the foreground)"
	}
	return ""
}

// channelHint is what a worker's protocols know about why it is not ready.
func (s *Supervisor) channelHint(g *generation) string {
	for _, w := range s.workers {
		if w.gen == g.number && w.link != nil && !w.ready {
			if words := w.link.Hint(); words != "" {
				return words
			}
		}
	}
	return ""
}

// lastTry is how the last try of the probe ended that was to make a worker ready.
func (s *Supervisor) lastTry(g *generation) string {
	for _, w := range s.workers {
		if w.gen == g.number && !w.ready {
			if words := w.lastTry.words(); words != "" {
				return "the probe's last try: " + words
			}
		}
	}
	return ""
}

// spoken lists protocols, as in "systemd, node".
func spoken(c *protocol.Choice) string {
	names := make([]string, len(c.Kinds))
	for i, k := range c.Kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

func (s *Supervisor) refusedWords(v machine.Verdict) string {
	who := s.whoServes(v.Gen)
	return fmt.Sprintf("generation %d was not started: %s; %s", v.Gen, v.Reason, who)
}

// because puts a reason behind a sentence.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

func signalName(sig syscall.Signal) string {
	if n := unix.SignalName(sig); n != "" {
		return n
	}
	return sig.String()
}

func (s *Supervisor) report() *event.Report {
	r := &event.Report{Name: s.opts.Name, PID: syscall.Getpid(), Stopping: s.stopping, Verdict: s.verdict}
	for _, l := range s.listeners {
		r.Listeners = append(r.Listeners, event.Listener{
			Name: l.Name(), Address: l.Address().String(), Mode: string(l.Mode()), Reason: l.Reason(),
		})
	}
	slices.SortFunc(r.Listeners, func(a, b event.Listener) int { return strings.Compare(a.Name, b.Name) })
	for _, g := range s.newestFirst() {
		eg := event.Generation{Number: int(g.number), Phase: string(g.phase), Path: g.release.Path()}
		for _, w := range s.workers {
			if w.gen != g.number {
				continue
			}
			eg.Workers = append(eg.Workers, event.Worker{
				Serial: int(w.id), Index: w.index, Slot: int(w.slot), State: w.state(),
				PID: w.pid(), Started: w.started, Status: w.status,
			})
		}
		slices.SortFunc(eg.Workers, func(a, b event.Worker) int { return a.Serial - b.Serial })
		r.Generations = append(r.Generations, eg)
	}
	return r
}

func (w *worker) state() string {
	switch {
	case w.killed:
		return string(machine.Killed)
	case w.drain:
		return string(machine.Signalled)
	case w.ready:
		return string(machine.Ready)
	}
	return string(machine.Coming)
}

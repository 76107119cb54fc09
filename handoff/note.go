package handoff

import (
	"fmt"
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
	s.news = s.news || e.Kind != event.Status && e.Kind != event.Finding // of which there may be many
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
	machine.NoteCanary:     machine.Canary,
	machine.NoteServing:    machine.Serving,
	machine.NoteStandby:    machine.Standby,
	machine.NoteRolledBack: machine.Draining,
	machine.NoteDraining:   machine.Draining,
}

// note turns a transition of the rules into an event.
func (s *Supervisor) note(n machine.Note) {
	e := event.Event{
		Kind: event.Kind(n.Kind), Generation: int(n.Gen), Worker: int(n.Worker),
		Slot: int(n.Slot), Reason: n.Reason, Delay: n.Delay, Weight: n.Weight,
	}
	if w := s.workers[n.Worker]; w != nil {
		e.PID = w.pid()
	} else {
		e.PID = s.ended[n.Worker]
	}
	g := s.gens[n.Gen]
	if p, ok := phases[n.Kind]; ok && g != nil {
		if old := s.serving(); old != nil && p == machine.Serving {
			old.phase, old.scaled = machine.Standby, s.scaled // only one serves; where this one goes is told next
		}
		g.phase = p
	}
	switch n.Kind {
	case machine.NoteCrashed:
		e.Tail = g.tail
	case machine.NoteRolledBack:
		e.Tail = s.lastLines(g)
		s.verdict = string(machine.RolledBack) + ": " + n.Reason // also when it had been let in, and baked
	case machine.NoteServing:
		s.rescale(g)
		g.served = true
		s.applyOptions(g)
		if s.opts.Applied != nil {
			s.opts.Applied(g.plan)
		}
	case machine.NoteRestarting, machine.NoteReplacing:
		s.restarts++
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
		return gen + " starts " + g.program.Path() + " (" + spoken(g.choice) + ")"
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
	return s.moreWords(n, gen)
}

// moreWords is words for what happens to a generation that serves or is about to.
func (s *Supervisor) moreWords(n machine.Note, gen string) string {
	switch n.Kind {
	case machine.NoteCanary:
		switch {
		case n.Weight == 0:
			return gen + " takes over worker by worker"
		case n.Delay == 0:
			return fmt.Sprintf("%s gets %d %% of new connections until it is promoted", gen, n.Weight)
		}
		return fmt.Sprintf("%s gets %d %% of new connections for %v", gen, n.Weight, n.Delay)
	case machine.NoteReverting:
		return gen + " is to be a release that served before" + because(n.Reason)
	case machine.NoteReplacing:
		if n.Delay > 0 {
			return fmt.Sprintf("a worker of %s is replaced: %s; its successor starts in %v", gen, n.Reason, n.Delay)
		}
		return fmt.Sprintf("a worker of %s is replaced: %s", gen, n.Reason)
	case machine.NoteUnhealthy:
		return fmt.Sprintf("a worker of %s does not serve as it should: %s", gen, n.Reason)
	case machine.NoteScaled:
		return fmt.Sprintf("%s is to have %d workers", gen, n.Workers) + because(n.Reason)
	case machine.NoteLooping:
		return "a worker of " + gen + " is lost again and again"
	case machine.NoteLeftStopped:
		return fmt.Sprintf("a worker of %s ended: %s; it is left stopped", gen, n.Reason)
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

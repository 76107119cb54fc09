package machine

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// How actions and state read in text histories and in the traces of random ones.

func (t Timer) String() string {
	if t.Worker == 0 {
		return fmt.Sprintf("%s g%d", t.Kind, t.Gen)
	}
	return fmt.Sprintf("%s w%d", t.Kind, t.Worker)
}

func showAction(a Action) string {
	switch a := a.(type) {
	case Prepare:
		if a.From != 0 {
			return fmt.Sprintf("prepare g%d from g%d", a.Gen, a.From)
		}
		return fmt.Sprintf("prepare g%d", a.Gen)
	case Discard:
		return fmt.Sprintf("discard g%d", a.Gen)
	case Quiesce:
		return fmt.Sprintf("quiesce w%d", a.Worker)
	case Forget:
		return fmt.Sprintf("forget g%d", a.Gen)
	case Start:
		return fmt.Sprintf("start w%d of g%d on slot %d as %s", a.Worker, a.Gen, a.Slot, a.Role) + ordinal(a)
	case Probe:
		return fmt.Sprintf("probe w%d", a.Worker)
	case Steer:
		return "steer to " + showTable(a.Table)
	case Refuse:
		return fmt.Sprintf("refuse on slot %d", a.Slot)
	case Watch:
		if a.Orphan {
			return fmt.Sprintf("watch orphan slot %d", a.Slot)
		}
		return fmt.Sprintf("watch slot %d", a.Slot)
	case WatchIdle:
		return fmt.Sprintf("watch-idle w%d", a.Worker)
	case Signal:
		if a.Rung > 0 {
			return fmt.Sprintf("signal w%d again (%d)", a.Worker, a.Rung)
		}
		return fmt.Sprintf("signal w%d", a.Worker)
	case Kill:
		return fmt.Sprintf("kill w%d", a.Worker)
	case SetTimer:
		return fmt.Sprintf("timer %v in %v", a.Timer, a.After)
	case ExtendTimer:
		return fmt.Sprintf("extend %v to %v", a.Timer, a.After)
	case StopTimer:
		return fmt.Sprintf("untimer %v", a.Timer)
	case Verdict:
		return fmt.Sprintf("verdict on %d: %s", a.Request, a.Outcome) + number(" g", int(a.Gen)) + quoted(a.Reason)
	case Note:
		return showNote(a)
	case Halt:
		return "halt" + quoted(a.Failure)
	}
	panic(fmt.Sprintf("an action without words: %#v", a))
}

func showNote(n Note) string {
	s := "note " + string(n.Kind) + number(" g", int(n.Gen)) + number(" w", int(n.Worker))
	if n.Worker != 0 && n.Slot != none || n.Kind == NoteAbandoned {
		s += fmt.Sprintf(" slot %d", n.Slot)
	}
	if n.Weight != 0 {
		s += fmt.Sprintf(" %d%%", n.Weight)
	}
	s += number(" to ", n.Workers)
	if n.Delay != 0 {
		s += " after " + n.Delay.String()
	}
	return s + quoted(n.Reason)
}

func ordinal(a Start) string {
	if a.Role == Emptier {
		return ""
	}
	return " " + strconv.Itoa(a.Index)
}

func number(prefix string, n int) string {
	if n == 0 {
		return ""
	}
	return prefix + strconv.Itoa(n)
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return " " + strconv.Quote(s)
}

func showTable(table []Share) string {
	var b []string
	for _, s := range table {
		text := fmt.Sprintf("slot %d x%d", s.Slot, s.Weight)
		if s.Side != 0 {
			text += " by client"
		}
		b = append(b, text)
	}
	return strings.Join(b, ", ")
}

// showMachine lists what there is: generations with their workers, slots that
// are not free, the table, and what is running down.
func showMachine(m *Machine) []string {
	var out []string
	for _, g := range m.gens {
		line := fmt.Sprintf("g%d %s", g.number, g.phase)
		if g.release != g.number {
			line += fmt.Sprintf(", the release of g%d", g.release)
		}
		if g.looping {
			line += ", looping"
		}
		out = append(out, line)
		for _, w := range g.workers {
			line := fmt.Sprintf("  w%d %s %s", w.id, w.role, w.state)
			if w.slot != none {
				line += fmt.Sprintf(" slot %d", w.slot)
			}
			if w.forebear != nil {
				line += fmt.Sprintf(" for w%d", w.forebear.id)
			}
			if w.sick {
				line += " sick"
			}
			if w.leaves && !w.ends() {
				line += " leaves"
			}
			out = append(out, line)
		}
	}
	for i, s := range m.slots {
		switch {
		case s.owner == nil:
			out = append(out, fmt.Sprintf("slot %d free", i))
		case s.holder == nil && s.stranded:
			out = append(out, fmt.Sprintf("slot %d orphan of g%d, stranded", i, s.owner.number))
		case s.holder == nil:
			out = append(out, fmt.Sprintf("slot %d orphan of g%d", i, s.owner.number))
		}
	}
	if len(m.good) > 0 {
		out = append(out, fmt.Sprintf("releases to go back to: %v", m.good))
	}
	if m.pending != nil {
		out = append(out, fmt.Sprintf("reload %d is remembered", *m.pending))
	}
	return out
}

// Each action has words of its own, so that a history shows it.
func TestEveryActionHasWords(t *testing.T) {
	said := map[string]Action{}
	for _, a := range []Action{
		Prepare{}, Forget{}, Discard{}, Start{}, Probe{}, Steer{}, Refuse{}, Watch{}, WatchIdle{}, Quiesce{}, Signal{}, Kill{},
		SetTimer{}, ExtendTimer{}, StopTimer{}, Verdict{}, Note{}, Halt{},
	} {
		a.isAction()
		verb, _, _ := strings.Cut(showAction(a), " ")
		if other, twice := said[verb]; twice || verb == "" {
			t.Errorf("%T and %T are both %q", a, other, verb)
		}
		said[verb] = a
	}
}

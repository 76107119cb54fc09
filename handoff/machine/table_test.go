package machine

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const page = "../../docs/design.md"

// The tables of docs/design.md say for every state and every fact what is done
// and which state follows. Each cell is tried: the machine is brought to the
// column's state, told the row's fact, and must do what the cell says, no more.
func TestTablesOfTheRules(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		for _, r := range rules {
			text = r.rewrite(t, text)
		}
		if err := os.WriteFile(page, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	found := parseTables(t, string(text))
	var names []string
	for _, r := range rules {
		names = append(names, r.name)
		t.Run(r.name, func(t *testing.T) { r.compare(t, found[r.name]) })
	}
	for name := range found {
		if !slices.Contains(names, name) {
			t.Errorf("%s: the table %q is tried by nothing", page, name)
		}
	}
}

// Each state and phase is a column somewhere, and each fact is a row.
func TestTablesKnowEveryState(t *testing.T) {
	states, facts := map[string]bool{}, map[string]bool{}
	for _, r := range rules {
		for _, c := range r.columns {
			states[r.state(c.reach(t))] = true
			for _, row := range r.rows {
				s := c.reach(t)
				if row.possible(s) {
					facts[fmt.Sprintf("%T", row.fact(t, s))] = true
				}
			}
		}
	}
	for _, s := range []State{Waiting, Coming, Probing, Ready, Failed, Quieting, Idling, Signalled, Killed} {
		if !states[string(s)] {
			t.Errorf("no column for the worker's state %q", s)
		}
	}
	for _, p := range []Phase{Preparing, Starting, Canary, Serving, Standby, Draining} {
		if !states[string(p)] {
			t.Errorf("no column for the generation's phase %q", p)
		}
	}
	for _, e := range []Event{
		Reload{}, Prepared{}, Refused{}, Unstartable{}, Exited{}, BecameReady{}, Probed{}, Extended{}, Left{},
		Broken{}, Quiet{}, Stranded{}, Steered{}, Unsteered{}, Idle{}, Fired{}, Stop{}, End{},
		Unhealthy{}, Outgrown{}, Scale{}, Rollback{}, Promote{}, Abort{},
	} {
		e.isEvent()
		if !facts[fmt.Sprintf("%T", e)] {
			t.Errorf("no row for %T", e)
		}
	}
}

// table is one table of the rules: states to the right, facts downwards.
type table struct {
	name    string
	columns []column
	rows    []row
	state   func(*situation) string
	about   func(*situation, Action) bool // whether an action is about the table's subject
}

// column is a state and the facts that lead to it.
type column struct {
	name    string
	prelude []string
	subject subject
}

type subject struct {
	gen    Generation
	worker Worker
	slot   Slot
}

// row is a fact, with what must come before it in the same state.
type row struct {
	name  string
	can   func(*situation) bool     // whether it can come about; nil: always
	setup func(*situation) []string // nil: nothing
	told  func(*situation) string   // the fact in words
}

// situation is a machine in a column's state.
type situation struct {
	*player
	subject
	before Worker  // the last worker when the fact was told
	table  []Share // the table then
}

func (c column) reach(t *testing.T) *situation {
	t.Helper()
	s := &situation{player: newPlayer(), subject: c.subject}
	s.tell(t, c.prelude)
	return s
}

func (s *situation) tell(t *testing.T, lines []string) {
	t.Helper()
	for _, line := range lines {
		if _, err := s.play(line); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
}

func (r row) possible(s *situation) bool { return r.can == nil || r.can(s) }

func (r row) fact(t *testing.T, s *situation) Event {
	t.Helper()
	if r.setup != nil {
		s.tell(t, r.setup(s))
	}
	words, err := split(r.told(s))
	if err != nil {
		t.Fatal(err)
	}
	if words[0] == "fire" { // whether it runs or not: a timer may fire late, or have never been set
		name := strings.Join(words[1:], " ")
		timer, ever := s.last[name]
		if !ever {
			timer = Timer{Kind: TimerKind(words[1]), Worker: s.worker, Seq: 1 << 30}
		}
		return Fired{timer}
	}
	e, err := s.event(words)
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	return e
}

// cell tries one fact in one state.
func (tb table) cell(t *testing.T, c column, r row) string {
	s := c.reach(t)
	if !r.possible(s) {
		return "impossible"
	}
	e := r.fact(t, s)
	was, pending := tb.state(s), s.m.pending
	s.before, s.table = s.m.lastWork, s.m.table
	var done []string
	for _, a := range s.step(e) {
		if tb.about(s, a) {
			done = append(done, word(a))
		}
	}
	if s.m.pending != nil && s.m.pending != pending {
		done = append(done, "remember")
	}
	next := ""
	if now := tb.state(s); now != was {
		next = "→ **" + now + "**"
	}
	if text := strings.TrimSpace(strings.Join(done, ", ") + " " + next); text != "" {
		return text
	}
	return "—"
}

// word is an action in a cell: notes in italics, timers with + when set, - when
// stopped, ~ when extended.
func word(a Action) string {
	switch a := a.(type) {
	case Note:
		return "_" + string(a.Kind) + "_"
	case Verdict:
		return "verdict _" + string(a.Outcome) + "_"
	case SetTimer:
		return "+" + string(a.Timer.Kind)
	case StopTimer:
		return "-" + string(a.Timer.Kind)
	case ExtendTimer:
		return "~" + string(a.Timer.Kind)
	}
	verb, _, _ := strings.Cut(showAction(a), " ")
	return verb
}

func (tb table) compare(t *testing.T, found map[string]map[string]string) {
	if found == nil {
		t.Fatalf("%s: no table <!-- rules: %s -->", page, tb.name)
	}
	for _, c := range tb.columns {
		if found[c.name] == nil {
			t.Errorf("no column %q", c.name)
		}
		for _, r := range tb.rows {
			want, there := found[c.name][r.name]
			if got := tb.cell(t, c, r); got != want || !there {
				t.Errorf("%s in state %q:\n  the page says %s\n  it does       %s", r.name, c.name, want, got)
			}
			delete(found[c.name], r.name)
		}
		for name := range found[c.name] {
			t.Errorf("the row %q is tried by nothing", name)
		}
		delete(found, c.name)
	}
	for name := range found {
		t.Errorf("the column %q is tried by nothing", name)
	}
}

var marked = regexp.MustCompile(`(?m)^<!-- rules: (.+) -->\n+((?:\|.*\n)*)\n*`)

// parseTables reads table, column and row to cell.
func parseTables(t *testing.T, text string) map[string]map[string]map[string]string {
	t.Helper()
	tables := map[string]map[string]map[string]string{}
	for _, m := range marked.FindAllStringSubmatch(text, -1) {
		cells := map[string]map[string]string{}
		var columns []string
		for n, line := range strings.Split(strings.TrimSuffix(m[2], "\n"), "\n") {
			fields := strings.Split(strings.Trim(line, "|"), "|")
			for i := range fields {
				fields[i] = strings.TrimSpace(fields[i])
			}
			switch {
			case n == 0:
				columns = fields[1:]
				for _, c := range columns {
					cells[c] = map[string]string{}
				}
			case n == 1: // |---|
			case len(fields) != len(columns)+1:
				t.Fatalf("%s: %d cells beside %d columns: %s", page, len(fields)-1, len(columns), line)
			default:
				for i, c := range columns {
					cells[c][fields[0]] = fields[i+1]
				}
			}
		}
		tables[m[1]] = cells
	}
	return tables
}

func (tb table) rewrite(t *testing.T, text []byte) []byte {
	t.Helper()
	var b strings.Builder
	b.WriteString("| |")
	for _, c := range tb.columns {
		b.WriteString(" " + c.name + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(tb.columns)) + "\n")
	for _, r := range tb.rows {
		b.WriteString("| " + r.name + " |")
		for _, c := range tb.columns {
			b.WriteString(" " + tb.cell(t, c, r) + " |")
		}
		b.WriteString("\n")
	}
	return marked.ReplaceAllFunc(text, func(old []byte) []byte {
		if name := marked.FindSubmatch(old)[1]; string(name) != tb.name {
			return old
		}
		return []byte("<!-- rules: " + tb.name + " -->\n\n" + b.String() + "\n")
	})
}

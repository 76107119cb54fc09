package tui

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// The smallest screen that everything fits on.
const (
	leastWidth  = 80
	leastHeight = 16
)

func textWidth(s string) int { return ansi.StringWidth(s) }

// View draws the screen.
func (s *screen) View() tea.View {
	var lines []string
	switch {
	case s.width == 0: // its size is not known yet
	case s.width < leastWidth || s.height < leastHeight:
		lines = []string{
			fmt.Sprintf("baton monit needs %d columns and %d rows;", leastWidth, leastHeight),
			fmt.Sprintf("this terminal has %d and %d.", s.width, s.height), "", "q quits",
		}
	case s.help:
		lines = s.helpLines()
	default:
		lines = s.draw()
	}
	if len(lines) > s.height {
		lines = lines[:s.height]
	}
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	return v
}

// layout says how many lines each part of the screen has besides its heading.
type layout struct {
	apps, motion, workers, graph, log int
}

// layout gives the log a quarter of what is left beside what is always there, then
// the list and the workers what they ask for, and the log what they leave.
func (s *screen) layout() layout {
	const always = 7 // title, two headings and the heads of two tables, message, keys
	var l layout
	switch {
	case s.height < 30:
		l.graph = 1
	case s.height < 44:
		l.graph = 4
	default:
		l.graph = 5
	}
	room := s.height - always - l.graph
	least := max(3, room/4)
	l.motion = min(len(s.motion()), max(1, room/5))
	room -= l.motion
	left := room - least
	apps, workers := max(1, len(s.apps)), max(1, len(s.workers()))
	l.apps = min(apps, max(1, left/2))
	l.workers = max(1, min(workers, left-l.apps))
	l.apps = max(l.apps, min(apps, left-l.workers))
	l.log = max(1, room-l.apps-l.workers)
	return l
}

func (s *screen) draw() []string {
	l := s.layout()
	title := s.look.paint(strong, "baton") + "  " + plural(len(s.apps), "application")
	lines := []string{s.look.ends(title, s.now.Format("15:04:05"), s.width)}
	lines = append(lines, s.list(l.apps)...)
	lines = append(lines, s.detail(l)...)
	lines = append(lines, s.logLines(l.log)...)
	return append(lines, s.messageLine(), s.keyLine())
}

// list is the table of the applications.
func (s *screen) list(room int) []string {
	columns := s.listColumns()
	lines := []string{s.look.heads(columns, s.width)}
	if len(s.apps) == 0 {
		text := "  looking for launchers in " + s.o.Directory
		if s.answered {
			text = "  no application runs; launchers are looked for in " + s.o.Directory
		}
		return append(lines, s.look.cut(text, s.width))
	}
	first, last := window(len(s.apps), room, s.appsTop, max(0, s.at()))
	s.appsTop = first
	for i := first; i < last; i++ {
		a := s.apps[i]
		chosen := a.name == s.selected
		lines = append(lines, s.look.row(columns, s.appCells(a)[:len(columns)], s.width, chosen, chosen && s.focus == listPane))
	}
	return lines
}

// listColumns has the name as wide as it must be, and on a wide screen what it
// listens on and the last verdict.
func (s *screen) listColumns() []column {
	columns := []column{
		{"NAME", 4, false}, {"STATE", 10, false}, {"GEN", 4, true}, {"READY", 7, true},
		{"CPU%", 5, true}, {"MEMORY", 7, true}, {"UPTIME", 7, true}, {"RESTARTS", 8, true},
	}
	room := s.width - widthOf(columns) + columns[0].width
	for _, a := range s.apps {
		columns[0].width = max(columns[0].width, min(textWidth(clean(a.name)), room))
	}
	room -= columns[0].width
	const verdict, listens, gap = 14, 40, 2
	switch {
	case room >= gap+listens+1+verdict:
		columns = append(columns, column{"", 0, false}, column{"LAST VERDICT", room - gap - listens - 1, false}, column{"LISTENS ON", listens, false})
	case room >= gap+verdict:
		columns = append(columns, column{"", 0, false}, column{"LAST VERDICT", room - gap, false})
	}
	return columns
}

func (s *screen) appCells(a *application) []cell {
	state, t := a.state()
	row := cells(clean(a.name), state, "-", "-", "-", "-", "-", "-", "", "", "")
	row[1].tone = t
	if a.err != nil {
		row[9] = cell{clean(a.err.Error()), bad}
	}
	if a.ended && a.rest != nil {
		row[9].text = clean(a.rest.Verdict)
	}
	if a.ended || a.report == nil {
		return row
	}
	if g := a.shown(); g != nil {
		row[2].text = fmt.Sprint(g.Number)
		row[3].text = fmt.Sprintf("%d/%d", g.Ready(), g.Wanted)
		row[6].text = since(oldest(g), s.now)
	}
	row[4].text, row[5].text, row[7].text = percent(a.cpu()), size(a.memory()), fmt.Sprint(a.report.Restarts)
	if a.err == nil {
		row[9].text = clean(a.report.Verdict)
	}
	var listens []string
	for _, l := range a.report.Listeners {
		listens = append(listens, clean(l.Address))
	}
	row[10].text = strings.Join(listens, " ")
	return row
}

// logLines is the log with its heading.
func (s *screen) logLines(room int) []string {
	title := "log"
	if !s.log.open {
		title = "what changed"
	}
	right := ""
	if s.log.search != "" && !s.log.typing {
		right = "/" + s.log.search + "  n older  N newer"
	}
	if s.log.back > 0 {
		right = strings.TrimSpace(right + "  " + plural(s.log.back, "line") + " below")
	}
	lines := []string{s.look.heading(title, right, s.width, s.focus == logPane)}
	all := s.shown()
	last := max(0, len(all)-s.log.back)
	for i := max(0, last-room); i < last; i++ {
		lines = append(lines, s.logLine(all[i], i == s.log.found))
	}
	for len(lines) <= room {
		lines = append(lines, "")
	}
	return lines
}

func (s *screen) logLine(line Line, found bool) string {
	who, t := fmt.Sprintf("%d/%d", line.Generation, line.Worker), plain
	switch line.Stream {
	case "baton":
		who, t = "baton", strong
	case "err":
		who, t = who+" err", bad
	}
	head := line.Time.Local().Format("15:04:05") + " "
	room := s.width - len(head) - 9
	text := s.look.cut(line.Text, s.log.right+room)
	if s.log.right > 0 {
		text = ansi.TruncateLeft(text, s.log.right, "")
	}
	if found {
		text = s.look.paint(marked, text)
	} else if s.log.search != "" && matches(line.Text, s.log.search) {
		text = s.look.paint(strong, text)
	}
	return s.look.paint(faint, head) + s.look.paint(t, s.look.fit(who, 8)) + " " + text
}

// messageLine is where questions are asked and answers shown.
func (s *screen) messageLine() string {
	switch {
	case s.ask != nil:
		return s.look.paint(marked, s.look.cut(clean(s.ask.text), s.width))
	case s.log.typing:
		text := s.log.search
		if over := textWidth(text) - s.width + 2; over > 0 {
			text = ansi.TruncateLeft(text, over, "")
		}
		return "/" + text + s.look.paint(marked, " ")
	}
	return s.look.paint(s.message.tone, s.look.cut(s.message.text, s.width))
}

// hint is a key and what it does.
type hint struct{ key, what string }

// keyLine names the keys that are of use now.
func (s *screen) keyLine() string {
	left, restart := []hint{{"r", "reload"}, {"s", "stop"}, {"+ -", "scale"}, {"b", "roll back"}}, "restart"
	switch a := s.app(s.selected); {
	case a == nil:
	case a.ended:
		left, restart = nil, "start"
	case a.in("canary", "standby") != nil:
		left = append([]hint{{"p", "promote"}, {"a", "abort"}}, left...)
	}
	if s.o.Restart != nil {
		left = append(left, hint{"R", restart})
	}
	left = append(left, hint{"/", "search"}, hint{"tab", "pane"})
	right := s.hints([]hint{{"?", "help"}, {"q", "quit"}})
	room := s.width - textWidth(right) - 2
	for len(left) > 0 && textWidth(s.hints(left)) > room {
		left = left[:len(left)-1]
	}
	return s.look.ends(s.hints(left), right, s.width)
}

func (s *screen) hints(all []hint) string {
	words := make([]string, len(all))
	for i, h := range all {
		words[i] = s.look.paint(strong, h.key) + " " + s.look.paint(faint, h.what)
	}
	return strings.Join(words, "  ")
}

func (s *screen) helpLines() []string {
	entries := []string{
		"up down, k j   select", "tab            the next pane: list, workers, log", "pgup pgdown    by a screen; home end: to the end",
		"left right     a long line of the log", "/              search the log; n older, N newer, esc ends it", "",
		"r              reload: swap to what is configured now", "b              roll back to what served before",
		"+ -            one worker more, or less", "s              stop: finish what there is, and end",
		"p              end a canary or a bake, for the newcomer; or its next step", "a              end it for who served before",
	}
	if s.o.Restart != nil {
		entries = append(entries, "R              stop and start; start what does not run")
	}
	entries = append(entries, "", "q              quit; the applications run on. Any key closes this.")
	lines := []string{s.look.heading("keys", "each asks first", s.width, false)}
	for _, e := range entries {
		lines = append(lines, s.look.cut("  "+e, s.width))
	}
	return lines
}

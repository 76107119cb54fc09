package tui

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"baton/internal/event"
)

// crewman is one row of the workers' table: a worker, or a generation without one.
type crewman struct {
	generation *event.Generation
	worker     *event.Worker
}

// workers are the rows of the selected application's table, the newest generation
// first.
func (s *screen) workers() []crewman {
	a := s.app(s.selected)
	if a == nil || a.report == nil || a.ended {
		return nil
	}
	var rows []crewman
	for i := range a.report.Generations {
		g := &a.report.Generations[i]
		if len(g.Workers) == 0 {
			rows = append(rows, crewman{generation: g})
		}
		for j := range g.Workers {
			rows = append(rows, crewman{g, &g.Workers[j]})
		}
	}
	return rows
}

// detail is the selected application: what is under way, its workers, its graphs.
func (s *screen) detail(l layout) []string {
	a := s.app(s.selected)
	title, right := "no application", ""
	if a != nil {
		title = clean(a.name)
		if g := a.shown(); g != nil && g.Path != "" {
			right = clean(g.Path)
		}
	}
	lines := []string{s.look.heading(title, right, s.width, s.focus == workerPane)}
	lines = append(lines, s.motion()[:l.motion]...)
	columns := s.workerColumns()
	lines = append(lines, s.look.heads(columns, s.width))
	rows := s.workers()
	s.row = max(0, min(s.row, len(rows)-1))
	first, last := window(len(rows), l.workers, s.rowTop, s.row)
	s.rowTop = first
	for i := first; i < last; i++ {
		row := s.workerCells(a, rows[i], i == first || rows[i].generation != rows[i-1].generation)
		on := i == s.row && s.focus == workerPane
		lines = append(lines, s.look.row(columns, row[:len(columns)], s.width, on, on))
	}
	for range l.workers - (last - first) {
		lines = append(lines, "")
	}
	return append(lines, s.graphs(a, l.graph)...)
}

func (s *screen) workerColumns() []column {
	columns := []column{
		{"GEN", 4, true}, {"PHASE", 9, false}, {"NO", 3, true}, {"PID", 7, true}, {"STATE", 9, false}, {"CPU%", 5, true},
		{"MEMORY", 6, true}, {"UPTIME", 7, true}, {"RESTARTS", 8, true}, {"CONN", 5, true}, {"NEW%", 5, true},
	}
	const gap = 2
	if room := s.width - widthOf(columns) - gap; room >= 20 {
		columns = append(columns, column{"", 0, false}, column{"IN ITS OWN WORDS", room, false})
	}
	return columns
}

// workerCells is a row; of a generation's rows the first has its number and phase.
func (s *screen) workerCells(a *application, c crewman, first bool) []cell {
	row := make([]cell, 13)
	if first {
		row[0].text, row[1] = strconv.Itoa(c.generation.Number), cell{clean(c.generation.Phase), phaseTone(c.generation.Phase)}
	}
	w := c.worker
	if w == nil {
		row[4].text = "no worker"
		return row
	}
	row[2].text = strconv.Itoa(w.Index)
	row[3].text = "-"
	if w.PID != 0 {
		row[3].text = strconv.Itoa(w.PID)
	}
	row[4] = cell{clean(w.State), stateTone(w.State)}
	switch {
	case w.Stuck:
		row[4] = cell{"stuck", bad}
	case w.Role == "emptier" && w.State == "ready":
		row[4] = cell{"emptying", moving}
	}
	row[5].text = "-"
	if p, known := a.percent[w.Serial]; known {
		row[5].text = percent(p)
	}
	row[6].text, row[7].text, row[8].text = size(w.Memory), since(w.Started, s.now), strconv.Itoa(w.Restarts)
	row[9].text = "-"
	if w.Connections != nil {
		row[9].text = strconv.Itoa(*w.Connections)
	}
	row[10].text = strconv.FormatFloat(math.Round(10*w.Weight)/10, 'f', -1, 64)
	row[12].text = clean(w.Status)
	return row
}

func phaseTone(phase string) tone {
	if phase == "serving" {
		return good
	}
	return moving
}

func stateTone(state string) tone {
	switch state {
	case "ready":
		return good
	case "waiting", "failed", "killed":
		return bad
	}
	return moving
}

// barWidth is that of the bars of what is under way.
const barWidth = 16

// motion says what is under way with the selected application, a line for each.
func (s *screen) motion() []string {
	a := s.app(s.selected)
	if a == nil || a.report == nil || a.ended {
		return nil
	}
	var lines []string
	for _, g := range a.report.Generations {
		if line := s.motionOf(a, g); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func (s *screen) motionOf(a *application, g event.Generation) string {
	up := g.Ready()
	workers := fmt.Sprintf("%d of %s ready", up, plural(g.Wanted, "worker"))
	switch g.Phase {
	case "preparing":
		return s.step(g, "prepare", -1, 0, "what it is to run is looked up")
	case "starting":
		return s.step(g, "start", float64(up), float64(g.Wanted), workers)
	case "canary":
		if c := g.Canary; c != nil && c.Steps > 0 {
			return s.step(g, "canary", float64(c.Weight), 100, share(c))
		}
		return s.step(g, "rolling", float64(up), float64(g.Wanted), workers+", worker by worker")
	case "serving":
		if up < g.Wanted {
			return s.step(g, "serve", float64(up), float64(g.Wanted), workers)
		}
	case "standby":
		return s.step(g, "bake", -1, 0, "stands by: p ends it, a has it serve again")
	case "draining":
		left, known := connections(g)
		if !known {
			return s.step(g, "drain", -1, 0, plural(len(g.Workers), "worker")+" left")
		}
		return s.step(g, "drain", float64(left), float64(a.peak[g.Number]),
			fmt.Sprintf("%s left in %s", plural(left, "connection"), plural(len(g.Workers), "worker")))
	}
	return ""
}

// step is a line with a bar; without one when part is less than nothing.
func (s *screen) step(g event.Generation, word string, part, whole float64, text string) string {
	bar := strings.Repeat(" ", barWidth)
	if part >= 0 {
		bar = s.look.bar(part, whole, barWidth)
	}
	line := fmt.Sprintf("  %s %4d %s %s", s.look.paint(moving, s.look.fit(word, 8)), g.Number, s.look.paint(moving, bar), text)
	return s.look.cut(line, s.width)
}

package tui

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"baton/internal/brief"
)

// figure is one graph.
type figure struct {
	name  string
	now   string // its value
	of    func(before, s sample) float64
	least float64 // the top of its scale, at least
	text  func(float64) string
}

// figures are the graphs of an application: its third is of the connections that are
// left where something drains or has, and of restarts otherwise.
func (a *application) figures() []figure {
	cpu := figure{"cpu", "-", ofCPU, 10, func(v float64) string { return percent(v) + "%" }}
	memory := figure{"memory", "-", ofMemory, 1, func(v float64) string { return size(uint64(v)) }}
	restarts := figure{"restarts", "-", ofRestarts, 3, func(v float64) string { return fmt.Sprint(int(v)) }}
	if a.report != nil && !a.ended {
		if c := a.cpu(); c >= 0 {
			cpu.now = percent(c) + "%"
		}
		memory.now, restarts.now = size(a.memory()), fmt.Sprint(a.report.Restarts)
	}
	if !slices.ContainsFunc(a.history.samples, func(s sample) bool { return s.connections > 0 }) {
		return []figure{cpu, memory, restarts}
	}
	draining := figure{"draining", "-", ofConnections, 1, func(v float64) string { return fmt.Sprint(int(v)) }}
	if last := a.history.samples[len(a.history.samples)-1]; last.connections >= 0 && !a.ended {
		draining.now = fmt.Sprint(int(last.connections))
	}
	return []figure{cpu, memory, draining}
}

// graphs draws the figures side by side: each beside its name where there is one
// line, and else below it.
func (s *screen) graphs(a *application, lines int) []string {
	out := make([]string, lines)
	if a == nil {
		return out
	}
	const margin = 2 // before each
	each := s.width/3 - margin
	for _, f := range a.figures() {
		label := f.name + " " + f.now
		width, room := each, lines-1
		if lines == 1 {
			width, room = each-textWidth(label)-1, 1
		}
		values := a.history.columns(width, f.of)
		early := strings.Repeat(" ", max(0, width-len(values))) // the present is at the right
		top := f.least
		for _, v := range values {
			top = max(top, v)
		}
		rows := s.look.graph(values, top, room)
		if lines == 1 {
			rows = []string{label + " " + early + rows[0]}
		} else {
			most := fmt.Sprintf("up to %s, last %s", f.text(top), brief.Age(time.Duration(len(a.history.samples))*calm))
			for i := range rows {
				rows[i] = early + rows[i]
			}
			rows = append([]string{s.look.ends(label, s.look.paint(faint, most), each)}, rows...)
		}
		for i, row := range rows {
			out[i] += strings.Repeat(" ", margin) + s.look.fit(row, each)
		}
	}
	return out
}

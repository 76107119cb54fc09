package tui

import (
	"slices"
	"time"

	"baton/internal/event"
)

// application is what is known of one, from one report to the next.
type application struct {
	name   string
	report *event.Report // the last one; nil: none yet
	err    error         // why the last question had no answer
	ended  bool          // its launcher is not there, or not any more
	rest   *event.Report // what is known of it then, as baton status has it; nil: nothing
	asking bool          // a question is open
	due    time.Time     // when the next one is to be asked

	looked  time.Time             // when the figures were taken from which CPU use is counted
	spent   map[int]time.Duration // CPU time by a worker's serial, then
	percent map[int]float64       // of one CPU, by a worker's serial
	peak    map[int]int           // the most connections that a generation had left, while it drained
	history history
	notices []Line // what was seen to change
}

// How often a launcher is asked: what is under way is watched more closely.
const (
	calm   = time.Second
	closer = 250 * time.Millisecond
)

// learn takes in an answer.
func (a *application) learn(r *event.Report, err error, now time.Time) {
	a.asking, a.due = false, now.Add(calm)
	if a.err = err; err != nil {
		return
	}
	for _, text := range changes(a.report, r) {
		a.note(now, text)
	}
	if a.report != nil && a.report.PID != r.PID { // another launcher: serials begin anew
		a.spent, a.percent, a.peak = nil, nil, nil
	}
	a.report, a.ended = r, false
	a.measure(now)
	if a.underway() {
		a.due = now.Add(closer)
	}
}

// note keeps a line for the log.
func (a *application) note(now time.Time, text string) {
	const most = 500
	if len(a.notices) >= most {
		a.notices = slices.Delete(a.notices, 0, most/5)
	}
	a.notices = append(a.notices, Line{Time: now, Stream: "baton", Text: text})
}

// measure counts CPU use between two looks a second apart, and keeps the figures of
// the second for the graphs.
func (a *application) measure(now time.Time) {
	for _, g := range a.report.Generations {
		if left, known := connections(g); known {
			if a.peak == nil {
				a.peak = map[int]int{}
			}
			a.peak[g.Number] = max(a.peak[g.Number], left)
		}
	}
	passed := now.Sub(a.looked)
	if !a.looked.IsZero() && passed < calm*9/10 {
		return
	}
	spent, percent := map[int]time.Duration{}, map[int]float64{}
	for _, g := range a.report.Generations {
		for _, w := range g.Workers {
			if w.PID == 0 {
				continue
			}
			spent[w.Serial] = w.CPU
			before, known := a.spent[w.Serial]
			if known || a.spent != nil && w.Started.After(a.looked) {
				percent[w.Serial] = max(0, 100*(w.CPU-before).Seconds()/passed.Seconds())
			}
		}
	}
	a.looked, a.spent, a.percent = now, spent, percent
	a.history.add(a.sample())
}

func (a *application) sample() sample {
	s := sample{cpu: a.cpu(), memory: float64(a.memory()), restarts: a.report.Restarts, connections: -1}
	for _, g := range a.report.Generations {
		if left, known := connections(g); known {
			s.connections = max(0, s.connections) + float64(left)
		}
	}
	return s
}

// cpu is what all workers use, in percent of one CPU; -1: not known yet.
func (a *application) cpu() float64 {
	total := -1.0
	for _, p := range a.percent {
		total = max(0, total) + p
	}
	return total
}

func (a *application) memory() uint64 {
	var total uint64
	for _, g := range a.report.Generations {
		for _, w := range g.Workers {
			total += w.Memory
		}
	}
	return total
}

// connections that a generation has left, where one of its workers tells.
func connections(g event.Generation) (left int, known bool) {
	for _, w := range g.Workers {
		if w.Connections != nil {
			left, known = left+*w.Connections, true
		}
	}
	return left, known
}

// underway reports whether something goes on that will end by itself, or is waited
// for.
func (a *application) underway() bool {
	return a.report.Stopping || a.report.State != event.StateServing ||
		slices.ContainsFunc(a.report.Generations, func(g event.Generation) bool {
			return g.Phase != "serving" || g.Ready() < g.Wanted
		})
}

// shown is the generation that stands for the application; nil when there is none.
func (a *application) shown() *event.Generation {
	if a.report == nil {
		return nil
	}
	return a.report.Shown()
}

// in is the newest generation in one of the phases; nil: none is.
func (a *application) in(phases ...string) *event.Generation {
	if a.report == nil {
		return nil
	}
	for i, g := range a.report.Generations {
		if slices.Contains(phases, g.Phase) {
			return &a.report.Generations[i]
		}
	}
	return nil
}

// state is one word, and its tone. When the application serves it says what is under
// way besides, as baton status does.
func (a *application) state() (string, tone) {
	switch {
	case a.ended && a.rest != nil && a.rest.State == event.StateStopped:
		return event.StateStopped, plain
	case a.ended && a.rest != nil:
		return clean(a.rest.State), bad
	case a.ended:
		return "ended", bad
	case a.err != nil:
		return "silent", bad
	case a.report == nil:
		return "-", plain
	}
	switch s := a.report.State; s {
	case event.StateServing:
	case event.StateStarting, event.StateStopping:
		return s, moving
	default:
		return clean(s), bad
	}
	for _, of := range []struct{ phase, word string }{
		{"canary", "canary"}, {"preparing", "swapping"}, {"starting", "swapping"}, {"standby", "baking"}, {"draining", "draining"},
	} {
		if a.in(of.phase) != nil {
			return of.word, moving
		}
	}
	return event.StateServing, good
}

// oldest is when the oldest worker of a generation was started.
func oldest(g *event.Generation) time.Time {
	var first time.Time
	for _, w := range g.Workers {
		if !w.Started.IsZero() && (first.IsZero() || w.Started.Before(first)) {
			first = w.Started
		}
	}
	return first
}

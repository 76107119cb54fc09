package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"baton/internal/brief"
	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/launcher"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

func (p *program) statusCommand() *cli.Command {
	return asked(verb{
		name: "status", line: "[NAME...] [flags]",
		does: "show the applications that there are",
		text: `
A line for each: its state, the generation that serves, its workers that are
ready of those there should be, baton's pid, the CPU and memory of its workers,
how long its oldest worker runs, how often a worker was started in the place of
another (RST), and the last verdict. CPU is an average since the workers started,
100% being one CPU; baton show and monit have it as it is now.

Without a NAME it is every application of this user that runs, and that baton start
has started: those are stopped when they don't run, and died when the launcher was
killed; none is no error. Those of another user, root's for one, are that user's to
see.

With --ready it is a probe, for a container's health check or a script: it shows
nothing, and fails (1) unless every NAME serves: a worker that is ready receives
new connections.`,
		ends: []Code{NotRunning},
		also: []string{"ls"},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "ready", Usage: "show nothing; exit with 0 when each NAME serves"},
		&cli.BoolFlag{Name: "json", Usage: "print everything as JSON: an object with a NAME, else a list"},
	}, p.status)
}

func (p *program) status(c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) == 1 && names[0] == all {
		names = nil
	}
	for _, name := range names {
		if name == "" {
			return usage("", "the name is empty")
		}
		if !control.Fits(name) {
			return usage("", "%q is no name of an application", name)
		}
	}
	if c.Bool("ready") {
		if len(names) == 0 || c.Bool("json") {
			return usage("", "--ready goes with names, and without --json")
		}
		return p.ready(c, names)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	ctx, cancel := quickly(c)
	defer cancel()
	dir, err := control.Home()
	if err != nil {
		return err
	}
	all, err := states(ctx, dir, names)
	if err != nil {
		return err
	}
	worst, problem := Done, error(nil)
	shownStates := all[:0]
	for _, s := range all {
		if len(names) > 0 && !s.runs() {
			worst = NotRunning
		}
		if s.report == nil && s.err == nil {
			worst = max(worst, p.report(notRunning(dir, s.name+" is not running")))
			continue
		}
		shownStates = append(shownStates, s)
	}
	switch {
	case c.Bool("json"):
		problem = p.statusJSON(shownStates, len(names) == 1)
	case len(shownStates) > 0:
		problem = p.table(shownStates)
	case len(names) == 0:
		fmt.Fprintln(p.stderr, "no application runs; launchers are looked for in "+dir)
	}
	if problem != nil || worst == Done {
		return problem
	}
	return shown(worst)
}

// ready fails unless all of these serve, and says which does not. It asks for nothing
// that a table would have besides: it may be run every second.
func (p *program) ready(c *cli.Context, names []string) error {
	return p.each(names, func(name string) error {
		app, err := client(name)
		if err != nil {
			return err
		}
		ctx, cancel := quickly(c)
		defer cancel()
		r, err := app.Glance(ctx)
		if err != nil {
			return refused(err)
		}
		if r.State != event.StateServing {
			return fmt.Errorf("%s does not serve: %s", name, r.State)
		}
		return nil
	})
}

func (p *program) statusJSON(all []state, alone bool) error {
	reports, problem := []*event.Report{}, error(nil)
	for _, s := range all {
		if s.err != nil {
			problem = errors.Join(problem, s.err)
			continue
		}
		reports = append(reports, s.report)
	}
	if alone {
		if len(reports) == 0 {
			return problem
		}
		return p.printJSON(reports[0])
	}
	return errors.Join(p.printJSON(reports), problem)
}

// state is what is known of one application.
type state struct {
	name   string
	report *event.Report // nil when nothing is known of it, or with err
	err    error         // why there is none of one that runs
}

func (s state) runs() bool { return s.err != nil || s.report != nil && s.report.PID != 0 }

// states asks all launchers at once: one that hangs holds up none of the others. Of
// those that don't run it is told what is known; with names, of those alone.
func states(ctx context.Context, dir string, names []string) ([]state, error) {
	found, known, err := atHand(dir)
	if err != nil {
		return nil, err
	}
	asked := len(names) > 0
	if !asked {
		names = either(found, known)
	}
	all := make([]state, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		all[i].name = name
		if found[name].Socket {
			wg.Go(func() { // ends with the answer, or with ctx
				all[i].report, all[i].err = control.In(dir, name).Glance(ctx)
			})
		}
	}
	wg.Wait()
	measure(all)
	for i := range all {
		s := &all[i]
		if errors.Is(s.err, control.ErrNotRunning) { // it has ended, or was killed
			s.report, s.err = nil, nil
		}
		if s.report != nil || s.err != nil {
			continue
		}
		if killed := killed(found[s.name]); killed || slices.Contains(known, s.name) {
			s.report = dormant(dir, s.name, killed)
		}
	}
	if !asked { // what has ended and is not known is nothing
		all = slices.DeleteFunc(all, func(s state) bool { return s.report == nil && s.err == nil })
	}
	return all, nil
}

// atHand is what there is to know of applications without asking their launchers: what
// lies in the run directory, and the names that baton start remembers.
func atHand(dir string) (found map[string]control.Found, known []string, err error) {
	scanned, err := control.Scan(dir)
	if err != nil {
		return nil, nil, err
	}
	found = make(map[string]control.Found, len(scanned))
	for _, f := range scanned {
		found[f.Name] = f
	}
	r, err := registry()
	if err != nil {
		return nil, nil, err
	}
	known, err = r.Names()
	return found, known, err
}

// either are the names of both, in order.
func either(found map[string]control.Found, known []string) []string {
	names := slices.Concat(slices.Collect(maps.Keys(found)), known)
	slices.Sort(names)
	return slices.Compact(names)
}

// measure looks at what workers use, once for all, where each launcher would look at
// every process of the machine: with twenty of them that was most of a status.
func measure(all []state) {
	var pids []int
	var workers []*event.Worker
	for _, s := range all {
		if s.report == nil {
			continue
		}
		for i := range s.report.Generations {
			for j := range s.report.Generations[i].Workers {
				if w := &s.report.Generations[i].Workers[j]; w.PID != 0 {
					pids, workers = append(pids, w.PID), append(workers, w)
				}
			}
		}
	}
	for i, u := range process.UsagesOf(pids) {
		workers[i].Memory, workers[i].CPU = u.Proportional, u.CPU
	}
}

// dormant is the report of an application that does not run.
func dormant(dir, name string, killed bool) *event.Report {
	r := &event.Report{Name: name, State: event.StateStopped, Listeners: []event.Listener{}, Generations: []event.Generation{}}
	if !killed {
		return r
	}
	r.State = event.StateDied
	left, err := launcher.Left(dir, name)
	for _, m := range left {
		r.Survivors = append(r.Survivors, m.PID)
	}
	switch r.Verdict = numbers(r.Survivors); {
	case err != nil:
		r.Verdict = "who is left is not known: " + err.Error()
	case len(left) == 0:
		r.Verdict = "nothing is left"
	case len(left) == 1:
		r.Verdict += " lives on"
	default:
		r.Verdict += " live on"
	}
	return r
}

func (p *program) printJSON(v any) error {
	out := json.NewEncoder(p.stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(v)
}

var statusHead = []string{"NAME", "STATE", "GEN", "READY", "PID", "CPU", "MEM", "UPTIME", "RST", "LAST VERDICT"}

// table prints applications within helpWidth: the last column gives way first, then
// the first.
func (p *program) table(all []state) error {
	rows := [][]string{statusHead}
	for _, s := range all {
		rows = append(rows, s.row(time.Now()))
	}
	widths := make([]int, len(statusHead))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	const verdictLeast = 11 // "rolled back"
	last, between := len(widths)-1, 0
	for _, w := range widths[1:last] {
		between += w
	}
	between += 2 * last // the gaps
	widths[0] = min(widths[0], helpWidth-between-min(widths[last], verdictLeast))
	widths[last] = min(widths[last], helpWidth-between-widths[0])
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&b, "%-*s  ", widths[i], cut(cell, widths[i]))
		}
		if _, err := fmt.Fprintln(p.stdout, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// cut shortens a text to a width and shows that it did.
func cut(text string, width int) string {
	r := []rune(text)
	if len(r) <= width {
		return text
	}
	return string(r[:max(0, width-2)]) + ".."
}

func (s state) row(now time.Time) []string {
	if s.err != nil {
		return []string{printable(s.name), "silent", "-", "-", "-", "-", "-", "-", "-", printable(s.err.Error())}
	}
	r := s.report
	row := []string{printable(s.name), phase(r), "-", "-", "-", "-", "-", "-", "-", printable(r.Verdict)}
	if r.PID == 0 {
		return row
	}
	row[4] = strconv.Itoa(r.PID)
	if g := r.Shown(); g != nil {
		since := time.Time{}
		for _, w := range g.Workers {
			if !w.Started.IsZero() && (since.IsZero() || w.Started.Before(since)) {
				since = w.Started
			}
		}
		row[2] = strconv.Itoa(g.Number)
		row[3] = fmt.Sprintf("%d/%d", g.Ready(), g.Wanted)
		if !since.IsZero() {
			row[7] = brief.Age(now.Sub(since))
		}
	}
	if share, memory, some := used(r, now); some {
		row[5], row[6] = percent(share), size(memory)
	}
	row[8] = strconv.Itoa(r.Restarts)
	return row
}

// used is what all workers use together: of one CPU, on average since each started, and
// of memory in bytes.
func used(r *event.Report, now time.Time) (share float64, memory uint64, some bool) {
	for _, g := range r.Generations {
		for _, w := range g.Workers {
			if w.PID == 0 {
				continue
			}
			some = true
			memory += w.Memory
			if d := now.Sub(w.Started); !w.Started.IsZero() && d > 0 {
				share += w.CPU.Seconds() / max(d.Seconds(), 0.1)
			}
		}
	}
	return share, memory, some
}

// percent is a share of one CPU in at most five characters.
func percent(share float64) string {
	if p := share * 100; p < 99.95 {
		return strconv.FormatFloat(p, 'f', 1, 64) + "%"
	}
	return strconv.FormatFloat(share*100, 'f', 0, 64) + "%"
}

// size is a number of bytes in at most six characters.
func size(bytes uint64) string {
	f, unit := float64(bytes), "B"
	for _, next := range []string{"K", "M", "G", "T"} {
		if f < 1000 {
			break
		}
		f, unit = f/1024, next
	}
	if f < 99.95 && unit != "B" {
		return strconv.FormatFloat(f, 'f', 1, 64) + unit
	}
	return strconv.FormatFloat(f, 'f', 0, 64) + unit
}

// phase is the state of an application in one word, and when it serves what is under
// way besides.
func phase(r *event.Report) string {
	if r.State != event.StateServing {
		return r.State
	}
	phases := map[string]bool{}
	for _, g := range r.Generations {
		phases[g.Phase] = true
	}
	switch {
	case phases["canary"]:
		return "canary"
	case phases["starting"]:
		return "swapping"
	case phases["standby"]:
		return "baking"
	}
	return r.State
}

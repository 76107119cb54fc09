package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"baton/internal/control"
	"baton/internal/event"

	"github.com/urfave/cli/v2"
)

func (p *program) statusCommand() *cli.Command {
	return asked(verb{
		name: "status", line: "[NAME] [flags]",
		does: "show the applications that run",
		text: `
A line for each: its state, the generation that serves, its workers that are
ready of those there should be, baton's pid, how long its oldest worker runs, how
often a worker was started in the place of another, and the last verdict.

Without a NAME it is every application of this user; none is no error. Those of
another user, root's for one, are that user's to see.`,
		ends: []Code{NotRunning},
		also: []string{"ls"},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "json", Usage: "print everything as JSON: an object with a NAME, a list without"},
	}, p.status)
}

func (p *program) status(c *cli.Context) error {
	if c.NArg() > 1 {
		return usage("name one application, or none", "unexpected %q", c.Args().Get(1))
	}
	ctx, cancel := quickly(c)
	defer cancel()
	dir, err := control.Home()
	if err != nil {
		return err
	}
	if c.NArg() == 1 {
		app, err := one(c)
		if err != nil {
			return err
		}
		report, err := app.Status(ctx)
		switch {
		case err != nil:
			return refused(err)
		case c.Bool("json"):
			return p.printJSON(report)
		}
		return p.table([]state{{name: app.Name, report: report}})
	}
	all, err := states(ctx, dir)
	if err != nil {
		return err
	}
	switch {
	case c.Bool("json"):
		reports := []*event.Report{}
		for _, s := range all {
			if s.err != nil {
				err = errors.Join(err, s.err)
				continue
			}
			reports = append(reports, s.report)
		}
		return errors.Join(p.printJSON(reports), err)
	case len(all) == 0:
		_, err := fmt.Fprintln(p.stderr, "no application runs; launchers are looked for in "+dir)
		return err
	}
	return p.table(all)
}

// state is what is known of one application.
type state struct {
	name   string
	report *event.Report
	err    error // why there is none
}

// states asks all launchers at once: one that hangs holds up none of the others.
func states(ctx context.Context, dir string) ([]state, error) {
	names, err := control.List(dir)
	if err != nil {
		return nil, err
	}
	all := make([]state, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			all[i].name = name
			all[i].report, all[i].err = control.In(dir, name).Status(ctx)
		})
	}
	wg.Wait()
	running := all[:0]
	for _, s := range all {
		if !errors.Is(s.err, control.ErrNotRunning) { // ended meanwhile
			running = append(running, s)
		}
	}
	return running, nil
}

func (p *program) printJSON(v any) error {
	out := json.NewEncoder(p.stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(v)
}

var statusHead = []string{"NAME", "STATE", "GEN", "WORKERS", "PID", "UPTIME", "RESTARTS", "LAST VERDICT"}

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
		return []string{printable(s.name), "silent", "-", "-", "-", "-", "-", printable(s.err.Error())}
	}
	r := s.report
	row := []string{printable(s.name), phase(r), "-", "-", strconv.Itoa(r.PID), "-", "-", printable(r.Verdict)}
	if g := shownGeneration(r); g != nil {
		ready, since := 0, time.Time{}
		for _, w := range g.Workers {
			if w.State == "ready" && w.Role == "member" {
				ready++
			}
			if !w.Started.IsZero() && (since.IsZero() || w.Started.Before(since)) {
				since = w.Started
			}
		}
		row[2] = strconv.Itoa(g.Number)
		row[3] = fmt.Sprintf("%d/%d", ready, g.Wanted)
		if !since.IsZero() {
			row[5] = age(now.Sub(since))
		}
	}
	row[6] = strconv.Itoa(r.Restarts)
	return row
}

// shownGeneration is the one that serves, else the newest; nil when there is none.
func shownGeneration(r *event.Report) *event.Generation {
	for i := range r.Generations {
		if r.Generations[i].Phase == "serving" {
			return &r.Generations[i]
		}
	}
	if len(r.Generations) > 0 {
		return &r.Generations[0]
	}
	return nil
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

// age is a duration in its two greatest units.
func age(d time.Duration) string {
	s := int(max(0, d).Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 60*60:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*60*60:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

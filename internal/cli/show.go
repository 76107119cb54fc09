package cli

import (
	"context"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"baton/internal/brief"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

func (p *program) showCommand() *cli.Command {
	return asked(verb{
		name: "show", line: "[NAME] [flags]",
		does: "show everything about one application",
		text: `
Its listeners, steered or shared and why; its generations and workers, with CPU as
it is now, memory and connections; the releases that a rollback can go back to;
its probes and limits, as its file has them now; its last events; and where its
logs and its configuration lie.

Without a NAME it is the application of ./baton.toml, or the only one that runs.`,
		ends: []Code{NotRunning, Invalid},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "json", Usage: "print it as JSON"},
	}, p.show)
}

// whole is everything about one application; its JSON is a promise to scripts.
type whole struct {
	*event.Report
	// CPUNow is each worker's share of one CPU in percent, by its serial number.
	CPUNow    map[int]float64 `json:"cpu_now,omitempty"`
	Args      []string        `json:"args,omitempty"` // of baton run
	Directory string          `json:"started_in,omitempty"`
	Config    *config.Config  `json:"config,omitempty"` // as it is now, which the running one may not be
	Problem   string          `json:"config_problem,omitempty"`
	Unit      string          `json:"unit,omitempty"` // of systemd, that runs it or will at boot
	Saved     bool            `json:"saved"`
	Logs      string          `json:"logs,omitempty"`
	Events    []event.Event   `json:"events,omitempty"` // the last
}

// lately is how many of the last events are shown.
const lately = 10

func (p *program) show(c *cli.Context) error {
	app, err := one(c)
	if err != nil {
		return err
	}
	ctx, cancel := quickly(c)
	defer cancel()
	dir, err := control.Home()
	if err != nil {
		return err
	}
	found, err := states(ctx, dir, []string{app.Name})
	if err != nil {
		return err
	}
	s := found[0]
	switch {
	case s.err != nil:
		return refused(s.err)
	case s.report == nil:
		return notRunning(dir, app.Name+" is not running")
	}
	w := whole{Report: s.report}
	if s.runs() {
		w.CPUNow = sharesNow(ctx, app, s.report)
		w.Events = lastEvents(ctx, app)
	}
	if err := w.known(); err != nil {
		return err
	}
	if c.Bool("json") {
		err = p.printJSON(w)
	} else {
		err = w.print(p.stdout, time.Now())
	}
	if err == nil && !s.runs() {
		return shown(NotRunning)
	}
	return err
}

// cpuLook is between two looks at what the workers have used: the kernel counts in
// hundredths of a second.
const cpuLook = 200 * time.Millisecond

// sharesNow looks again after a moment.
func sharesNow(ctx context.Context, app *control.Client, first *event.Report) map[int]float64 {
	begin := time.Now()
	select {
	case <-time.After(cpuLook):
	case <-ctx.Done():
		return nil
	}
	second, err := app.Status(ctx)
	if err != nil {
		return nil // it has been shown once
	}
	took := time.Since(begin).Seconds()
	used := map[int]time.Duration{}
	for _, g := range first.Generations {
		for _, w := range g.Workers {
			used[w.Serial] = w.CPU
		}
	}
	shares := map[int]float64{}
	for _, g := range second.Generations {
		for _, w := range g.Workers {
			if before, ok := used[w.Serial]; ok && w.CPU >= before {
				shares[w.Serial] = 100 * (w.CPU - before).Seconds() / took
			}
		}
	}
	return shares
}

// lastEvents are the last that a launcher has kept; none of one that keeps none.
func lastEvents(ctx context.Context, app *control.Client) []event.Event {
	keeper, ok := any(app).(interface {
		Events(ctx context.Context, replay int, follow bool) iter.Seq2[event.Event, error]
	})
	if !ok {
		return nil
	}
	var all []event.Event
	for e, err := range keeper.Events(ctx, lately, false) {
		if err != nil {
			break // another baton's launcher, for one
		}
		all = append(all, e)
	}
	return all[max(0, len(all)-lately):]
}

// known adds what the launcher does not say: what it was started with, and what the
// registry knows.
func (w *whole) known() error {
	r, err := registry()
	if err != nil {
		return err
	}
	if log, err := launcherLog(w.Name); err == nil {
		w.Logs = filepath.Dir(log)
	}
	if a, err := r.Get(w.Name); err == nil {
		w.Args, w.Directory, w.Unit, w.Saved = runArgs(a), a.Directory, a.Unit, a.Saved
	}
	if w.PID != 0 { // who runs may be another than was started once
		if args, dir, err := process.CommandLine(w.PID); err == nil && len(args) > 2 && args[1] == "run" {
			w.Args = slices.DeleteFunc(args[2:], func(word string) bool { return word == "--"+background })
			w.Directory = dir
		}
		if unit := process.Unit(w.PID); unit == unitName(w.Name) {
			w.Unit = unit
		}
	}
	if w.Directory == "" {
		return nil
	}
	if w.Config, err = configAt(w.Directory, w.Args); err != nil {
		w.Problem = err.Error()
	}
	return nil
}

// print writes it for people, within helpWidth where that can be.
func (w *whole) print(out io.Writer, now time.Time) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, "  "+printable(strings.Join(cells, "\t"))) }
	head := func(text string) {
		_ = t.Flush() // its error is the last one's too
		fmt.Fprintln(out, "\n"+text)
	}
	fmt.Fprintf(out, "%s: %s\n", printable(w.Name), phase(w.Report))
	if w.PID != 0 {
		row("pid", strconv.Itoa(w.PID))
		row("up", brief.Age(now.Sub(w.Started)))
		row("restarts", strconv.Itoa(w.Restarts))
	}
	for _, pair := range [][2]string{
		{"last verdict", w.Verdict}, {"survivors", numbers(w.Survivors)}, {"directory", w.Directory}, {"started by", w.startedBy()},
		{"configuration", w.file()}, {"but", w.Problem}, {"logs", w.Logs}, {"at boot", w.atBoot()},
	} {
		if pair[1] != "" {
			row(pair[0], pair[1])
		}
	}
	if len(w.Listeners) > 0 {
		head("listeners")
	}
	for _, l := range w.Listeners {
		how := l.Mode
		if l.Reason != "" {
			how += ": " + l.Reason
		}
		row(l.Name, l.Address, how)
	}
	for _, g := range w.Generations {
		head(generationLine(g))
		row("WORKER", "SLOT", "PID", "STATE", "NEW", "CPU", "MEM", "CONNS", "UPTIME", "RST")
		for _, x := range g.Workers {
			row(w.worker(x, now)...)
		}
	}
	if len(w.Releases) > 0 {
		head("rollback can go to")
	}
	for _, r := range w.Releases {
		from := []string{"generation " + strconv.Itoa(r.Generation), r.Path}
		if r.Directory != "" { // else the launcher's own
			from = append(from, "in "+r.Directory)
		}
		row(from...)
	}
	if w.Config != nil {
		if rows := settingsShown(w.Config); len(rows) > 0 {
			head("as its configuration says now")
			for _, r := range rows {
				row(r[0], r[1])
			}
		}
	}
	if len(w.Events) > 0 {
		head("last events")
	}
	for _, e := range w.Events {
		text := e.Message
		if e.Reason != "" && !strings.Contains(text, e.Reason) {
			text += ": " + e.Reason
		}
		row(e.Time.Local().Format("01-02 15:04:05"), text)
	}
	return t.Flush()
}

func (w *whole) startedBy() string {
	if len(w.Args) == 0 {
		return ""
	}
	return quoted(append([]string{"baton", "run"}, w.Args...))
}

func (w *whole) file() string {
	switch {
	case w.Config == nil:
		return ""
	case w.Config.File == "":
		return "flags alone"
	case w.Config.Profile != "":
		return w.Config.File + ", profile " + w.Config.Profile
	}
	return w.Config.File
}

func (w *whole) atBoot() string {
	switch {
	case w.Unit != "":
		return "started by systemd: " + filepath.Base(w.Unit)
	case w.Saved:
		return "started by baton resurrect"
	}
	return ""
}

func (w *whole) worker(x event.Worker, now time.Time) []string {
	cells := []string{strconv.Itoa(x.Index), strconv.Itoa(x.Slot), "-", x.State, "-", "-", "-", "-", "-", strconv.Itoa(x.Restarts)}
	if x.Slot < 0 {
		cells[1] = "-"
	}
	if x.Role != "member" {
		cells[3] += " (" + x.Role + ")"
	}
	if x.Stuck {
		cells[3] += " (stuck)"
	}
	if x.Weight > 0 {
		cells[4] = strconv.FormatFloat(x.Weight, 'f', 0, 64) + "%"
	}
	if x.PID != 0 {
		cells[2], cells[6] = strconv.Itoa(x.PID), size(x.Memory)
		if share, ok := w.CPUNow[x.Serial]; ok {
			cells[5] = percent(share / 100)
		}
	}
	if x.Connections != nil {
		cells[7] = strconv.Itoa(*x.Connections)
	}
	if !x.Started.IsZero() {
		cells[8] = brief.Age(now.Sub(x.Started))
	}
	if x.Status != "" {
		cells = append(cells, x.Status)
	}
	return cells
}

func generationLine(g event.Generation) string {
	text := fmt.Sprintf("generation %d: %s", g.Number, g.Phase)
	if g.Canary != nil && g.Canary.Steps > 0 {
		text += fmt.Sprintf(", step %d of %d, %d %%", g.Canary.Step, g.Canary.Steps, g.Canary.Weight)
	}
	if g.Looping {
		text += ", in a crash loop"
	}
	if g.Release != 0 && g.Release != g.Number {
		text += fmt.Sprintf(", the release of generation %d", g.Release)
	}
	if g.Path != "" {
		text += ", " + g.Path
	}
	return printable(text)
}

func numbers(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, " ")
}

// settingsShown are probes, limits and what else is done beyond the usual, and the times
// that a swap has.
func settingsShown(c *config.Config) [][2]string {
	rows := [][2]string{
		{"ready", fmt.Sprintf("%s, within %v", c.Handoff.Ready, c.Handoff.ReadyTimeout)},
		{"drain", fmt.Sprintf("%v at most, after %v without new connections", c.Handoff.DrainTimeout, c.Handoff.DrainDelay)},
	}
	if c.Handoff.Bake > 0 {
		rows = append(rows, [2]string{"bake", c.Handoff.Bake.String()})
	}
	if r := c.Health.Ready; r.Probe != "" {
		rows = append(rows, [2]string{"probe", probeShown(r) + " before it is let in"})
	}
	return append(rows, supervised(c)...)
}

func probeShown(p config.Probe) string {
	switch p.Probe {
	case "http", "https":
		return fmt.Sprintf("%s %s %s every %v", p.Probe, p.Method, p.Path, p.Interval)
	case "exec":
		return fmt.Sprintf("%s every %v", quoted(p.Exec), p.Interval)
	}
	return fmt.Sprintf("%s every %v", p.Probe, p.Interval)
}

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"baton/internal/apps"
	"baton/internal/control"

	"github.com/urfave/cli/v2"
)

func (p *program) saveCommand() *cli.Command {
	return asked(verb{
		name: "save", line: "",
		does: "note what runs, so that it comes back at boot",
		text: `
Of what baton start has started, what runs now comes back and what does not run
does not. baton startup writes systemd units for it, and saves by itself; where
there is no systemd, have the machine run baton resurrect at boot.`,
	}, nil, p.save)
}

func (p *program) save(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("baton startup NAME is for one", "unexpected %q", c.Args().First())
	}
	r, err := registry()
	if err != nil {
		return err
	}
	saved, err := p.saveRunning(r)
	if err != nil && len(saved) == 0 {
		return err
	}
	text := "saved: nothing, since nothing runs that baton start has started"
	if len(saved) > 0 {
		text = "saved: " + strings.Join(saved, ", ")
	}
	_, failed := fmt.Fprintln(p.stdout, text)
	return errors.Join(err, failed)
}

// saveRunning marks what runs, and nothing else, and says what cannot be.
func (p *program) saveRunning(r apps.Registry) (saved []string, err error) {
	dir, err := control.Home()
	if err != nil {
		return nil, err
	}
	names, err := control.List(dir)
	if err != nil {
		return nil, err
	}
	list, broken := r.List() // the others are saved all the same
	runs := map[string]bool{}
	for _, name := range names {
		runs[name] = true
	}
	for _, a := range list {
		if runs[a.Name] {
			saved = append(saved, a.Name)
		}
		if err := mark(r, a, runs[a.Name]); err != nil {
			return saved, errors.Join(broken, err)
		}
		if a.Saved && !runs[a.Name] {
			fmt.Fprintf(p.stderr, "%s does not run, and comes back no more\n", a.Name)
		}
		delete(runs, a.Name)
	}
	for _, name := range names {
		if _, err := r.Get(name); runs[name] && errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(p.stderr, "%s runs, but was not started by baton start: whoever runs it brings it back\n", name)
		}
	}
	return saved, broken
}

// mark notes whether an application comes back.
func mark(r apps.Registry, a apps.App, saved bool) error {
	if a.Saved == saved {
		return nil
	}
	return r.Change(a.Name, func(now apps.App) apps.App {
		if now.Name != "" { // else it was deleted meanwhile
			now.Saved = saved
		}
		return now
	})
}

func (p *program) resurrectCommand() *cli.Command {
	return asked(verb{
		name: "resurrect", line: "[flags]",
		does: "start what was saved and does not run",
		text: `
For machines without systemd, at boot: a line @reboot baton resurrect in crontab(5)
for one. What runs is left alone. Where startup has written units it is systemd
that starts them.`,
		ends: []Code{Invalid, Busy},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "json", Usage: "print what came of it as JSON: a list"},
	}, p.resurrect)
}

func (p *program) resurrect(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("baton start NAME is for one", "unexpected %q", c.Args().First())
	}
	r, err := registry()
	if err != nil {
		return err
	}
	list, broken := r.List() // the others come back all the same
	came := []outcome{}
	for _, a := range list {
		if !a.Saved {
			continue
		}
		o := p.begin(c.Context, r, a, a)
		if o.Outcome == outcomeRuns {
			o.code = Done
		}
		came = append(came, o)
	}
	if c.Bool("json") {
		if err := p.printJSON(came); err != nil {
			return err
		}
	}
	worst := Done
	for _, o := range came {
		worst = max(worst, o.code)
		if !c.Bool("json") {
			if err := p.printOutcome(o); err != nil {
				return err
			}
		}
	}
	if broken != nil {
		worst = max(worst, p.report(broken))
	}
	if len(came) == 0 && broken == nil {
		fmt.Fprintln(p.stderr, "nothing was saved")
	}
	if worst == Done {
		return nil
	}
	return shown(worst)
}

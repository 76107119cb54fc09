package cli

import (
	"errors"
	"os"
	"slices"

	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/tui"

	"github.com/urfave/cli/v2"
)

func (p *program) monitCommand() *cli.Command {
	return asked(verb{
		name: "monit", line: "[NAME]",
		does: "watch and operate what runs, on the whole screen",
		text: `
The applications of this user, those that don't run too, the workers of the one that is selected, a swap, a
canary or a drain as it happens, and what was logged. Keys reload, stop,
start, scale, roll back, promote and abort; each asks first. ? shows all of them, q leaves.

With a NAME that application is selected at first. It takes a terminal of 80
columns and 16 rows. Where NO_COLOR is set there are no colours.`,
		ends: []Code{NotRunning},
	}, nil, p.monit)
}

func (p *program) monit(c *cli.Context) error {
	dir, err := control.Home()
	if err != nil {
		return err
	}
	o := tui.Options{Directory: dir, Rest: resting(dir), Input: os.Stdin, Output: p.stdout, Follow: followed, Restart: restarted}
	if c.NArg() > 0 {
		app, err := one(c)
		if err != nil {
			return err
		}
		ctx, cancel := quickly(c)
		defer cancel()
		if _, err := app.Glance(ctx); errors.Is(err, control.ErrNotRunning) {
			rest, failed := o.Rest(nil)
			if failed != nil {
				return failed
			}
			if !slices.ContainsFunc(rest, func(r *event.Report) bool { return r.Name == app.Name }) {
				return refused(err)
			}
		} else if err != nil {
			return refused(err)
		}
		o.Name = app.Name
	}
	err = tui.Run(c.Context, o)
	if errors.Is(err, tui.ErrNoTerminal) {
		return usage("baton status shows what runs, once", "monit needs a terminal to draw on and to read keys from")
	}
	return err
}

// resting tells the screen of applications that don't run, as status tells of them.
func resting(dir string) tui.Rest {
	return func(running []string) ([]*event.Report, error) {
		found, known, err := atHand(dir)
		if err != nil {
			return nil, err
		}
		var all []*event.Report
		for _, name := range either(found, known) {
			if killed := killed(found[name]); !slices.Contains(running, name) && (killed || slices.Contains(known, name)) {
				all = append(all, dormant(dir, name, killed))
			}
		}
		return all, nil
	}
}

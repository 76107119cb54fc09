package cli

import (
	"errors"
	"os"

	"baton/internal/control"
	"baton/internal/tui"

	"github.com/urfave/cli/v2"
)

func (p *program) monitCommand() *cli.Command {
	return asked(verb{
		name: "monit", line: "[NAME]",
		does: "watch and operate what runs, on the whole screen",
		text: `
The applications of this user, the workers of the one that is selected, a swap, a
canary or a drain as it happens, and what was logged. Keys reload, stop, scale,
roll back, promote and abort; each asks first. ? shows all of them, q leaves.

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
	o := tui.Options{Directory: dir, Input: os.Stdin, Output: p.stdout, Follow: followed, Restart: restarted}
	if c.NArg() > 0 {
		app, err := one(c)
		if err != nil {
			return err
		}
		ctx, cancel := quickly(c)
		defer cancel()
		if _, err := app.Status(ctx); err != nil {
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

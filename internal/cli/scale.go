package cli

import (
	"fmt"

	"baton/internal/control"

	"github.com/urfave/cli/v2"
)

func (p *program) scaleCommand() *cli.Command {
	return asked(verb{
		name: "scale", line: "[NAME] N|+N|-N",
		does: "more or fewer workers, losing nothing",
		text: `
Sets the number of workers, or changes it. It returns when that is begun. The file
is not changed. Workers that were left stopped are started again, also when N is the
number that there is already.

Without a NAME it is the application of ./baton.toml, or the only one that runs.

  baton scale web 4
  baton scale web -1`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, nil, p.scale)
}

func (p *program) scale(c *cli.Context) error {
	name, workers := "", c.Args().First()
	if c.NArg() > 1 {
		name, workers = workers, c.Args().Get(1)
	}
	switch {
	case c.NArg() > 2:
		return usage("", "unexpected %q", c.Args().Get(2))
	case workers == "":
		return usage("baton scale NAME N", "how many workers?")
	}
	if _, _, err := control.ParseScale(workers); err != nil {
		return usage("baton scale NAME N", "workers: %w", err)
	}
	if c.NArg() > 1 && name == "" {
		return usage("", "the name is empty")
	}
	app, err := application(c, name)
	if err != nil {
		return err
	}
	ctx, cancel := quickly(c)
	defer cancel()
	now, err := app.Scale(ctx, workers)
	if err != nil {
		return refused(err)
	}
	plural := "s"
	if now == 1 {
		plural = ""
	}
	_, err = fmt.Fprintf(p.stdout, "%s: %d worker%s\n", app.Name, now, plural)
	return err
}

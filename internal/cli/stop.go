package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func (p *program) stopCommand() *cli.Command {
	return asked(verb{
		name: "stop", line: "[NAME] [flags]",
		does: "drain and end, and wait for the end",
		text: `
Does what SIGTERM does: new connections are refused, what there is is finished,
and baton ends. It returns when baton's process has ended. With --now workers are
killed, and what they have not finished is lost; also after a stop that takes too
long.

Without a NAME it is the application of ./baton.toml, or the only one that runs.`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "now", Usage: "kill instead of draining, as SIGQUIT does"},
	}, p.stop)
}

func (p *program) stop(c *cli.Context) error {
	app, err := one(c)
	if err != nil {
		return err
	}
	if err := app.Stop(c.Context, c.Bool("now")); err != nil {
		return refused(err)
	}
	_, err = fmt.Fprintf(p.stdout, "%s: stopped\n", app.Name)
	return err
}

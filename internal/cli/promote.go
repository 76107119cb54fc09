package cli

import (
	"context"

	"baton/internal/control"

	"github.com/urfave/cli/v2"
)

func (p *program) promoteCommand() *cli.Command {
	return asked(verb{
		name: "promote", line: "[NAME... | all] [flags]",
		does: "end a canary or a bake now: the newcomer serves",
		text: `
The newcomer gets all new connections, and the old generation drains. With --step
a canary goes on to its next step only, which is how one that pauses goes on.
It fails when there is neither a canary nor a bake.

Without a NAME it is the application of ./baton.toml, or the only one that runs.`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "step", Usage: "only on to the canary's next step"},
	}, p.promote)
}

func (p *program) promote(c *cli.Context) error {
	return p.simply(c, "promoted", func(ctx context.Context, app *control.Client) error { return app.Promote(ctx, c.Bool("step")) })
}

package cli

import (
	"context"

	"baton/internal/control"

	"github.com/urfave/cli/v2"
)

func (p *program) abortCommand() *cli.Command {
	return asked(verb{
		name: "abort", line: "[NAME... | all]",
		does: "end a canary or a bake now: who served before serves",
		text: `
New connections go to the generation that served before, and the newcomer drains.
It fails when there is neither a canary nor a bake; baton rollback goes back then.

Without a NAME it is the application of ./baton.toml, or the only one that runs.`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, nil, p.abort)
}

func (p *program) abort(c *cli.Context) error {
	return p.simply(c, "aborted", func(ctx context.Context, app *control.Client) error { return app.Abort(ctx) })
}

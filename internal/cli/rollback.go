package cli

import (
	"context"

	"baton/internal/control"
	"baton/internal/event"

	"github.com/urfave/cli/v2"
)

func (p *program) rollbackCommand() *cli.Command {
	return asked(verb{
		name: "rollback", line: "[NAME... | all] [flags]",
		does: "serve the release again that served before",
		text: `
Swaps back, also when the executable has been overwritten or a link been moved
since: baton holds what it ran open. It returns when that release serves. 1: there
is none to go back to. 3: it failed, and what serves goes on. 6: a reload took its
place, or baton stops.

Without a NAME it is the application of ./baton.toml, or the only one that runs.`,
		ends: []Code{RolledBack, NotRunning, Invalid, Busy},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "json", Usage: "print the verdict as JSON; of several, a list"},
	}, p.rollback)
}

// rollbackCodes are the exit codes of the outcomes of a rollback: no file is read
// for it, so that one which is refused is no matter of the configuration.
var rollbackCodes = map[string]Code{
	control.Swapped: Done, control.RolledBack: RolledBack, control.Refused: Failed,
	control.Superseded: Busy, control.Stopped: Busy,
}

func (p *program) rollback(c *cli.Context) error {
	return p.swaps(c, rollbackCodes, func(ctx context.Context, app *control.Client) (event.Verdict, error) { return app.Rollback(ctx) })
}

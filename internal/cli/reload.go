package cli

import (
	"context"

	"baton/internal/control"
	"baton/internal/event"

	"github.com/urfave/cli/v2"
)

func (p *program) reloadCommand() *cli.Command {
	return asked(verb{
		name: "reload", line: "[NAME... | all] [flags]",
		does: "swap, and wait for the verdict",
		text: `
Does what SIGHUP does: reads the file again and swaps. It returns when the new
generation serves, or says why it does not, with its last lines. The one that
serves goes on then. Several are reloaded one after the other, and the greatest
exit code counts.

Without a NAME it is the application of ./baton.toml, or the only one that runs.

  baton reload web || ./tell-somebody

3: the newcomer failed. 5: the configuration, the command or a new address is
unfit; nothing was started. 6: a later reload took its place, or baton stops, or
with --if-generation another generation serves or is about to.`,
		ends: []Code{RolledBack, NotRunning, Invalid, Busy},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "no-wait", Usage: "return when it has been asked for"},
		&cli.IntFlag{Name: "if-generation", Usage: "only if generation `N` serves"},
		&cli.BoolFlag{Name: "json", Usage: "print the verdict as JSON; of several, a list"},
	}, p.reload)
}

// reloadCodes are the exit codes of the outcomes of a reload.
var reloadCodes = map[string]Code{
	control.Swapped: Done, control.RolledBack: RolledBack, control.Refused: Invalid,
	control.Superseded: Busy, control.Stopped: Busy,
}

func (p *program) reload(c *cli.Context) error {
	only := c.Int("if-generation")
	if c.IsSet("if-generation") && only < 1 {
		return usage("baton status shows which one serves", "--if-generation is 1 or more, not %d", only)
	}
	if c.Bool("no-wait") && c.Bool("json") {
		return usage("", "--json prints a verdict, which --no-wait does not wait for")
	}
	if c.IsSet("if-generation") && (c.NArg() > 1 || c.Args().First() == all) {
		return usage("", "--if-generation is for one application")
	}
	if c.Bool("no-wait") {
		return p.simply(c, "a reload was asked for", func(ctx context.Context, app *control.Client) error { return app.BeginReload(ctx, only) })
	}
	return p.swaps(c, reloadCodes, func(ctx context.Context, app *control.Client) (event.Verdict, error) { return app.Reload(ctx, only) })
}

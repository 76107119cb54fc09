package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"baton/internal/control"
	"baton/internal/event"

	"github.com/urfave/cli/v2"
)

func (p *program) upgradeCommand() *cli.Command {
	return asked(verb{
		name: "upgrade", line: "[NAME... | all]",
		does: "replace the launcher, not the application",
		text: `
Run it after a new baton was installed. Does what SIGUSR2 does: the program that
lies where the launcher was started from is shown every socket and what the launcher
knows; if it can go on with that, the launcher becomes it. The process stays, with its
pid, its sockets and its children: no worker is restarted, and no connection drops. It
waits until nothing is being started.

Without a NAME it is the application of ./baton.toml, or the only one that runs.

3: the new program cannot go on with what there is, or is none; the old one does.
6: another upgrade is under way.`,
		ends: []Code{RolledBack, NotRunning, Invalid, Busy},
	}, nil, p.upgrade)
}

func (p *program) upgrade(c *cli.Context) error {
	names, err := several(c, running)
	if err != nil {
		return err
	}
	return p.each(names, func(name string) error {
		app, err := client(name)
		if err != nil {
			return err
		}
		var r *event.Report
		err = p.watched(c.Context, app, func(ctx context.Context) (err error) {
			r, err = app.Upgrade(ctx)
			return err
		})
		var answer *control.Error
		if errors.As(err, &answer) && answer.Status == http.StatusUnprocessableEntity {
			return &exit{code: RolledBack, err: fmt.Errorf("%s: not upgraded: %w", name, answer), hint: "the launcher goes on as it was"}
		}
		if err != nil {
			return refused(err)
		}
		_, err = fmt.Fprintf(p.stdout, "%s: upgraded, pid %d runs baton %s\n", name, r.PID, r.Version)
		return err
	})
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"baton/internal/apps"
	"baton/internal/control"

	"github.com/urfave/cli/v2"
)

func (p *program) deleteCommand() *cli.Command {
	return asked(verb{
		name: "delete", line: "[NAME... | all] [flags]",
		does: "stop and forget",
		text: `
Stops the application as stop does, if it runs, and forgets how baton start
started it, and that it comes back at boot: the unit that startup wrote goes too.
Its configuration stays, and so do its logs, unless told otherwise.

Without a NAME it is the application of ./baton.toml, or the only one that runs.`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, []cli.Flag{
		nowFlag(),
		&cli.BoolFlag{Name: "logs", Usage: "its logs as well"},
	}, p.delete)
}

func (p *program) delete(c *cli.Context) error {
	names, err := several(c, registered)
	if err != nil {
		return err
	}
	r, err := registry()
	if err != nil {
		return err
	}
	return p.each(names, func(name string) error {
		if err := p.forget(c.Context, r, name, c.Bool("now"), c.Bool("logs")); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.stdout, "%s: deleted\n", name)
		return err
	})
}

func (p *program) forget(ctx context.Context, r apps.Registry, name string, now, logs bool) error {
	a, err := known(r, name)
	if errorsCode(err) == NotRunning {
		return unlessElsewhere(ctx, name, err)
	}
	// One that cannot be read is forgotten all the same: how else would it go?
	if a.Unit != "" {
		if err := p.withdraw(ctx, r, a); err != nil { // systemd stops it, if it runs it
			return err
		}
	}
	if err := p.stopOne(ctx, name, now); err != nil && errorsCode(err) != NotRunning {
		return err
	}
	if err := r.Remove(name); err != nil || !logs {
		return err
	}
	dir, err := control.Logs()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"baton/internal/apps"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

func (p *program) restartCommand() *cli.Command {
	return asked(verb{
		name: "restart", line: "[NAME... | all] [flags]",
		does: "stop, wait for the end, and start as it was",
		text: `
For what a reload can't do: another name, another version of baton. In between
connections are refused; reload refuses none. What does not run is started.

It is for what baton start has started. What systemd runs it restarts itself:
systemctl restart baton-NAME.

Without a NAME it is the application of ./baton.toml, or the only one that runs.`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, []cli.Flag{
		nowFlag(),
		&cli.BoolFlag{Name: "update-env", Usage: "with the environment from here, and say what is other about it"},
		outcomesFlag(),
	}, p.restart)
}

func (p *program) restart(c *cli.Context) error {
	names, err := several(c, registered)
	if err != nil {
		return err
	}
	r, err := registry()
	if err != nil {
		return err
	}
	var came []outcome
	for _, name := range names {
		a, err := known(r, name)
		before := a
		if err == nil {
			err = startable(a)
		}
		if err == nil {
			err = p.end(c.Context, name, c.Bool("now"))
		} else if before.Name == "" {
			err = unlessElsewhere(c.Context, name, err)
		}
		if err != nil && errorsCode(err) != NotRunning || before.Name == "" {
			came = append(came, failure(name, err))
			continue
		}
		if c.Bool("update-env") {
			a.Env = environment()
			p.environmentIs(name, process.Changes(before.Env, a.Env))
		}
		came = append(came, p.begin(c.Context, r, a, before))
	}
	return p.told(c, came)
}

// startable is an error when it is plain that an application could not be started again,
// in which case it is left running: its directory is gone, or its configuration is wrong.
func startable(a apps.App) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err = configOf(a); err != nil {
		_, text, _ := explain(err)
		err = &exit{code: errorsCode(err), err: errors.New(a.Name + ": not restarted: " + strings.TrimPrefix(text, "baton: "))}
	}
	return errors.Join(err, os.Chdir(here)) // to look at it was to go there
}

// unlessElsewhere says of an application that is not known how it is run instead, if it
// runs.
func unlessElsewhere(ctx context.Context, name string, unknown error) error {
	if errorsCode(unknown) != NotRunning { // it is known, but cannot be read
		return unknown
	}
	pid, runs, err := answers(ctx, name)
	if err != nil || !runs {
		return errors.Join(unknown, err)
	}
	return elsewhere(name, pid)
}

// elsewhere is the error about an application that runs, and not because of baton start.
func elsewhere(name string, pid int) error {
	hint := "baton reload " + name + " swaps it; baton stop " + name + " ends it"
	if unit := process.Unit(pid); strings.HasPrefix(unit, "baton-") {
		hint = "systemd runs it: systemctl restart " + strings.TrimSuffix(unit, ".service") + ", or baton reload " + name
	}
	return &exit{code: Failed, err: fmt.Errorf("%s runs, with pid %d, but was not started by baton start", name, pid), hint: hint}
}

// environmentIs says which variables are other ones.
func (p *program) environmentIs(name string, changed []string) {
	if len(changed) > 0 {
		fmt.Fprintln(p.stderr, name+": environment: "+printable(strings.Join(changed, " ")))
	}
}

// end stops an application and waits; NotRunning when it does not run. What systemd
// runs is not stopped: systemd would think what it likes of it.
func (p *program) end(ctx context.Context, name string, now bool) error {
	pid, runs, err := answers(ctx, name)
	if err != nil {
		return err
	}
	if runs && process.Unit(pid) == unitName(name) {
		return elsewhere(name, pid)
	}
	app, err := client(name)
	if err != nil {
		return err
	}
	return refused(p.watched(ctx, app, func(ctx context.Context) error { return app.Stop(ctx, now) }))
}

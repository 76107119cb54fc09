package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"baton/internal/control"
	"baton/internal/launcher"

	"github.com/urfave/cli/v2"
)

func (p *program) stopCommand() *cli.Command {
	return asked(verb{
		name: "stop", line: "[NAME... | all] [flags]",
		does: "drain and end, and wait for the end",
		text: `
Does what SIGTERM does: new connections are refused, what there is is finished,
and baton ends. It returns when baton's process has ended. With --now workers are
killed, and what they have not finished is lost; also after a stop that takes too
long. Several are stopped at the same time, and the greatest exit code counts.

What a launcher has left that was killed is ended as well.

Without a NAME it is the application of ./baton.toml, or the only one that runs.`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, []cli.Flag{
		nowFlag(),
	}, p.stop)
}

func (p *program) stop(c *cli.Context) error {
	names, err := several(c, running)
	if err != nil {
		return err
	}
	if len(names) == 1 {
		if err := p.stopOne(c.Context, names[0], c.Bool("now")); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.stdout, "%s: stopped\n", names[0])
		return err
	}
	// At the same time: each may take its drain_timeout.
	ends := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { // ends with the launcher
			app, err := client(name)
			if err == nil {
				err = refused(app.Stop(c.Context, c.Bool("now")))
			}
			if errorsCode(err) == NotRunning {
				err = p.endKilled(name, c.Bool("now"), err)
			}
			ends[i] = err
		})
	}
	show := p.progress()
	show.say(fmt.Sprintf("stopping %s", count(len(names), "application")))
	wg.Wait()
	show.done()
	at := -1
	return p.each(names, func(name string) error {
		if at++; ends[at] != nil {
			return ends[at]
		}
		_, err := fmt.Fprintf(p.stdout, "%s: stopped\n", name)
		return err
	})
}

// stopOne stops one, and shows how that goes.
func (p *program) stopOne(ctx context.Context, name string, now bool) error {
	app, err := client(name)
	if err != nil {
		return err
	}
	err = refused(p.watched(ctx, app, func(ctx context.Context) error { return app.Stop(ctx, now) }))
	if errorsCode(err) == NotRunning {
		return p.endKilled(name, now, err)
	}
	return err
}

// endKilled ends what a killed launcher left; without that, it is not running.
func (p *program) endKilled(name string, now bool, notRunning error) error {
	dir, err := control.Home()
	if err != nil {
		return err
	}
	found, err := look(dir)
	if err != nil || !found[name].killed {
		return errors.Join(notRunning, err)
	}
	by := launcher.Ending{Signal: syscall.SIGTERM, Grace: endTime}
	if now {
		by.Signal = syscall.SIGKILL
	}
	return endLeft(dir, name, by)
}

// endLeft ends what a killed launcher left. The name is claimed meanwhile, so that nobody
// begins whose workers would be taken for these.
func endLeft(dir, name string, by launcher.Ending) error {
	claim, err := control.Take(dir, name)
	if err != nil {
		return err // somebody begins just now
	}
	err = launcher.EndLeft(dir, name, by)
	if err == nil {
		err = launcher.ForgetLeft(dir, name)
	}
	// Its socket goes too: whose it is only who listens on it knows.
	if l, failed := claim.Listen(); failed == nil {
		_ = l.Close() // nobody came
	}
	return errors.Join(err, claim.Close())
}

// endTime is how long what a killed launcher left has to finish: nobody knows any more
// what its configuration said.
const endTime = 30 * time.Second

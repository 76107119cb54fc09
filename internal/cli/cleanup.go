package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"baton/internal/cgroup"
	"baton/internal/control"
	"baton/internal/launcher"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

func (p *program) cleanupCommand() *cli.Command {
	c := asked(verb{
		name: "cleanup", line: "NAME",
		does: "end what is left of a unit that was stopped",
		text: `
For ExecStopPost= of the units that startup writes: systemd says in
$SERVICE_RESULT how the launcher ended. After success, which is a stop, and
timeout, its workers that are left are ended, as they would be by stop. After
anything else it was killed or has crashed, and its workers are left: they serve
until systemd has started the next launcher. Told to end (TERM) it kills.

By hand it is baton stop that ends what a killed launcher has left.`,
		ends: []Code{Busy},
	}, nil, p.cleanup)
	c.Hidden = true // from the list of commands: people have stop for it
	return c
}

// resultName is the variable in which systemd says how a service ended
// (systemd.exec(5)).
const resultName = "SERVICE_RESULT"

func (p *program) cleanup(c *cli.Context) error {
	if c.NArg() != 1 {
		return usage("", "name one application")
	}
	name := c.Args().First()
	if !control.Fits(name) {
		return usage("", "%q is no name of an application", name)
	}
	result := os.Getenv(resultName)
	if result == "" {
		return usage("by hand: baton stop "+name, "$%s is not set: this is for systemd's ExecStopPost=", resultName)
	}
	dir, err := control.Home()
	if err != nil {
		return err
	}
	// Whatever is left: systemd starts the next launcher in the unit's own group.
	if err := cgroup.Around().Vacate(); err != nil {
		fmt.Fprintf(p.stderr, "%s: the unit's control group: %v\n", name, err)
	}
	text, err := p.cleanUp(c.Context, dir, name, result)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "%s: %s\n", name, text)
	return err
}

// cleanUp says what it did.
func (p *program) cleanUp(ctx context.Context, dir, name, result string) (string, error) {
	found, err := look(dir)
	if err != nil {
		return "", err
	}
	if !found[name].killed {
		if found[name].runs { // a launcher that the unit has nothing to do with
			return "runs, and is left alone", nil
		}
		return "nothing is left", nil
	}
	if result != "success" && result != "timeout" {
		left, err := launcher.Left(dir, name)
		if err != nil || len(left) == 0 {
			return "nothing is left", err
		}
		return "left for the next launcher, after the result " + printable(result) + ": " + numbersOf(left), nil
	}
	told, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	by := launcher.Ending{Signal: syscall.SIGTERM, Grace: endTime, Hurry: func() bool { return told.Err() != nil }}
	if result == "timeout" { // they had their time
		by.Signal = syscall.SIGKILL
	}
	text := "nothing is left"
	by.Found = func(left []process.Mark) { text = "ended what its launcher left: " + numbersOf(left) }
	err = endLeft(dir, name, by)
	if taken := new(control.TakenError); errors.As(err, &taken) {
		return "", &exit{code: Busy, err: err, hint: "what a killed launcher left is the next one's to end"}
	}
	return text, err
}

func numbersOf(marks []process.Mark) string {
	pids := make([]int, len(marks))
	for i, m := range marks {
		pids[i] = m.PID
	}
	return strings.ReplaceAll(numbers(pids), " ", ", ")
}

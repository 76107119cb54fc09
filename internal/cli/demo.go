package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"baton/internal/demo"

	"github.com/urfave/cli/v2"
)

func (p *program) demoCommand() *cli.Command {
	c := command(verb{
		name: "demo", line: "[flags]",
		does: "swap a real server under load, and count what is lost",
		text: `
Starts a small server of its own under baton on a free port of 127.0.0.1, drives
load at it and swaps it many times: first with one socket that all generations
share, as other launchers do, then with steering. Nothing is left behind.

It fails when a request was lost with steering, or when steering does not work
on this machine.`,
	}, []cli.Flag{
		&cli.IntFlag{Name: "swaps", Value: 20, Usage: "swap `N` times in each of the two rounds; 20 if not said"},
		&cli.IntFlag{Name: "clients", Value: 16, Usage: "`N` clients, each with a connection per request and no pause; 16"},
		&cli.IntFlag{Name: "seconds", Value: 10, Usage: "last `N` seconds in all; 10. Swaps that take longer get their time"},
		&cli.BoolFlag{Name: "json", Usage: "print the figures as JSON"},
	}, p.demo)
	// Not in the help: it is what the launcher runs.
	c.Flags = append(c.Flags, &cli.BoolFlag{Name: demoTarget, Hidden: true})
	return c
}

// demoTarget is the flag that makes a demo the server which is swapped.
const demoTarget = "target"

func (p *program) demo(c *cli.Context) error {
	if c.Bool(demoTarget) {
		return demo.Serve()
	}
	o, err := p.demoOptions(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	report, err := demo.Run(ctx, o)
	if ctx.Err() != nil {
		return errors.New("interrupted; nothing is left behind")
	}
	if report == nil {
		return err
	}
	if printed := p.printDemo(c, report); printed != nil {
		return printed
	}
	if err == nil && report.Steered.Lost > 0 {
		for _, example := range report.Steered.Examples {
			fmt.Fprintln(p.stderr, example)
		}
		err = fmt.Errorf("%d of %d requests were lost with steering", report.Steered.Lost, report.Steered.Requests)
	}
	return err
}

func (p *program) demoOptions(c *cli.Context) (demo.Options, error) {
	if c.NArg() > 0 {
		return demo.Options{}, usage("", "unexpected %q", c.Args().First())
	}
	for _, flag := range []string{"swaps", "clients", "seconds"} {
		if n := c.Int(flag); n < 1 || n > 1000 {
			return demo.Options{}, usage("", "--%s is 1 to 1000, not %d", flag, n)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return demo.Options{}, err
	}
	o := demo.Options{
		Swaps: c.Int("swaps"), Clients: c.Int("clients"), Time: time.Duration(c.Int("seconds")) * time.Second / 2,
		Launcher: []string{self}, Target: []string{self, c.Command.Name, "--" + demoTarget},
	}
	if !c.Bool("json") {
		o.Begun = func(round string) {
			fmt.Fprintf(p.stdout, "%d clients, %d swaps, %s ...\n", o.Clients, o.Swaps, round)
		}
	}
	return o, nil
}

func (p *program) printDemo(c *cli.Context, report *demo.Report) error {
	if c.Bool("json") {
		b, err := report.JSON()
		if err != nil {
			return err
		}
		_, err = p.stdout.Write(b)
		return err
	}
	fmt.Fprintln(p.stdout)
	return report.Table(p.stdout)
}

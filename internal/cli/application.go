package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/event"

	"github.com/urfave/cli/v2"
)

// What the verbs have in common that talk to a running launcher.

// asked makes a command of a verb that names an application: its flags may stand
// behind the name, and "-1" is no flag.
func asked(v verb, flags []cli.Flag, action cli.ActionFunc) *cli.Command {
	c := command(v, flags, action)
	c.Category = talks
	return c
}

// talks marks these commands; the help has no categories.
const talks = "talks to a launcher"

// arrange puts flags before the words for those commands. The flag package stops at
// the first word, which for others is right: what follows is another's command line.
func arrange(args []string, commands []*cli.Command) []string {
	if len(args) < 3 {
		return args
	}
	i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[1]) && c.Category == talks })
	if i < 0 {
		return args
	}
	var flags, words []string
	for rest := args[2:]; len(rest) > 0; rest = rest[1:] {
		arg := rest[0]
		if arg == "--" {
			words = append(words, rest[1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' || arg[1] >= '0' && arg[1] <= '9' {
			words = append(words, arg)
			continue
		}
		flags = append(flags, arg)
		if len(rest) > 1 && takesValue(commands[i], arg) {
			flags, rest = append(flags, rest[1]), rest[1:]
		}
	}
	return slices.Concat(args[:2], flags, []string{"--"}, words)
}

// takesValue reports whether the value of a flag is the next word.
func takesValue(c *cli.Command, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	for _, f := range c.Flags {
		if _, isBool := f.(*cli.BoolFlag); slices.Contains(f.Names(), name) {
			return !isBool
		}
	}
	return false // with "=", or not known, which is said elsewhere
}

// application is the one that a verb is about: named, or ./baton.toml's, or the only
// one that runs.
func application(c *cli.Context, name string) (*control.Client, error) {
	dir, err := control.Home()
	if err != nil {
		return nil, err
	}
	if name != "" {
		if !control.Fits(name) {
			return nil, usage("", "%q is no name of an application", name)
		}
		return control.In(control.Where(dir, name), name), nil
	}
	if _, err := os.Stat(defaultFile); err == nil {
		// One that is wrong is an error: the only application that runs may be another.
		cfg, err := config.Load(defaultFile, config.Options{Address: parsable})
		if err != nil {
			return nil, err
		}
		return control.In(dir, cfg.Name), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names, err := control.List(dir)
	switch {
	case err != nil:
		return nil, err
	case len(names) == 0:
		return nil, notRunning(dir, "no application runs")
	case len(names) > 1:
		return nil, usage("name one: baton "+c.Command.Name+" NAME", "several applications run: %s", strings.Join(names, ", "))
	}
	return control.In(dir, names[0]), nil
}

func notRunning(dir, text string) error {
	return &exit{code: NotRunning, err: errors.New(text), hint: "launchers are looked for in " + dir + "; baton status lists them"}
}

// one is the client of a verb that takes nothing but a name.
func one(c *cli.Context) (*control.Client, error) {
	if c.NArg() > 1 {
		return nil, usage("name one application", "unexpected %q", c.Args().Get(1))
	}
	// An empty variable in a script must not mean whatever happens to run.
	if c.NArg() == 1 && c.Args().First() == "" {
		return nil, usage("", "the name is empty")
	}
	return application(c, c.Args().First())
}

// refused gives an error of a call the exit code that is its own.
func refused(err error) error {
	var answered *control.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, control.ErrNotRunning):
		dir, failed := control.Home()
		if failed != nil {
			return failed
		}
		return notRunning(dir, err.Error())
	case errors.As(err, &answered) && answered.Busy():
		return &exit{code: Busy, err: err, hint: "try again later"}
	}
	return err
}

// patience is how long a launcher may take for what it does at once. It answers
// itself when its engine does not.
const patience = 15 * time.Second

// quickly is the context of a call that waits for nothing.
func quickly(c *cli.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(c.Context, patience, fmt.Errorf("none within %v", patience))
}

// swaps asks applications for a swap, one after the other, shows how it goes and prints
// the verdicts. It ends with the greatest of the exit codes.
func (p *program) swaps(c *cli.Context, codes map[string]Code, ask func(context.Context, *control.Client) (event.Verdict, error)) error {
	names, err := several(c, running)
	if err != nil {
		return err
	}
	type named struct {
		Name string `json:"name"`
		event.Verdict
	}
	list := []named{} // for --json, of several
	err = p.each(names, func(name string) error {
		app, err := client(name)
		if err != nil {
			return err
		}
		var v event.Verdict
		if err := p.watched(c.Context, app, func(ctx context.Context) (err error) {
			v, err = ask(ctx, app)
			return err
		}); err != nil {
			return refused(err)
		}
		if c.Bool("json") && len(names) > 1 {
			list = append(list, named{name, v})
			if code := codeOf(v, codes); code != Done {
				return shown(code)
			}
			return nil
		}
		if err := p.judge(c, name, v, codes); err != nil || c.Bool("json") {
			return err
		}
		p.tellChanges(c, app, v.Generation)
		return nil
	})
	if len(list) > 0 {
		err = errors.Join(p.printJSON(list), err)
	}
	return err
}

// tellChanges says what is other about the environment of a generation that has come to
// serve; the verdict stands already, whether that can be found out or not.
func (p *program) tellChanges(c *cli.Context, app *control.Client, generation int) {
	ctx, cancel := quickly(c)
	defer cancel()
	r, err := app.Glance(ctx)
	if err != nil {
		return
	}
	for _, g := range r.Generations {
		if g.Number == generation {
			p.environmentIs(app.Name, g.Environment)
		}
	}
}

// codeOf is the exit code that a verdict stands for.
func codeOf(v event.Verdict, codes map[string]Code) Code {
	if code, known := codes[v.Outcome]; known {
		return code
	}
	return Failed
}

// judge prints a verdict and gives its exit code.
func (p *program) judge(c *cli.Context, name string, v event.Verdict, codes map[string]Code) error {
	code := codeOf(v, codes)
	end := func() error {
		if code == Done {
			return nil
		}
		return shown(code)
	}
	if c.Bool("json") {
		if err := p.printJSON(v); err != nil {
			return err
		}
		return end()
	}
	text := name + ": " + v.Outcome
	if v.Outcome == control.Swapped {
		text = fmt.Sprintf("%s: swapped, generation %d serves", name, v.Generation)
	}
	if v.Reason != "" {
		text += ": " + v.Reason
	}
	if code == Done {
		_, err := fmt.Fprintln(p.stdout, printable(text))
		return err
	}
	fmt.Fprintln(p.stderr, "baton: "+printable(text))
	for _, line := range v.Tail {
		fmt.Fprintln(p.stderr, "  | "+printable(line))
	}
	return end()
}

// simply does for applications what a launcher does at once, and prints done.
func (p *program) simply(c *cli.Context, done string, do func(context.Context, *control.Client) error) error {
	names, err := several(c, running)
	if err != nil {
		return err
	}
	return p.each(names, func(name string) error {
		app, err := client(name)
		if err != nil {
			return err
		}
		ctx, cancel := quickly(c)
		defer cancel()
		if err := do(ctx, app); err != nil {
			return refused(err)
		}
		_, err = fmt.Fprintf(p.stdout, "%s: %s\n", name, done)
		return err
	})
}

// printable keeps what a program said from telling the terminal what to do.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f) {
			return r
		}
		return '?'
	}, s)
}

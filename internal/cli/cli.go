// Package cli is baton's command line: words, flags and exit codes, a file per
// verb.
//
// The invariant: whatever happens, the exit code says which of the seven things
// in Code it was, the result goes to standard output and everything else to
// standard error. It decides nothing about launchers: it turns words into a
// configuration and hands that over.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"baton/internal/config"
	"baton/internal/launcher"
	"baton/internal/upgrade"

	"github.com/urfave/cli/v2"
)

// Code is an exit code. The numbers are a promise to scripts.
type Code int

// The exit codes there are.
const (
	Done       Code = 0
	Failed     Code = 1
	Usage      Code = 2
	RolledBack Code = 3
	NotRunning Code = 4
	Invalid    Code = 5
	Busy       Code = 6
)

var codes = []string{
	Done:       "done",
	Failed:     "failed",
	Usage:      "wrong usage",
	RolledBack: "rolled back: the newcomer failed, the old generation serves",
	NotRunning: "not running",
	Invalid:    "config invalid",
	Busy:       "superseded or busy",
}

// exit is an error that knows its exit code; urfave/cli calls it an ExitCoder.
type exit struct {
	code Code
	err  error
	hint string // what to do next; printed on a line of its own
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }
func (e *exit) ExitCode() int { return int(e.code) }

// usage is an error in the words themselves.
func usage(hint, format string, args ...any) error {
	return &exit{code: Usage, err: fmt.Errorf(format, args...), hint: hint}
}

// shown means that everything there is to say stands on the output already.
func shown(code Code) error { return &exit{code: code} }

// program is one run of the command line.
type program struct {
	args           []string // as given, the program's name first
	stdout, stderr *os.File
}

// Main runs the command line and returns the exit code. args[0] is the program's
// name.
func Main(args []string, stdout, stderr *os.File) int {
	upgrade.Main(launcher.Prover(thisBuild().Version))
	p := &program{args: args, stdout: stdout, stderr: stderr}
	if len(args) > 1 && args[1] == completeWord {
		p.complete(args[2:])
		return int(Done)
	}
	app := p.app()
	return int(p.report(app.RunContext(context.Background(), arrange(args, app.Commands))))
}

// commands lists the verbs in the order of the help.
func (p *program) commands() []*cli.Command {
	return []*cli.Command{
		p.runCommand(),
		p.startCommand(),
		p.statusCommand(),
		p.showCommand(),
		p.eventsCommand(),
		p.reloadCommand(),
		p.restartCommand(),
		p.rollbackCommand(),
		p.promoteCommand(),
		p.abortCommand(),
		p.scaleCommand(),
		p.stopCommand(),
		p.deleteCommand(),
		p.upgradeCommand(),
		p.saveCommand(),
		p.resurrectCommand(),
		p.startupCommand(),
		p.unstartupCommand(),
		p.cleanupCommand(),
		p.logsCommand(),
		p.flushCommand(),
		p.monitCommand(),
		p.checkCommand(),
		p.initCommand(),
		p.importCommand(),
		p.demoCommand(),
		p.completionCommand(),
		p.manCommand(),
		p.versionCommand(),
	}
}

func (p *program) app() *cli.App {
	app := &cli.App{
		Name:            "baton",
		Usage:           "start a server, own its sockets, swap it without losing a connection",
		HideVersion:     true, // there is a verb for it
		HideHelpCommand: true,
		// A path may hold a comma; flags that are lists are repeated.
		DisableSliceFlagSeparator: true,
		Writer:                    p.stdout,
		ErrWriter:                 p.stderr,
		Commands:                  p.commands(),
		Action:                    p.noVerb,
		OnUsageError:              p.wrongFlag,
		// The exit code is for Main to return: the default handler would leave at
		// once, past everything deferred.
		ExitErrHandler: func(*cli.Context, error) {},
	}
	for _, c := range app.Commands {
		c.HideHelpCommand = true
		c.OnUsageError = p.wrongFlag
	}
	app.CustomAppHelpTemplate = appHelp(app)
	return app
}

// noVerb answers `baton` alone with the help, and a word that is no verb.
func (p *program) noVerb(c *cli.Context) error {
	word := c.Args().First()
	if word == "" || word == "help" && c.NArg() == 1 {
		return cli.ShowAppHelp(c)
	}
	if verb := c.App.Command(c.Args().Get(1)); word == "help" && verb != nil {
		return cli.ShowCommandHelp(c, verb.Name)
	}
	if word == "help" {
		word = c.Args().Get(1)
	}
	hint := "baton --help lists the commands"
	var verbs []string
	for _, command := range c.App.Commands {
		verbs = append(verbs, command.Name)
	}
	if near := config.Nearest(word, append(verbs, "help")); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return usage(hint, "unknown command %q", word)
}

// wrongFlag gives an error of the flag package the words and the exit code of
// ours. The package has no types for its errors, only their text.
func (p *program) wrongFlag(c *cli.Context, err error, _ bool) error {
	hint := p.helpHint(c)
	if given, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: "); ok {
		name := strings.TrimLeft(given, "-")
		flags := []string{"help"}
		for _, f := range c.Command.Flags {
			flags = append(flags, f.Names()...)
		}
		if near := config.Nearest(name, flags); near != "" {
			hint = fmt.Sprintf("did you mean --%s?", near)
		}
		return usage(hint, "unknown flag --%s", name)
	}
	return usage(hint, "%s", strings.Replace(err.Error(), " -", " --", 1))
}

func (p *program) helpHint(c *cli.Context) string {
	if c.Command == nil || c.Command.Name == "" || c.Command.Name == c.App.Name {
		return "baton --help lists the commands"
	}
	return fmt.Sprintf("baton %s --help lists the flags", c.Command.Name)
}

// afterDashes splits the arguments at "--": what stands before it, and the command
// behind it. dashes says whether there was one; the flag package swallows it when
// it comes first.
func (p *program) afterDashes(c *cli.Context) (before, command []string, dashes bool) {
	args := c.Args().Slice()
	if at := len(p.args) - len(args) - 1; at > 0 && p.args[at] == "--" {
		return nil, args, true
	}
	if i := slices.Index(args, "--"); i >= 0 {
		return args[:i], args[i+1:], true
	}
	return args, nil, false
}

// report prints an error, if there is one, and gives its exit code.
func (p *program) report(err error) Code {
	code, text, hint := explain(err)
	if text != "" {
		fmt.Fprintln(p.stderr, text)
	}
	if hint != "" {
		fmt.Fprintf(p.stderr, "  %s\n", hint)
	}
	return code
}

// explain is an error's exit code, and what is printed of it.
func explain(err error) (code Code, text, hint string) {
	if err == nil {
		return Done, "", ""
	}
	var invalid config.Errors
	if errors.As(err, &invalid) {
		return invalidCode(invalid), invalid.Error(), ""
	}
	code = Failed
	var ours *exit
	var coded interface{ ExitCode() int }
	switch {
	case errors.As(err, &ours):
		if code, hint = ours.code, ours.hint; ours.err == nil {
			return code, "", ""
		}
	case errors.As(err, &coded):
		code = Code(coded.ExitCode())
	}
	return code, "baton: " + err.Error(), hint
}

// invalidCode tells wrong flags from a wrong file: without a line, a value came
// from the command line.
func invalidCode(all config.Errors) Code {
	for _, e := range all {
		if e.File != "" && !strings.HasPrefix(e.File, "--") && e.File != commandLine {
			return Invalid
		}
	}
	return Usage
}

// commandLine names the command behind "--" as the place of an error.
const commandLine = "command line"

package cli

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/launcher"

	"github.com/urfave/cli/v2"
)

func (p *program) runCommand() *cli.Command {
	flags := []cli.Flag{configFlag(), envFlag(), listenFlag(), watchFlag()}
	for _, f := range settingFlags {
		flags = append(flags, &cli.StringFlag{Name: f.flag, Usage: f.usage})
	}
	return command(verb{
		name: "run", line: "[flags] [-- CMD ARG...]",
		does: "run an application in the foreground",
		text: `
Opens the listeners, starts the command on them and keeps it running. What to
run is said by a file, by flags, or by both: flags win over the file.

SIGHUP reads the file again, lays the same flags over it, and swaps: the new
generation takes over once it is ready, the old one finishes what it has.
SIGTERM and SIGINT drain and exit 0; a second one ends everything now, and so
does SIGQUIT.

Addresses are :8080, 127.0.0.1:8080, [::1]:8080, tcp://, tcp4://, tcp6://,
udp:// or unix:///path. Times have a unit: 500ms, 30s, 1m30s.

  baton run --listen :8080 -- ./server --verbose
  baton run --listen :8080 --workers max --watch ./server -- ./server
  baton run --config web.toml --env production

An application runs once: 6 when one of the same name does.`,
		ends: []Code{Invalid, Busy},
	}, flags, p.run)
}

func (p *program) run(c *cli.Context) error {
	exec, err := p.commandOf(c)
	if err != nil {
		return err
	}
	path, err := file(c, exec != nil)
	if err != nil {
		return err
	}
	if path == "" && c.IsSet("env") {
		return usage("add --config FILE", "--env chooses a profile of a file, and no file is given")
	}
	set, err := settings(c, exec)
	if err != nil {
		return err
	}

	var level slog.LevelVar
	load := func() (*config.Config, error) {
		return config.Load(path, config.Options{Profile: c.String("env"), Set: set, Address: parsable})
	}
	first, err := load()
	if err != nil {
		return err
	}
	setLevel(&level, first)
	// The log's format had to be known before the launcher could start; what was
	// read for it is what the launcher starts with.
	var once atomic.Pointer[config.Config]
	once.Store(first)
	err = launcher.Run(c.Context, launcher.Options{
		Load: func() (*config.Config, error) {
			if cfg := once.Swap(nil); cfg != nil {
				return cfg, nil
			}
			return load()
		},
		Applied: func(cfg *config.Config) { setLevel(&level, cfg) },
		Home:    control.Home,
		Logs:    control.Logs,
		Stdout:  p.stdout,
		Stderr:  p.stderr,
		Log:     logger(p.stderr, first.Log.Format, &level),
	})
	var taken *control.TakenError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &taken):
		err = &exit{code: Busy, err: err, hint: "give this one another name (--name), or end that one: baton stop " + taken.Name}
	}
	return p.lastWord(err)
}

// lastWord prints why the launcher ended. Standard error may be one that nobody
// reads: then the exit code alone tells it.
func (p *program) lastWord(err error) error {
	told := make(chan Code, 1)
	go func() { told <- p.report(err) }() // ends with the write, or with the program
	select {
	case code := <-told:
		return shown(code)
	case <-time.After(lastWordTime):
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return shown(Code(coded.ExitCode()))
	}
	return shown(Failed)
}

// lastWordTime is far more than a reader needs who reads at all.
const lastWordTime = time.Second

// commandOf gives the command behind "--", nil when there is none. The dashes are
// needed: other words have a meaning for other verbs.
func (p *program) commandOf(c *cli.Context) ([]string, error) {
	before, exec, dashes := p.afterDashes(c)
	if len(before) > 0 {
		return nil, usage("put -- before the command: baton "+c.Command.Name+" [flags] -- "+before[0], "unexpected %q", before[0])
	}
	if dashes && len(exec) == 0 {
		return nil, usage("add the command: -- ./server", "nothing stands behind --")
	}
	return exec, nil
}

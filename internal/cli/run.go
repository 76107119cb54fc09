package cli

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/launcher"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

func (p *program) runCommand() *cli.Command {
	c := command(verb{
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
	}, runFlags(), p.run)
	// Not in the help: it is how baton start calls it.
	c.Flags = append(c.Flags, &cli.BoolFlag{Name: background, Hidden: true})
	return c
}

// runFlags say what to run and how.
func runFlags() []cli.Flag {
	flags := []cli.Flag{configFlag(), envFlag(), listenFlag(), watchFlag()}
	for _, f := range settingFlags {
		flags = append(flags, &cli.StringFlag{Name: f.flag, Usage: f.usage})
	}
	return flags
}

func (p *program) run(c *cli.Context) error {
	before, lost := launcher.Inherit()
	var told *told
	if !before.Upgraded() { // else what it was told by is closed, and its number another's
		told = toldOf(c)
	}
	err := p.foreground(c, told, before, lost)
	told.ended(err)
	return err
}

// foreground runs the launcher until it ends, and tells whoever started it in the
// background how that goes. lost is what could not be had of what a launcher before it left.
func (p *program) foreground(c *cli.Context, told *told, before *launcher.Inheritance, lost error) error {
	src, err := p.source(c)
	if err != nil {
		return err
	}
	if c.Bool(background) { // where nobody reads what passes through
		src.under = []config.Setting{{Key: "logs.output", Value: config.OutputCapture, From: "baton start"}}
	}
	first, err := before.First(src.load)
	if err != nil {
		return err
	}
	var level slog.LevelVar
	told.begun(first)
	if c.Bool(background) {
		process.CalledAs("baton")
		free := boundLog(p.stderr, first)
		defer free()
	}
	setLevel(&level, first)
	// The log's format had to be known before the launcher could start; what was
	// read for it is what the launcher starts with.
	var once atomic.Pointer[config.Config]
	once.Store(first)
	log := logger(p.stderr, first.Log.Format, &level)
	if lost != nil {
		log.Error(lost.Error())
	}
	err = launcher.Run(c.Context, launcher.Options{
		Load: func() (*config.Config, error) {
			if cfg := once.Swap(nil); cfg != nil {
				return cfg, nil
			}
			return src.load()
		},
		Before:  before,
		Version: thisBuild().Version,
		Applied: func(cfg *config.Config) { setLevel(&level, cfg) },
		Observe: told.observe,
		Home:    control.Home,
		Logs:    control.Logs,
		Stdout:  p.stdout,
		Stderr:  p.stderr,
		Log:     log,
		Kept:    c.Bool(background),
	})
	var taken *control.TakenError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &taken):
		err = &exit{code: Busy, err: err, hint: "give this one another name (--name), or end that one: baton stop " + taken.Name}
	}
	told.ended(err)
	return p.lastWord(err)
}

// source is where a configuration comes from: a file, flags, or both.
type source struct {
	path, profile string
	set           []config.Setting
	under         []config.Setting // defaults that are not the usual ones
	exec          []string         // the command behind "--"
}

// source reads the words of run, which are those of start.
func (p *program) source(c *cli.Context) (source, error) {
	exec, err := p.commandOf(c)
	if err != nil {
		return source{}, err
	}
	path, err := file(c, exec != nil)
	if err != nil {
		return source{}, err
	}
	if path == "" && c.IsSet("env") {
		return source{}, usage("add --config FILE", "--env chooses a profile of a file, and no file is given")
	}
	set, err := settings(c, exec)
	return source{path: path, profile: c.String("env"), set: set, exec: exec}, err
}

func (s source) load() (*config.Config, error) {
	return config.Load(s.path, config.Options{Profile: s.profile, Set: s.set, Under: s.under, Address: parsable})
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

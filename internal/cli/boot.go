package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"baton/internal/apps"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

const systemUnits = "/etc/systemd/system"

// toBoot says for whom units are written, by flags and by who asks.
func toBoot(c *cli.Context) (boot, error) {
	me, err := user.Current()
	if err != nil {
		return boot{}, err
	}
	state, err := control.State()
	if err != nil {
		return boot{}, err
	}
	t := boot{own: os.Geteuid() != 0, me: me.Username, dir: systemUnits, apps: apps.In(state), environ: apps.In(state)}
	if c.IsSet("root") {
		if t.root, err = filepath.Abs(c.String("root")); err != nil {
			return t, err
		}
	}
	if t.own && t.root == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return t, err
		}
		t.dir = filepath.Join(config, "systemd", "user")
	}
	if c.IsSet("user") {
		if t, err = t.of(c.String("user"), state); err != nil {
			return t, err
		}
	}
	if t.root != "" {
		t.own, t.dir = false, filepath.Join(t.root, systemUnits)
	}
	return t, nil
}

// of is for the applications of another user. What is there is that user's to write, so
// it is only read, and the environment that systemd is to read lies where root alone
// writes.
func (t boot) of(name, state string) (boot, error) {
	if t.own {
		return t, &exit{code: Failed, err: errors.New("--user takes root"), hint: "without it, units of your own are written"}
	}
	u, err := user.Lookup(name)
	if err != nil {
		return t, usage("", "--user: %w", err)
	}
	if u.Uid == "0" {
		return t, usage("without --user it is root", "--user: %s is root", name)
	}
	t.user, t.uid, t.readOnly = u.Username, u.Uid, true
	t.apps = apps.In(filepath.Join(u.HomeDir, ".local", "state", "baton"))
	t.environ = apps.In(filepath.Join(state, "users", u.Username))
	return t, nil
}

// booted reports whether systemd runs this machine (sd_booted(3)).
func booted() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// runQuietly runs a command to its end; the error has the last line that it said.
func runQuietly(ctx context.Context, words []string) error {
	r, err := process.Resolve(process.Command{Exec: words})
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read from
	ctx, cancel := context.WithTimeoutCause(ctx, systemctlTime, fmt.Errorf("not done within %v", systemctlTime))
	defer cancel()
	_, err = process.Run(ctx, process.Job{Release: r, Env: r.Env()})
	return err
}

// systemctlTime is the longest that a stop by systemd may take.
const systemctlTime = 5 * time.Minute

// self is this program by the path that it was called by: a link to a version stays a
// link to the next one.
func (p *program) self() (string, error) {
	real, err := os.Executable()
	if err != nil {
		return "", err
	}
	called := p.args[0]
	if !strings.Contains(called, "/") {
		called, err = exec.LookPath(called)
	}
	if err == nil {
		called, err = filepath.Abs(called)
	}
	if err == nil && same(called, real) {
		return called, nil
	}
	return real, nil // it was called by a name that leads elsewhere
}

func same(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// configOf is the configuration of an application as its file and the words it was
// started with have it now. It changes this process's directory: paths are relative to
// where the application was started.
func configOf(a apps.App) (*config.Config, error) {
	return configAt(a.Directory, runArgs(a))
}

func configAt(dir string, args []string) (cfg *config.Config, err error) {
	if err := os.Chdir(dir); err != nil {
		return nil, err
	}
	q := &program{args: append([]string{"baton", "run"}, args...)}
	verb := q.runCommand()
	verb.Action = func(c *cli.Context) error {
		src, err := q.source(c)
		if err == nil {
			cfg, err = src.load()
		}
		return err
	}
	app := &cli.App{
		Name: "baton", HideHelp: true, HideVersion: true, DisableSliceFlagSeparator: true, Commands: []*cli.Command{verb},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return err }, ExitErrHandler: func(*cli.Context, error) {},
	}
	verb.OnUsageError = app.OnUsageError
	if err := app.RunContext(context.Background(), q.args); err != nil {
		return nil, err
	}
	if cfg == nil { // --help, for one
		return nil, errors.New("its words do not run anything")
	}
	return cfg, nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"baton/internal/apps"
	"baton/internal/control"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

// What is known of applications beside what their launchers say.

// all stands for every application.
const all = "all"

func registry() (apps.Registry, error) {
	dir, err := control.State()
	if err != nil {
		return apps.Registry{}, err
	}
	return apps.In(dir), nil
}

// known is an application of the registry; one that is not there is none that runs.
func known(r apps.Registry, name string) (apps.App, error) {
	if !control.Fits(name) {
		return apps.App{}, usage("", "%q is no name of an application", name)
	}
	a, err := r.Get(name)
	if errors.Is(err, fs.ErrNotExist) {
		return a, &exit{code: NotRunning, err: fmt.Errorf("%s is no application that baton start started", name),
			hint: "baton status lists them; baton start --name " + name + " -- CMD starts one"}
	}
	return a, err
}

// environment is what an application is started with, now and later: this process's own,
// without what belongs to the session or the unit that it happens to be in.
func environment() []string {
	var kept []string
	for _, kv := range os.Environ() {
		k, _, ok := strings.Cut(kv, "=")
		if !ok || k == "" || strings.ToValidUTF8(kv, "") != kv || slices.Contains(ofTheSession, k) ||
			slices.ContainsFunc([]string{"SSH_", "XDG_SESSION_", "LISTEN_", "WATCHDOG_", "TMUX", "STY"}, func(p string) bool { return strings.HasPrefix(k, p) }) {
			continue
		}
		if k == "BATON_HOME" { // relative to here, not to where it is started
			if dir, err := filepath.Abs(os.Getenv(k)); err == nil {
				kv = k + "=" + dir
			}
		}
		kept = append(kept, kv)
	}
	slices.Sort(kept)
	return kept
}

var ofTheSession = []string{
	"_", "SHLVL", "PWD", "OLDPWD", "TERM", "COLUMNS", "LINES", "WINDOWID", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY",
	"DBUS_SESSION_BUS_ADDRESS", "NOTIFY_SOCKET", "FDSTORE", "INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "MANAGERPID", "SYSTEMD_EXEC_PID",
	"SUDO_COMMAND", "SUDO_USER", "SUDO_UID", "SUDO_GID", "XDG_VTNR", "XDG_SEAT",
}

// places are the variables by which baton finds what it keeps: a launcher is to find the
// same as who starts it.
var places = []string{"BATON_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"}

// launching is the environment of a launcher.
func launching(a apps.App) ([]string, error) {
	env := slices.DeleteFunc(slices.Clone(a.Env), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return slices.Contains(places, k)
	})
	for _, k := range places {
		v, ok := os.LookupEnv(k)
		if ok && k == "BATON_HOME" && v != "" { // relative to here, not to where it is started
			var err error
			if v, err = filepath.Abs(v); err != nil {
				return nil, err
			}
		}
		if ok {
			env = append(env, k+"="+v)
		}
	}
	return env, nil
}

// runArgs are the words of baton run that start an application, its name among them: the
// file may call it something else by now.
func runArgs(a apps.App) []string {
	return append([]string{"--name", a.Name}, a.Args...)
}

// here is what the run directory has of an application: whether its launcher runs, and
// whether it was killed.
type here struct{ runs, killed bool }

// look finds every application that runs or was killed.
func look(dir string) (map[string]here, error) {
	found, err := control.Look(dir)
	all := make(map[string]here, len(found))
	for _, f := range found {
		if h := (here{runs: f.Answers, killed: !f.Answers && killed(f)}); h.runs || h.killed {
			all[f.Name] = h
		}
	}
	return all, err
}

// killed: of a launcher that does not answer, it was killed. A lock is left, and who held
// it is gone.
func killed(f control.Found) bool { return f.PID != 0 && !process.RanAt(f.PID, f.Since) }

// several are the names that a verb was given; without one it is that of application.
// "all" is what every gives.
func several(c *cli.Context, every func() ([]string, error)) ([]string, error) {
	words := c.Args().Slice()
	switch {
	case len(words) == 0:
		app, err := application(c, "")
		if err != nil {
			return nil, err
		}
		return []string{app.Name}, nil
	case slices.Contains(words, all) && len(words) > 1:
		return nil, usage("", "%s stands alone", all)
	case words[0] == all:
		return every()
	}
	var names []string
	for _, name := range words {
		switch {
		case name == "": // an empty variable in a script must not mean whatever happens to run
			return nil, usage("", "the name is empty")
		case !control.Fits(name):
			return nil, usage("", "%q is no name of an application", name)
		case !slices.Contains(names, name):
			names = append(names, name)
		}
	}
	return names, nil
}

// running are the names of the applications that run.
func running() ([]string, error) {
	dir, err := control.Home()
	if err != nil {
		return nil, err
	}
	names, err := control.List(dir)
	if err == nil && len(names) == 0 {
		return nil, notRunning(dir, "no application runs")
	}
	return names, err
}

// registered are the names of the applications that baton start started.
func registered() ([]string, error) {
	r, err := registry()
	if err != nil {
		return nil, err
	}
	names, err := r.Names() // also of those that cannot be read: each says so itself
	if err == nil && len(names) == 0 {
		return nil, &exit{code: NotRunning, err: errors.New("no application was started by baton start")}
	}
	return names, err
}

// each does something for every name, says what went wrong with each, and ends with the
// greatest of the exit codes. One name's error is left to the caller.
func (p *program) each(names []string, do func(name string) error) error {
	if len(names) == 1 {
		return do(names[0])
	}
	worst := Done
	for _, name := range names {
		worst = max(worst, p.report(do(name)))
	}
	if worst == Done {
		return nil
	}
	return shown(worst)
}

// client of an application, wherever it runs.
func client(name string) (*control.Client, error) {
	dir, err := control.Home()
	if err != nil {
		return nil, err
	}
	return control.In(control.Where(dir, name), name), nil
}

// answers is the report of an application that runs; nil when it does not.
func answers(ctx context.Context, name string) (pid int, runs bool, err error) {
	app, err := client(name)
	if err != nil {
		return 0, false, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("none within %v", patience))
	defer cancel()
	r, err := app.Glance(ctx)
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	return r.PID, true, nil
}

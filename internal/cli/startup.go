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
	"baton/internal/systemd"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"
)

func (p *program) startupCommand() *cli.Command {
	return asked(verb{
		name: "startup", line: "[NAME... | all] [flags]",
		does: "have systemd start applications at boot",
		text: `
Writes a systemd unit for each and enables it: for root in /etc/systemd/system,
for others in ~/.config/systemd/user. They are saved as well: without a NAME what
runs now is, and everything that is saved gets a unit. What runs goes on as it
is; from the next boot on it is systemd that runs it.

A unit runs baton run with the words, directory and environment that baton start
had. It holds none of the environment itself: that is in a file beside, which
nobody else can read. Where systemd does not run, it is said what to do.

The units of a user start at boot only where that user may linger: loginctl
enable-linger. With --system root is told to write units for the user instead.

  baton startup
  sudo baton startup --user joe`,
		ends: []Code{NotRunning, Invalid},
	}, []cli.Flag{
		&cli.StringFlag{Name: "user", Usage: "as root: for the applications of user `NAME`, that run as that user"},
		&cli.BoolFlag{Name: "system", Usage: "in /etc/systemd/system, which takes root"},
		rootFlag(),
	}, p.startup)
}

func rootFlag() cli.Flag {
	return &cli.StringFlag{Name: "root", Usage: "below `DIR`, as for an image, and without asking systemd"}
}

// startup is one run of the command.
func (p *program) startup(c *cli.Context) error {
	t, err := toBoot(c)
	if err != nil {
		return err
	}
	if c.Bool("system") && t.own && c.String("root") == "" {
		return &exit{code: Failed, err: errors.New("--system takes root"),
			hint: "save first, then let root do it: baton save && sudo baton startup --user " + t.me}
	}
	if t.self, err = p.self(); err != nil {
		return err
	}
	names := c.Args().Slice()
	if len(names) == 0 || slices.Equal(names, []string{all}) {
		if names, err = t.saved(names); err != nil {
			return err
		}
	}
	var units []string
	err = p.each(names, func(name string) error {
		path, err := p.writeUnit(t, name)
		if err != nil {
			return err
		}
		units = append(units, filepath.Base(path))
		_, err = fmt.Fprintf(p.stdout, "%s: %s\n", name, path)
		return err
	})
	if len(units) == 0 {
		return err
	}
	return errors.Join(err, p.enable(c.Context, t, units))
}

// boot is for whom units are written, and where.
type boot struct {
	own      bool   // for the manager of the user who asks
	user     string // that the applications are of, other than root and who asks
	uid, me  string
	dir      string        // of the units
	apps     apps.Registry // what is known of them
	environ  apps.Registry // where their environment is written
	root     string        // of an image; "" of this machine
	readOnly bool          // apps is another user's: nothing is written there
	self     string        // this program
}

// saved marks what runs, or with all everything, as coming back, and names all that does.
func (t boot) saved(words []string) ([]string, error) {
	list, err := t.apps.List()
	if err != nil {
		return nil, err
	}
	var runs []string
	if !t.readOnly {
		dir, err := control.Home()
		if err != nil {
			return nil, err
		}
		if runs, err = control.List(dir); err != nil {
			return nil, err
		}
	}
	var names []string
	for _, a := range list {
		if a.Saved || len(words) > 0 || slices.Contains(runs, a.Name) {
			names = append(names, a.Name)
		}
	}
	if len(names) == 0 {
		return nil, &exit{code: NotRunning, err: errors.New("nothing that baton start has started runs, and nothing is saved"),
			hint: "start it first: baton start"}
	}
	return names, nil
}

// writeUnit writes the unit of one, and notes that it comes back.
func (p *program) writeUnit(t boot, name string) (string, error) {
	a, err := known(t.apps, name)
	if err != nil {
		return "", err
	}
	path := filepath.Join(t.dir, unitName(name))
	if old, err := os.ReadFile(path); err == nil && !systemd.Ours(string(old)) {
		return "", fmt.Errorf("%s was not written by baton startup, and is left as it is", path)
	}
	s := systemd.Service{
		App: name, Exec: append([]string{t.self, "run"}, runArgs(a)...), Reload: []string{t.self, "reload", name}, Cleanup: []string{t.self, "cleanup", name},
		Directory: a.Directory, Environment: t.environ.Environment(name), User: t.user, UID: t.uid, Own: t.own,
	}
	if !t.readOnly { // another user's files are not root's to read
		if cfg, err := configOf(a); err == nil {
			h := cfg.Handoff
			s.Stop = h.HandshakeWait + h.DrainDelay + h.DrainIdle + h.DrainTimeout + startMargin
		}
	}
	text, err := s.Text()
	if err != nil {
		return "", err
	}
	left, err := t.environ.WriteEnvironment(a)
	if err != nil {
		return "", err
	}
	if len(left) > 0 {
		fmt.Fprintf(p.stderr, "%s: left out of its environment, since systemd would not take it: %s\n", name, printable(strings.Join(left, " ")))
	}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return "", err
	}
	if err := renameio.WriteFile(path, []byte(text), 0o644, renameio.IgnoreUmask()); err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	if t.readOnly || t.root != "" {
		return path, nil
	}
	return path, t.apps.Change(name, func(now apps.App) apps.App {
		if now.Name != "" { // else it was deleted meanwhile
			now.Saved, now.Unit = true, path
		}
		return now
	})
}

func unitName(name string) string { return systemd.Name(name) }

// enable has systemd know the units and start them at boot, or says how.
func (p *program) enable(ctx context.Context, t boot, units []string) error {
	reload, enable := t.systemctl("daemon-reload"), t.systemctl(append([]string{"enable"}, units...)...)
	switch {
	case t.root != "":
		fmt.Fprintf(p.stderr, "not enabled; in the image: %s\n", quoted(t.systemctl(append([]string{"--root", t.root, "enable"}, units...)...)))
		return nil
	case !booted():
		fmt.Fprintf(p.stderr, "systemd does not run here. Where it does: %s && %s\nWhere it never will, run baton resurrect at boot\n", quoted(reload), quoted(enable))
		return nil
	}
	for _, words := range [][]string{reload, enable} {
		if err := runQuietly(ctx, words); err != nil {
			return &exit{code: Failed, err: fmt.Errorf("%s: %w", quoted(words), err), hint: "the units are written; what is left: " + quoted(reload) + " && " + quoted(enable)}
		}
	}
	if who := t.lingers(); who != "" {
		fmt.Fprintf(p.stderr, "they start at boot, and not only at %s's login, after: loginctl enable-linger %s\n", who, who)
	}
	return nil
}

// lingers is the user whose manager is not started at boot; "" when it is, or none is
// needed.
func (t boot) lingers() string {
	who := t.user
	if t.own {
		who = t.me
	}
	if who == "" {
		return ""
	}
	if _, err := os.Stat("/var/lib/systemd/linger/" + who); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return who
}

func (t boot) systemctl(words ...string) []string {
	if t.own {
		return append([]string{"systemctl", "--user"}, words...)
	}
	return append([]string{"systemctl"}, words...)
}

func (p *program) unstartupCommand() *cli.Command {
	return asked(verb{
		name: "unstartup", line: "[NAME... | all] [flags]",
		does: "undo startup",
		text: `
Disables and removes the units that startup wrote, all of them without a NAME.
Files that it did not write are left alone. What runs goes on, and what is saved
stays so, for baton resurrect.`,
		ends: []Code{NotRunning},
	}, []cli.Flag{
		&cli.StringFlag{Name: "user", Usage: "as root: the units of the applications of user `NAME`"},
		rootFlag(),
	}, p.unstartup)
}

func (p *program) unstartup(c *cli.Context) error {
	t, err := toBoot(c)
	if err != nil {
		return err
	}
	var paths []string
	for _, name := range c.Args().Slice() {
		if name != all {
			paths = append(paths, filepath.Join(t.dir, unitName(name)))
		}
	}
	named := len(paths) > 0
	if !named {
		if paths, err = filepath.Glob(filepath.Join(t.dir, "baton-*.service")); err != nil {
			return err
		}
	}
	removed := 0
	err = p.each(paths, func(path string) error {
		text, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return &exit{code: NotRunning, err: fmt.Errorf("there is no %s", path)}
		case err != nil:
			return err
		case !systemd.Ours(string(text)) || !t.owns(string(text)):
			if named {
				return fmt.Errorf("%s was not written by baton startup for these applications, and is left as it is", path)
			}
			return nil
		}
		if err := p.removeUnit(c.Context, t, path, string(text)); err != nil {
			return err
		}
		removed++
		_, err = fmt.Fprintf(p.stdout, "removed %s\n", path)
		return err
	})
	if err == nil && removed == 0 {
		fmt.Fprintln(p.stderr, "startup has written nothing in "+t.dir)
	}
	return errors.Join(err, t.forgetUnits())
}

// owns: the unit is one of a user's, or of nobody's in particular, as is asked for.
func (t boot) owns(text string) bool {
	return t.user == "" && !strings.Contains(text, "\nUser=") || t.user != "" && strings.Contains(text, "\nUser="+t.user+"\n")
}

func (p *program) removeUnit(ctx context.Context, t boot, path, text string) error {
	if t.root == "" && booted() {
		words := t.systemctl("disable", filepath.Base(path))
		if err := runQuietly(ctx, words); err != nil {
			return fmt.Errorf("%s: %w", quoted(words), err)
		}
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		file, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "EnvironmentFile=")
		if file = strings.ReplaceAll(file, "%%", "%"); ok && filepath.Dir(file) == filepath.Dir(t.environ.Environment("x")) {
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if t.root == "" && booted() {
		return runQuietly(ctx, t.systemctl("daemon-reload"))
	}
	return nil
}

// forgetUnits takes units that are gone out of what is known.
func (t boot) forgetUnits() error {
	if t.readOnly || t.root != "" {
		return nil
	}
	list, err := t.apps.List()
	for _, a := range list {
		if a.Unit == "" {
			continue
		}
		if _, gone := os.Lstat(a.Unit); errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, t.apps.Change(a.Name, func(now apps.App) apps.App {
				now.Unit = ""
				return now
			}))
		}
	}
	return err
}

// withdraw removes the unit of an application that is deleted.
func (p *program) withdraw(ctx context.Context, r apps.Registry, a apps.App) error {
	text, err := os.ReadFile(a.Unit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !systemd.Ours(string(text)) {
		return nil // somebody has taken it over
	}
	t := boot{own: os.Geteuid() != 0, dir: filepath.Dir(a.Unit), apps: r, environ: r}
	if booted() {
		if err := runQuietly(ctx, t.systemctl("stop", filepath.Base(a.Unit))); err != nil {
			return err
		}
	}
	return p.removeUnit(ctx, t, a.Unit, string(text))
}

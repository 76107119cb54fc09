package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"baton/internal/control"
	"baton/internal/testkit"

	"golang.org/x/sys/unix"
)

// runs makes it look as if applications of these names run, and returns BATON_HOME.
func runs(t *testing.T, names ...string) string {
	t.Helper()
	home, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	for _, name := range names {
		c, err := control.Take(filepath.Join(home, "run"), name)
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.Listen()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = l.Close() // Close of the name tells
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return home
}

// folder is one with a configuration that has profiles.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"baton.toml": "command.exec = ['x']\nlisten = [{ address = ':80' }]\n[profile.production]\n[profile.staging]\n",
		"other.toml": "command.exec = ['x']\nlisten = [{ address = ':80' }]\n[profile.other]\n",
		"wrong.toml": "x",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWhatMayComeNext(t *testing.T) {
	t.Setenv("BATON_HOME", runs(t, "web", "api", "w-2"))
	t.Chdir(folder(t))
	app := (&program{}).app()
	for line, want := range map[string]string{
		"rel":                               "reload",
		"ro":                                "rollback",
		"--":                                "--help",
		"nothing ":                          "",
		"help stat":                         "status",
		"stop ":                             "api w-2 web",
		"stop w":                            "w-2 web",
		"events api ":                       "w-2 web",
		"ls a":                              "api",
		"stop web --n":                      "--now",
		"reload web --no-wait --n":          "",
		"reload --if-generation ":           "",
		"run ":                              "",
		"run --lo":                          "--log --log-level",
		"run --log ":                        "auto text json",
		"run --log = j":                     "json",
		"run --log =":                       "auto text json",
		"run --log=j":                       "--log=json",
		"run --log-level w":                 "warn",
		"run --ready n":                     "notify newline",
		"run --env ":                        "production staging",
		"run --config other.toml --env ":    "other",
		"run --config=other.toml --env=":    "--env=other",
		"run -c wrong.toml --env ":          "",
		"run --config ":                     ":files",
		"run -c ":                           ":files",
		"run --config=":                     ":files",
		"run --watch a --wa":                "--watch",
		"run --listen :80 -- ./server --li": ":files",
		"import ":                           "pm2",
		"import pm2 ":                       ":files",
		"import pm2 x.js --o":               "--out",
		"completion f":                      "fish",
		"init ":                             ":files",
		"version --":                        "--json --help",
	} {
		var got []string
		for _, c := range candidates(app, strings.Split(line, " ")) {
			got = append(got, c.word)
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%q: %q, want %q", line, text, want)
		}
	}
	// Everything that is offered at the beginning is a word of the help.
	for _, c := range candidates(app, []string{""}) {
		if c.about == "" || c.word != "--help" && c.word != "help" && app.Command(c.word) == nil {
			t.Errorf("offered: %+v", c)
		}
	}
}

// shellTerminal is a shell that believes that somebody sits before it.
type shellTerminal struct {
	t   *testing.T
	pty *os.File

	mu   sync.Mutex
	text strings.Builder
}

func openShell(t *testing.T, cmd *exec.Cmd) *shellTerminal {
	t.Helper()
	pty, slave := terminal(t)
	_ = unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}) // a line need not break
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close() // the shell has its own, and its end is that of the screen
	x := &shellTerminal{t: t, pty: pty}
	done := make(chan struct{})
	go func() { // ends with the shell
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := pty.Read(buf)
			x.mu.Lock()
			x.text.Write(buf[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		<-done
	})
	return x
}

// escapes are what a shell tells the terminal.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?>=]*[A-Za-z]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>A-Za-z])|[\r\x0f\x0e]`)

func (x *shellTerminal) shown() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return escapes.ReplaceAllString(x.text.String(), "")
}

func (x *shellTerminal) types(keys string) {
	x.t.Helper()
	if _, err := x.pty.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// shows waits until a line matches.
func (x *shellTerminal) shows(line string) {
	x.t.Helper()
	match := regexp.MustCompile("(?m)" + line)
	defer func() {
		if x.t.Failed() {
			x.t.Logf("on the terminal:\n%q", x.shown())
		}
	}()
	testkit.Wait(x.t, func() bool { return match.MatchString(x.shown()) }, "the terminal to show "+line)
}

// The shells themselves complete: what stands in the line after a Tab is printed by them.
func TestShellsComplete(t *testing.T) {
	if _, err := exec.LookPath("baton"); err != nil {
		t.Fatal(err) // testscript has put it there
	}
	lines := []struct{ typed, got string }{
		{"relo", "reload"},
		{"stop we", "stop web"},
		{"reload web --if", "reload web --if-generation"},
		{"run --log js", "run --log json"},
		{"run --log=js", "run --log=json"},
		{"run --env prod", "run --env production"},
		{"run --config oth", "run --config other.toml"},
		{"run --config=oth", "run --config=other.toml"},
		{"run -l :80 -- ./othe", "run -l :80 -- ./other.toml"},
		{"completion fi", "completion fish"},
	}
	for _, shell := range []struct {
		name  string
		args  []string
		begin string
		term  string
	}{
		{"bash", []string{"--norc", "--noprofile", "-i"}, "source <(baton completion bash); echo begun-$((1+1))", "dumb"},
		{"zsh", []string{"-f", "-i"}, "autoload -Uz compinit; compinit -u -D; source <(baton completion zsh); echo begun-$((1+1))", "dumb"},
		{"fish", []string{"--no-config", "-i"}, "baton completion fish | source; echo begun-(math 1+1)", "xterm"},
	} {
		t.Run(shell.name, func(t *testing.T) {
			path, err := exec.LookPath(shell.name)
			if err != nil {
				testkit.Lack(t, "needs %s: %v", shell.name, err)
			}
			home := runs(t, "web", "api")
			cmd := exec.Command(path, shell.args...)
			cmd.Dir = folder(t)
			cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FPATH=") }),
				"BATON_HOME="+home, "TERM="+shell.term, "PS1=$ ", "HOME="+cmd.Dir, "XDG_CONFIG_HOME="+cmd.Dir, "XDG_DATA_HOME="+cmd.Dir,
				"GORACE=atexit_sleep_ms=10", "LC_ALL=C.UTF-8")
			x := openShell(t, cmd)
			x.types(shell.begin + "\r")
			x.shows("^begun-2$")
			for _, line := range lines {
				x.types("baton " + line.typed + "\t")
				x.types("\x01echo _\x05_\r") // before and behind what is there by then
				x.shows(`^_baton ` + regexp.QuoteMeta(line.got) + ` ?_$`)
			}
		})
	}
}

func TestTheManualIsOne(t *testing.T) {
	app := (&program{}).app()
	path := filepath.Join(t.TempDir(), "baton.1")
	if err := os.WriteFile(path, []byte(manual(app)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"man", []string{"--warnings", "-l", path}},
		{"mandoc", []string{"-T", "ascii", "-W", "error", path}},
	} {
		t.Run(c.name, func(t *testing.T) {
			program, err := exec.LookPath(c.name)
			if err != nil {
				testkit.Lack(t, "needs %s: %v", c.name, err)
			}
			cmd := exec.Command(program, c.args...)
			cmd.Env = append(os.Environ(), "MANWIDTH=80", "MANPAGER=cat", "LC_ALL=C.UTF-8", "TERM=dumb")
			var errs strings.Builder
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil || errs.Len() > 0 {
				t.Fatalf("%v: %s", err, errs.String())
			}
			text := regexp.MustCompile(".\x08").ReplaceAllString(string(out), "")
			for _, command := range app.Commands {
				if command.Hidden {
					continue
				}
				if !regexp.MustCompile(`(?m)^ +baton ` + command.Name + `\b`).MatchString(text) {
					t.Errorf("%s is not in it", command.Name)
				}
				for _, f := range command.Flags {
					if name := "--" + f.Names()[0]; !strings.Contains(text, name) {
						t.Errorf("%s %s is not in it", command.Name, name)
					}
				}
			}
			if !strings.Contains(text, "[profile.PROFILE]") || !strings.Contains(text, "rolled back: the newcomer failed") {
				t.Error("something is missing")
			}
		})
	}
}

// What begins a line as a request would, and what is an escape, is text.
func TestTextIsTextInTheManual(t *testing.T) {
	for text, want := range map[string]string{
		".baton\n'x":    "\\&.baton\n\\&'x",
		`a\b -- --flag`: `a\eb \-\- \-\-flag`,
	} {
		if got := escape(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"baton/internal/apps"

	"github.com/urfave/cli/v2"
)

func (p *program) startCommand() *cli.Command {
	return command(verb{
		name: "start", line: "[flags] [NAME... | all | -- CMD ARG...]",
		does: "run an application in the background",
		text: `
Does what run does, in the background: it returns when the application serves, or
says why it does not, with its last lines. It is remembered: baton start NAME
starts it again as it was, with the same words, directory and environment, and
so do restart, and after a boot what save and startup have noted.

Flags go before the NAME or the --, and mean what they mean for run. Without a
name and a command it is ./baton.toml. The launcher has a session of its own and
outlives the terminal. What it says itself is in its log; baton show tells where.

  baton start --listen :8080 -- ./server --verbose
  baton start --config web.toml --env production
  baton start web api

1: it does not serve. 4: no such NAME. 6: it runs already. Of several names the
greatest code counts. Ending the command does not end the start.`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, append(runFlags(), outcomesFlag()), p.start)
}

func (p *program) start(c *cli.Context) error {
	words, exec, dashes := p.afterDashes(c)
	if len(words) == 0 {
		return p.startNew(c)
	}
	for _, flag := range runFlags() {
		if name := flag.Names()[0]; c.IsSet(name) {
			return usage("baton start "+words[0]+" starts it as it was; to change that leave the name out, or edit its file",
				"--%s does not go with a name", name)
		}
	}
	if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") }); i >= 0 {
		return usage("flags go before the names", "unexpected %q", words[i])
	}
	if dashes || exec != nil {
		return usage("--name gives one: baton start --name "+words[0]+" -- CMD", "a command does not go with a name")
	}
	if slices.Contains(words, "") {
		return usage("", "the name is empty")
	}
	return p.startKnown(c, words)
}

// startNew starts what flags, a file or a command say, and remembers it.
func (p *program) startNew(c *cli.Context) error {
	src, err := p.source(c)
	if err != nil {
		return err
	}
	cfg, err := src.load() // what is wrong with it is said here, and not in a log
	if err != nil {
		return err
	}
	if cfg.Name == all {
		return usage("--name gives it another", "%q is no name for an application that is started in the background: it stands for every one", all)
	}
	r, err := registry()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	a := apps.App{Name: cfg.Name, Directory: dir, Env: environment()}
	if a.Args, err = words(c, src); err != nil {
		return err
	}
	before, err := r.Get(a.Name)
	if err == nil {
		a.Saved, a.Unit = before.Saved, before.Unit
	} else {
		before = apps.App{} // one that cannot be read gives way
	}
	return p.told(c, []outcome{p.begin(c.Context, r, a, before)})
}

// startKnown starts what was started before.
func (p *program) startKnown(c *cli.Context, names []string) error {
	r, err := registry()
	if err != nil {
		return err
	}
	every := slices.Equal(names, []string{all})
	if every {
		if names, err = registered(); err != nil {
			return err
		}
	}
	var came []outcome
	for _, name := range names {
		a, err := known(r, name)
		if err != nil {
			if hint := looksLike(name); hint != "" && errorsCode(err) == NotRunning {
				err = &exit{code: NotRunning, err: err, hint: hint}
			}
			came = append(came, failure(name, err))
			continue
		}
		o := p.begin(c.Context, r, a, a)
		if every && o.Outcome == outcomeRuns {
			o.code, o.text = Done, ""
		}
		came = append(came, o)
	}
	return p.told(c, came)
}

// looksLike is a hint for who has named a file.
func looksLike(word string) string {
	if info, err := os.Stat(word); err != nil || info.IsDir() {
		return ""
	}
	if strings.HasSuffix(word, ".toml") {
		return "is it a configuration? baton start --config " + word
	}
	return "is it the program? baton start -- " + word
}

func errorsCode(err error) Code {
	code, _, _ := explain(err)
	return code
}

// words are those of run that say again what the flags of start have said.
func words(c *cli.Context, src source) ([]string, error) {
	var all []string
	if src.path != "" {
		path, err := filepath.Abs(src.path)
		if err != nil {
			return nil, err
		}
		all = append(all, "--config", path)
	}
	for _, name := range []string{"env", "listen", "watch"} {
		if !c.IsSet(name) {
			continue
		}
		values := []string{c.String(name)}
		if name != "env" {
			values = c.StringSlice(name)
		}
		for _, v := range values {
			all = append(all, "--"+name+"="+v)
		}
	}
	for _, f := range settingFlags {
		if c.IsSet(f.flag) && f.flag != "name" {
			all = append(all, "--"+f.flag+"="+c.String(f.flag))
		}
	}
	if len(src.exec) > 0 {
		all = append(append(all, "--"), src.exec...)
	}
	return all, nil
}

// outcome is what came of a start; its JSON is a promise to scripts.
type outcome struct {
	Name    string   `json:"name"`
	Outcome string   `json:"outcome"` // one of those below
	PID     int      `json:"pid,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Tail    []string `json:"tail,omitempty"` // its last lines
	Log     string   `json:"log,omitempty"`  // what the launcher says itself

	code Code
	text string // for people, when it does not serve
	hint string
}

const (
	outcomeServing  = "serving"
	outcomeStarting = "starting" // it takes longer than it may, and goes on
	outcomeRuns     = "running"  // it did already
	outcomeFailed   = "failed"
)

func failure(name string, err error) outcome {
	code, text, hint := explain(err)
	return outcome{Name: name, Outcome: outcomeFailed, Reason: strings.TrimPrefix(text, "baton: "), code: code, text: text, hint: hint}
}

// told prints what came of starts, and gives the exit code.
func (p *program) told(c *cli.Context, came []outcome) error {
	worst := Done
	for _, o := range came {
		worst = max(worst, o.code)
		if c.Bool("json") {
			continue
		}
		if err := p.printOutcome(o); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		var v any = came
		if len(came) == 1 {
			v = came[0]
		}
		if err := p.printJSON(v); err != nil {
			return err
		}
	}
	if worst == Done {
		return nil
	}
	return shown(worst)
}

func (p *program) printOutcome(o outcome) error {
	switch {
	case o.Outcome == outcomeServing:
		_, err := fmt.Fprintf(p.stdout, "%s: serving, with pid %d\n", o.Name, o.PID)
		return err
	case o.Outcome == outcomeRuns && o.code == Done:
		_, err := fmt.Fprintf(p.stdout, "%s: runs already, with pid %d\n", o.Name, o.PID)
		return err
	}
	for line := range strings.Lines(o.text) {
		fmt.Fprintln(p.stderr, printable(strings.TrimSuffix(line, "\n")))
	}
	for _, line := range o.Tail {
		fmt.Fprintln(p.stderr, "  | "+printable(line))
	}
	if o.hint != "" {
		fmt.Fprintln(p.stderr, "  "+o.hint)
	}
	return nil
}

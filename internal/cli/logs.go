package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/logs"

	"github.com/urfave/cli/v2"
)

func (p *program) logsCommand() *cli.Command {
	return asked(verb{
		name: "logs", line: "[NAME...|all] [flags]",
		does: "show what workers wrote, and what baton says about them",
		text: `
The last lines of the output that was captured, of several applications in the
order of time, with --follow also those to come. It reads the files: the
application need not run.

  baton logs web --follow
  baton logs all --since 10m --err
  baton logs web --grep 'status=5..' --lines all --json

Without a NAME it is the application of ./baton.toml, or every one that has a
log. A line is "15:04:05.000 web/3.0 out | text": the application, generation 3,
worker 0, standard output or error; "+" instead of "|" goes on with a line, and
"baton" are words of its own. Lines that were dropped are counted there.

Output is captured by baton start, and by baton run with [logs] output =
"capture"; otherwise it passes through.`,
		ends: []Code{NotRunning, Invalid},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with the lines to come"},
		&cli.StringFlag{Name: "since", Usage: "only what came since `TIME`: 10m, 2h30m, 15:04, \"2006-01-02 15:04:05\", or as in RFC 3339"},
		&cli.StringFlag{Name: "lines", Aliases: []string{"n"}, Usage: "the last `N` lines, or all; 15, and with --since all"},
		&cli.StringFlag{Name: "grep", Usage: "only lines that match `RE`, a regular expression of Go's"},
		&cli.BoolFlag{Name: "err", Usage: "only standard error, and baton's warnings"},
		&cli.IntFlag{Name: "worker", Value: -1, Usage: "only the worker with the index `N`, from 0"},
		&cli.IntFlag{Name: "generation", Usage: "only generation `N`"},
		&cli.BoolFlag{Name: "json", Usage: "print records as JSON, a line each"},
	}, p.logs)
}

func (p *program) logs(c *cli.Context) error {
	q, err := query(c, time.Now())
	if err != nil {
		return err
	}
	dir, err := control.Logs()
	if err != nil {
		return err
	}
	if q.Sources, err = logged(c, dir); err != nil {
		return err
	}
	if all, err := q.Sources(); err != nil {
		return err
	} else if len(all) == 0 && !q.Follow {
		_, err := fmt.Fprintln(p.stderr, "no application has a log; they are looked for in "+dir)
		return err
	}
	out := bufio.NewWriterSize(p.stdout, 64<<10)
	page := &page{out: out, json: c.Bool("json"), day: time.Now().Format(time.DateOnly), going: map[speaker]bool{}}
	page.terminal = isTerminal(p.stdout)
	page.colour = page.terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if err := logs.Read(c.Context, q, page.show, out.Flush); err != nil {
		return err
	}
	return out.Flush()
}

// query turns the flags into one.
func query(c *cli.Context, now time.Time) (logs.Query, error) {
	q := logs.Query{
		Lines: 15, Follow: c.Bool("follow"), Err: c.Bool("err"), Worker: c.Int("worker"), Generation: c.Int("generation"),
	}
	switch {
	case c.IsSet("worker") && q.Worker < 0:
		return q, usage("", "--worker is an index from 0, not %d", q.Worker)
	case c.IsSet("generation") && q.Generation < 1:
		return q, usage("", "--generation is a number from 1, not %d", q.Generation)
	}
	if given := c.String("since"); c.IsSet("since") {
		var err error
		if q.Since, err = since(given, now); err != nil {
			return q, err
		}
		q.Lines = -1
	}
	if given := c.String("lines"); given == "all" {
		q.Lines = -1
	} else if c.IsSet("lines") {
		n, err := strconv.Atoi(given)
		if err != nil || n < 0 {
			return q, usage("", "--lines is a number, or all, and not %q", given)
		}
		q.Lines = n
	}
	if given := c.String("grep"); given != "" {
		re, err := regexp.Compile(given)
		if err != nil {
			return q, usage("https://pkg.go.dev/regexp/syntax has what there is", "--grep: %v", err)
		}
		q.Grep = re
	}
	return q, nil
}

// since is a time of day that was last, a day, an instant, or how long ago it was.
func since(given string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(given); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(form, given, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, form := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.ParseInLocation(form, given, now.Location()); err == nil {
			t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), now.Location())
			if t.After(now) {
				t = t.AddDate(0, 0, -1)
			}
			return t, nil
		}
	}
	return time.Time{}, usage(`write it as in 10m, 15:04 or "2006-01-02 15:04:05"`, "--since: %q is no time", given)
}

// everyLog stands for every application that has a log.
const everyLog = "all"

// logged is the logs that are named, or all of them; those may become more.
func logged(c *cli.Context, dir string) (func() ([]logs.Source, error), error) {
	names := c.Args().Slice()
	if len(names) == 0 {
		name, err := configured()
		if err != nil {
			return nil, err
		}
		if names = []string{everyLog}; name != "" {
			names = []string{name}
		}
	}
	if slices.Contains(names, everyLog) {
		if len(names) > 1 {
			return nil, usage("", "all is every application: name none besides")
		}
		return func() ([]logs.Source, error) { return logs.Sources(dir) }, nil
	}
	var sources []logs.Source
	for _, name := range names {
		if !control.Fits(name) {
			return nil, usage("", "%q is no name of an application", name)
		}
		s := logs.Source{App: name, Directory: logs.Directory(dir, name)}
		if _, err := os.Stat(s.Directory); !s.Exists() && !(err == nil && c.Bool("follow")) {
			return nil, noLog(name, dir)
		}
		if !slices.Contains(sources, s) {
			sources = append(sources, s)
		}
	}
	return func() ([]logs.Source, error) { return sources, nil }, nil
}

// configured is the name in ./baton.toml; "" where there is no such file.
func configured() (string, error) {
	if _, err := os.Stat(defaultFile); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	cfg, err := config.Load(defaultFile, config.Options{Address: parsable})
	if err != nil {
		return "", err
	}
	return cfg.Name, nil
}

// noLog says why an application has no log: one that runs is another matter.
func noLog(name, dir string) error {
	home, err := control.Home()
	if err != nil {
		return err
	}
	running, err := control.List(home)
	if err != nil {
		return err
	}
	if slices.Contains(running, name) {
		return &exit{code: Failed, err: fmt.Errorf("%s has no log: what its workers write passes through baton", name),
			hint: `the journal may have it; to capture it, set output = "capture" under [logs]`}
	}
	return &exit{code: NotRunning, err: fmt.Errorf("%s has no log and is not running", name), hint: "logs are looked for in " + dir}
}

func (p *program) flushCommand() *cli.Command {
	return asked(verb{
		name: "flush", line: "[NAME...|all]",
		does: "empty what was captured of workers' output",
		text: `
Removes the lines that came so far, the compressed files too. The application
goes on; baton logs --follow goes on with what comes.

Without a NAME it is the application of ./baton.toml, or the only one that has a
log.`,
		ends: []Code{NotRunning, Invalid, Busy},
	}, nil, p.flush)
}

func (p *program) flush(c *cli.Context) error {
	dir, err := control.Logs()
	if err != nil {
		return err
	}
	home, err := control.Home()
	if err != nil {
		return err
	}
	find, err := logged(c, dir)
	if err != nil {
		return err
	}
	sources, err := find()
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		return &exit{code: NotRunning, err: errors.New("no application has a log"), hint: "they are looked for in " + dir}
	}
	if c.NArg() == 0 && len(sources) > 1 {
		var names []string
		for _, s := range sources {
			names = append(names, s.App)
		}
		return usage("name them, or all: baton flush NAME", "several applications have a log: %s", strings.Join(names, ", "))
	}
	ctx, cancel := quickly(c)
	defer cancel()
	for _, s := range sources {
		ferr := flushOne(ctx, home, s)
		if ferr == nil {
			_, ferr = fmt.Fprintf(p.stdout, "%s: emptied\n", s.App)
		}
		err = errors.Join(err, ferr)
	}
	return err
}

// flushOne has the launcher do it, or does it where none writes to the log.
func flushOne(ctx context.Context, home string, s logs.Source) error {
	err := control.In(home, s.App).Flush(ctx)
	var answered *control.Error
	if errors.Is(err, control.ErrNotRunning) || errors.As(err, &answered) && answered.Nothing() {
		return logs.Empty(s.Directory)
	}
	return refused(err)
}

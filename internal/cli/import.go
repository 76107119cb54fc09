package cli

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"baton/internal/config"
	"baton/internal/pm2"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

func (p *program) importCommand() *cli.Command {
	return asked(verb{
		name: "import", line: "pm2 [FILE] [flags]",
		does: "make configurations of a file of PM2's",
		text: `
Writes a file NAME.toml for each application of an ecosystem file, and says what
it could not carry over, with the way out. env_production and its like become
profiles: baton run --config NAME.toml --env production.

FILE is ecosystem.config.js, .cjs, .mjs or .json, or one of these in this folder.
JavaScript is read by node, which has to be there; nothing is started.

  baton import pm2 && baton check --config web.toml`,
		ends: []Code{Invalid},
	}, []cli.Flag{
		&cli.StringFlag{Name: "out", Usage: "write into the folder `DIR`; without it, beside FILE"},
		&cli.BoolFlag{Name: "force", Usage: "overwrite files that are there"},
	}, p.importPM2)
}

func (p *program) importPM2(c *cli.Context) error {
	switch {
	case c.Args().First() == "":
		return usage("baton import pm2 FILE", "what is to be imported?")
	case c.Args().First() != "pm2":
		return usage("baton import pm2 FILE", "%q is nothing that can be imported; pm2 is", c.Args().First())
	case c.NArg() > 2:
		return usage("name one file", "unexpected %q", c.Args().Get(2))
	}
	file, err := ecosystem(c.Args().Get(1), c.NArg() > 1)
	if err != nil {
		return err
	}
	from, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	out := filepath.Dir(from)
	if c.IsSet("out") {
		if out, err = filepath.Abs(c.String("out")); err != nil || c.String("out") == "" {
			return errors.Join(err, usage("", "--out: the path is empty"))
		}
	}
	text, err := ecosystemJSON(c.Context, file, from)
	if err != nil {
		return err
	}
	apps, notes, err := pm2.Convert(text, pm2.Source{File: from, Out: out})
	if err != nil {
		return wrongFile(file, err.Error())
	}
	return p.writeImported(apps, notes, out, c.Bool("force"))
}

// ecosystems are the names that PM2 looks for, and those that were in use before.
var ecosystems = []string{"ecosystem.config.js", "ecosystem.config.cjs", "ecosystem.config.mjs", "ecosystem.config.json",
	"ecosystem.json", "pm2.config.js", "pm2.json", "process.json"}

// ecosystem is the file given, or the one that is here.
func ecosystem(given string, isGiven bool) (string, error) {
	if isGiven && given == "" {
		return "", usage("", "the path of the file is empty")
	}
	if isGiven {
		if suffix := filepath.Ext(given); suffix == ".yaml" || suffix == ".yml" {
			return "", usage("make JSON of it: npx js-yaml "+given+" > ecosystem.json", "YAML is not read")
		}
		return given, nil
	}
	for _, name := range ecosystems {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", usage("baton import pm2 FILE", "there is no %s here", ecosystems[0])
}

// wrongFile is an error of what stands in a file.
func wrongFile(file, problem string) error { return config.Errors{{File: file, Problem: problem}} }

// ecosystemJSON is what an ecosystem file holds. One that is JSON is read as such; for
// PM2 a .json is JavaScript too, which may have comments.
func ecosystemJSON(ctx context.Context, file, absolute string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) { // the path stands before the message already
			err = fmt.Errorf("open: %w", at.Err)
		}
		return nil, wrongFile(file, err.Error())
	}
	if filepath.Ext(file) == ".json" && json.Valid(text) {
		return text, nil
	}
	return evaluate(ctx, file, absolute)
}

// reader has node load a file and write what it exports into another.
//
//go:embed import.js
var reader string

// nodeTime is what a file may take that only says what there is.
const nodeTime = 30 * time.Second

func evaluate(ctx context.Context, file, absolute string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "baton-import-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it holds one small file
	into := filepath.Join(dir, "json")
	r, err := process.Resolve(process.Command{
		Exec: []string{"node", "--no-warnings", "-e", reader, "--", absolute, into},
		Dir:  filepath.Dir(absolute), Base: os.Environ(),
	})
	if err != nil {
		return nil, &exit{code: Failed, err: err, hint: "JavaScript is read by node: install it, or give the file as JSON"}
	}
	defer r.Close() //nolint:errcheck // only read from
	ctx, cancel := context.WithTimeoutCause(ctx, nodeTime, fmt.Errorf("not done within %v", nodeTime))
	defer cancel()
	_, failed := process.Run(ctx, process.Job{Release: r, Env: r.Env()})
	text, err := os.ReadFile(into)
	if failed == nil {
		failed = err
	}
	if failed != nil {
		return nil, wrongFile(file, strings.TrimPrefix(failed.Error(), "exit status 1: "))
	}
	return text, nil
}

// writeImported writes all files or, where one is there already, none.
func (p *program) writeImported(apps []pm2.App, notes []pm2.Note, out string, force bool) error {
	for _, app := range apps {
		path := filepath.Join(out, app.Name+".toml")
		if _, err := os.Lstat(path); err == nil && !force {
			return &exit{code: Failed, err: fmt.Errorf("%s is there already", path), hint: "--force overwrites it"}
		}
		o := config.Options{Address: parsable}
		if app.Unlistened {
			o.Set = []config.Setting{{Key: "listen", Value: []map[string]any{{"address": ":3000"}}, From: "import"}}
		}
		if _, err := config.Parse(app.TOML, path, o); err != nil {
			return &exit{code: Failed, err: fmt.Errorf("what came of %s makes no valid file:\n%w", app.Name, plainly{err})}
		}
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, app := range apps {
		path := filepath.Join(out, app.Name+".toml")
		if err := write(path, app.TOML, force); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(p.stdout, "wrote %s\n", path); err != nil {
			return err
		}
		p.sayNotes(app.Name, app.Notes)
	}
	p.sayNotes("besides", notes)
	if slices.ContainsFunc(apps, func(a pm2.App) bool { return a.Unlistened }) {
		fmt.Fprintln(p.stderr, "  without a listener a file is not valid yet: baton check says so")
	}
	return nil
}

func (p *program) sayNotes(head string, notes []pm2.Note) {
	if len(notes) == 0 {
		return
	}
	fmt.Fprintf(p.stderr, "%s: not carried over, or different:\n", head)
	for _, n := range notes {
		fmt.Fprintln(p.stderr, wrap(printable(n.String()), "  - ", "    "))
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// crew is how many applications are listed.
const crew = 20

// listing measures how long a command takes that lists twenty applications: each of the
// two has its own twenty, of the same server, all running at the same time.
func listing(ctx context.Context, b *bench) (err error) {
	tools, lacking, err := b.installExpress(ctx)
	if err != nil {
		return err
	}
	ours := &batonCrew{b: b, home: filepath.Join(b.dir, "status-home")}
	defer func() { err = errors.Join(err, ours.stop(context.WithoutCancel(ctx))) }()
	if err := ours.start(ctx); err != nil {
		return err
	}
	if lacking != "" {
		b.report.note("status: %s, so there is nothing to compare with", lacking)
		return b.listAlone(ctx, ours)
	}
	b.report.note("status: node %s, pm2 %s; %d applications in both", tools.node, tools.pm2, crew)
	theirs, err := b.pm2Crew(tools)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.stop(context.WithoutCancel(ctx))) }()
	if err := theirs.start(ctx); err != nil {
		return err
	}
	return b.listPairs(ctx, theirs, ours)
}

// lists is a side that can list its applications.
type lists interface {
	// list is how long that took. That fewer than all of them were up is an error.
	list(ctx context.Context) (time.Duration, error)
}

// listPairs files both times and their ratio. The first pair is not counted: it brings
// the files of both into the page cache.
func (b *bench) listPairs(ctx context.Context, theirs, ours lists) error {
	once := func(of lists) func() (float64, error) {
		return func() (float64, error) {
			took, err := of.list(ctx)
			return milliseconds(took), err
		}
	}
	var x, y []float64
	for i := range b.listings() + 1 {
		t, o, err := inTurn(i, once(theirs), once(ours))
		if err != nil {
			return err
		}
		if i == 0 {
			continue
		}
		x, y = append(x, t), append(y, o)
	}
	b.report.add("status", "pm2 ls", "ms", x, "")
	b.report.add("status", "baton status", "ms", y, "")
	b.report.add("status", "baton status / pm2 ls", "ratio", ratios(x, y), "<= 0.1")
	return nil
}

func (b *bench) listAlone(ctx context.Context, ours lists) error {
	var all []float64
	for range b.listings() {
		took, err := ours.list(ctx)
		if err != nil {
			return err
		}
		all = append(all, milliseconds(took))
	}
	b.report.add("status", "baton status", "ms", all, "")
	return nil
}

// listings is the number of pairs: they are short.
func (b *bench) listings() int { return max(1, b.times/3) }

// timed runs a command and says how long it took, from the start of its process to its end.
func timed(ctx context.Context, env []string, name string, args ...string) ([]byte, time.Duration, error) {
	cmd := command(ctx, name, args...)
	cmd.Env = env
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), args[0], err, problems.Bytes())
	}
	return out.Bytes(), took, err
}

// allUp counts the applications in what a side printed.
func allUp(out []byte, word string) error {
	if n := bytes.Count(out, []byte(word)); n != crew {
		return fmt.Errorf("%d of %d applications are %s:\n%s", n, crew, word, out)
	}
	return nil
}

// batonCrew is twenty applications that baton start has started.
type batonCrew struct {
	b    *bench
	home string
}

func (s *batonCrew) env() []string { return append(os.Environ(), "BATON_HOME="+s.home) }

func (s *batonCrew) start(ctx context.Context) error {
	for i := range crew {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		// Not to be cut short: what it started has to be known for stop to end it.
		_, _, err = timed(context.WithoutCancel(ctx), s.env(), s.b.baton,
			"start", "--name", "app-"+strconv.Itoa(i), "--listen", address, "--", s.b.server)
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (s *batonCrew) list(ctx context.Context) (time.Duration, error) {
	out, took, err := timed(ctx, s.env(), s.b.baton, "status")
	return took, errors.Join(err, allUp(out, "serving"))
}

func (s *batonCrew) stop(ctx context.Context) error {
	_, _, err := timed(ctx, s.env(), s.b.baton, "delete", "all")
	return err
}

// pm2Crew is the same twenty under a daemon of PM2's.
type pm2Crew struct {
	pm2Side
	file string
}

func (b *bench) pm2Crew(x *express) (*pm2Crew, error) {
	home, err := os.MkdirTemp(b.dir, "pm2-home-")
	if err != nil {
		return nil, err
	}
	type app struct {
		Name        string   `json:"name"`
		Script      string   `json:"script"`
		Interpreter string   `json:"interpreter"`
		Args        []string `json:"args"`
	}
	var file struct {
		Apps []app `json:"apps"`
	}
	for i := range crew {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		file.Apps = append(file.Apps, app{"app-" + strconv.Itoa(i), b.server, "none", []string{"-listen", address}})
	}
	text, err := json.Marshal(file)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(home, "crew.json")
	env := append(os.Environ(), "PM2_HOME="+home, "PM2_DISABLE_VERSION_CHECK=true") // it would ask a server
	return &pm2Crew{pm2Side{dir: x.dir, home: home, env: env}, name}, os.WriteFile(name, text, 0o644)
}

func (p *pm2Crew) start(ctx context.Context) error { return p.run(ctx, "start", p.file) }

func (p *pm2Crew) list(ctx context.Context) (time.Duration, error) {
	out, took, err := timed(ctx, p.env, filepath.Join(p.dir, "node_modules", ".bin", "pm2"), "ls")
	return took, errors.Join(err, allUp(out, "online"))
}

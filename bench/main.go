// Command bench measures what baton costs and what it takes: requests per second
// against the same server bare, latency while it swaps against latency while it
// does not, the times of a swap, and the memory of an idle launcher; and the same
// for a peer where one is installed. Each comparison is made in interleaved
// pairs within one run, so that a slow minute of the machine meets both sides.
// It prints a table and, with --json, writes every sample. It measures real
// processes on loopback and never computes a figure that it did not measure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are the amounts; quick ones show that the harness works, no more.
type settings struct {
	pairs   int           // of each comparison
	seconds time.Duration // of each half of a pair
	times   int           // swaps and deaths that are timed
	pause   time.Duration // between two requests of one client, where load is paced
	clients int
}

// bench is one run: the programs it built and where its files lie.
type bench struct {
	settings
	baton, server string // executables
	dir           string // scratch, removed at the end
	report        report
	running       []*launched // by the part under way
}

// part is one group of measurements.
type part struct {
	name string
	run  func(context.Context, *bench) error
}

var parts = []part{
	{"throughput", throughput},
	{"latency", latency},
	{"times", times},
	{"memory", memory},
	{"slots", slots},
	{"peers", peers},
	{"pm2", pm2},
	{"logs", logs},
	{"status", listing},
}

func main() {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	only := flag.String("only", strings.Join(names, ","), "which parts to run")
	file := flag.String("json", "", "write the table and every sample to this file")
	quick := flag.Bool("quick", false, "a few seconds, to see that it works; the figures mean nothing")
	pairs := flag.Int("pairs", 7, "interleaved pairs of each comparison")
	seconds := flag.Duration("for", 8*time.Second, "length of each half of a pair")
	samples := flag.Int("samples", 60, "swaps and deaths that are timed")
	flag.Parse()

	b := &bench{settings: settings{pairs: *pairs, seconds: *seconds, times: *samples, pause: 5 * time.Millisecond, clients: 16}}
	if *quick {
		b.settings.pairs, b.settings.seconds, b.settings.times = 1, 3*time.Second, 3
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, b, strings.Split(*only, ","), *file)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, b *bench, only []string, file string) (err error) {
	for _, name := range only {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("no part is called %q", name)
		}
	}
	if b.dir, err = os.MkdirTemp("", "baton-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.report = newReport(os.Args[1:])
	if err := b.build(ctx); err != nil {
		return err
	}
	fmt.Println(b.report.machine())
	for _, p := range parts {
		if !slices.Contains(only, p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s ...\n", p.name)
		if err := errors.Join(p.run(ctx, b), b.stopAll()); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	b.report.print(os.Stdout)
	if file != "" {
		return b.report.write(file)
	}
	return nil
}

// build compiles baton and the server, as a user would.
func (b *bench) build(ctx context.Context) error {
	for name, pkg := range map[string]string{"baton": "baton", "server": "baton/bench/server"} {
		cmd := command(ctx, "go", "build", "-o", filepath.Join(b.dir, name), pkg)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	b.baton, b.server = filepath.Join(b.dir, "baton"), filepath.Join(b.dir, "server")
	return nil
}

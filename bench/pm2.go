package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"baton/internal/load"
)

// pm2 runs one Express program under PM2 and under baton: what a reload loses, the
// latency while it lasts, how long that is, and what both hold in memory. Only one
// of the two runs at a time, since pages that both map would count as half in each.
func pm2(ctx context.Context, b *bench) error {
	tools, lacking, err := b.installExpress(ctx)
	if err != nil {
		return err
	}
	if lacking != "" {
		b.report.note("pm2: %s, so there is nothing to compare with", lacking)
		return nil
	}
	b.report.note("pm2: node %s, pm2 %s, express %s; PM2's settings are in bench/express/ecosystem.config.js",
		tools.node, tools.pm2, tools.express)
	for _, r := range rivalries {
		if err := b.rivalPairs(ctx, tools, r); err != nil {
			return err
		}
	}
	return nil
}

// rivalry is one program, and with how many instances PM2 runs it.
type rivalry struct {
	name      string
	script    string
	instances int
}

// Without a handler for SIGINT a reload by PM2 7 ends the program in the middle of
// its requests, shutdown_with_message or not: that is for stop. So the program is
// measured as it is, and with the handler that PM2's documentation asks for.
var rivalries = []rivalry{
	{"'shutdown' handler", "server.js", 1},
	{"with SIGINT handler", "server-sigint.js", 1},
	{"with SIGINT handler, PM2 x 2", "server-sigint.js", 2},
}

// side is a launcher that serves the program at an address.
type side interface {
	// start returns when the program serves.
	start(ctx context.Context) error
	// reload returns when the newcomer serves and the old generation is gone.
	reload(ctx context.Context) error
	// command is what the caller's part of a reload costs by itself.
	command(ctx context.Context) error
	// processes are the launcher and everything that it has started, itself first.
	processes() ([]process, error)
	// stop ends all of it, and tells of processes that are left.
	stop(ctx context.Context) error
}

// crowd is one kind of client of the load; each pauses between two requests.
type crowd struct {
	kind    load.Kind
	clients int
	pause   time.Duration
}

var crowds = []crowd{
	{load.Fresh, 8, 10 * time.Millisecond},
	{load.Slow, 8, 0}, // 300 ms each, so that some are in flight at any time
	{load.KeepAlive, 8, 10 * time.Millisecond},
}

// What counts as during a reload lasts at least for span from its request, on both
// sides: a new worker is slow at first, and a reload that is over sooner has no
// fewer of these requests. Between two of them, and at both ends, lies calm.
const (
	span = 2 * time.Second
	calm = time.Second
)

// outcome is what one half of a pair found.
type outcome struct {
	by      map[load.Kind]load.Result
	reloads []float64 // ms, from the request to the end of the old generation
	command float64   // ms of these that the command needs by itself
	idle    footprint // before any request
	after   footprint // when the load has ended
}

// lost is how many requests a client that never retries did not get an answer to:
// on a kept-alive connection also those that met its end.
func (o outcome) lost(k load.Kind) float64 {
	r := o.by[k]
	return float64(r.Lost + r.IdleRaced)
}

// rivalPairs files both sides' figures, pair by pair.
func (b *bench) rivalPairs(ctx context.Context, tools *express, r rivalry) error {
	var theirs, ours []outcome
	reloads := max(2, int(b.seconds/(2*time.Second)))
	half := func(into *[]outcome, prepare func() (side, string, error)) func() (float64, error) {
		return func() (float64, error) {
			s, address, err := prepare()
			if err != nil {
				return 0, err
			}
			o, err := endure(ctx, s, address, reloads)
			*into = append(*into, o)
			return 0, err
		}
	}
	for i := range b.pairs {
		_, _, err := inTurn(i,
			half(&theirs, func() (side, string, error) { return b.pm2Side(tools, r) }),
			half(&ours, func() (side, string, error) { return b.batonSide(tools, r) }))
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		b.report.note("pm2, %s, pair %d: PM2 %s; baton %s", r.name, i+1, theirs[i].line(), ours[i].line())
	}
	for _, o := range slices.Concat(theirs, ours) {
		if n := max(o.idle.strangers, o.after.strangers); n > 0 {
			b.report.note("pm2, %s: %d other processes ran node or baton while memory was measured: PSS is too small there", r.name, n)
		}
	}
	b.rivalRows(r.name+": PM2", theirs)
	b.rivalRows(r.name+": baton", ours)
	b.ratioRows(r.name, theirs, ours)
	return nil
}

// endure starts a side, loads it, reloads it so often, and stops it.
func endure(ctx context.Context, s side, address string, reloads int) (o outcome, err error) {
	defer func() {
		// Also after an interrupt nothing may be left running.
		err = errors.Join(err, s.stop(context.WithoutCancel(ctx)))
	}()
	if err := s.start(ctx); err != nil {
		return o, err
	}
	if err := rest(ctx, 2*calm); err != nil {
		return o, err
	}
	if o.idle, err = measure(s); err != nil {
		return o, err
	}
	began := time.Now()
	if err := s.command(ctx); err != nil {
		return o, err
	}
	o.command = milliseconds(time.Since(began))
	if err := o.underLoad(ctx, s, address, reloads); err != nil {
		return o, err
	}
	if err := rest(ctx, 2*calm); err != nil {
		return o, err
	}
	o.after, err = measure(s)
	return o, err
}

// underLoad reloads while all crowds send, and counts what lies in a reload apart.
func (o *outcome) underLoad(ctx context.Context, s side, address string, reloads int) error {
	var runners []*load.Runner
	defer func() { // for a return with an error: they end with the context otherwise
		for _, r := range runners {
			r.Stop()
		}
	}()
	for _, c := range crowds {
		r, err := load.Start(ctx, load.Options{
			Targets: []load.Target{{Network: "tcp", Address: address}},
			Kind:    c.kind, Clients: c.clients, Pause: c.pause, Expect: []byte("hello, world\n"),
			Window:  patience,        // Settle ends it
			Timeout: 5 * time.Second, // a client waits so long for a connection that nobody serves
		})
		if err != nil {
			return err
		}
		runners = append(runners, r)
	}
	for range reloads {
		if err := rest(ctx, calm); err != nil {
			return err
		}
		each(runners, (*load.Runner).Mark)
		began := time.Now()
		if err := s.reload(ctx); err != nil {
			return err
		}
		took := time.Since(began)
		o.reloads = append(o.reloads, milliseconds(took))
		if err := rest(ctx, span-took); err != nil {
			return err
		}
		each(runners, (*load.Runner).Settle)
	}
	if err := rest(ctx, calm); err != nil {
		return err
	}
	o.by = map[load.Kind]load.Result{}
	for i, r := range runners {
		o.by[crowds[i].kind] = r.Stop()
	}
	return nil
}

func each(runners []*load.Runner, do func(*load.Runner)) {
	for _, r := range runners {
		do(r)
	}
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// line is one half in short.
func (o outcome) line() string {
	text := fmt.Sprintf("%d reloads of %.0f ms,", len(o.reloads), quantile(o.reloads, 0.5))
	for _, c := range crowds {
		r := o.by[c.kind]
		text += fmt.Sprintf(" %s lost %.0f of %d (p99 %.0f ms, worst %.0f ms",
			c.kind, o.lost(c.kind), r.Requests+r.IdleRaced, milliseconds(r.During.Quantile(0.99)), milliseconds(r.During.Max()))
		for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
			text += fmt.Sprintf(", %d %s", r.Reasons[reason], reason)
		}
		text += "),"
	}
	return text + fmt.Sprintf(" idle %.0f MB", o.idle.all().pss)
}

// rivalRows files the figures of one side; a sample is one half of a pair.
func (b *bench) rivalRows(name string, all []outcome) {
	add := func(what, unit string, of func(outcome) float64) {
		b.report.add("pm2", name+": "+what, unit, samplesOf(all, of), "")
	}
	for _, c := range crowds {
		add(c.kind.String()+": requests", "", func(o outcome) float64 {
			return float64(o.by[c.kind].Requests + o.by[c.kind].IdleRaced)
		})
		add(c.kind.String()+": lost", "lost", func(o outcome) float64 { return o.lost(c.kind) })
		add(c.kind.String()+": p99 steady", "ms", func(o outcome) float64 {
			return milliseconds(o.by[c.kind].Steady.Quantile(0.99))
		})
		add(c.kind.String()+": p99 during reloads", "ms", func(o outcome) float64 { return o.p99During(c.kind) })
	}
	var reloads []float64
	for _, o := range all {
		reloads = append(reloads, o.reloads...)
	}
	b.report.add("pm2", name+": reload, request to the end of the old", "ms", reloads, "")
	add("of that, the command itself", "ms", func(o outcome) float64 { return o.command })
	add("idle, launcher: RSS", "MB", func(o outcome) float64 { return o.idle.launcher.rss })
	add("idle, launcher: PSS", "MB", func(o outcome) float64 { return o.idle.launcher.pss })
	add("idle, workers: RSS", "MB", func(o outcome) float64 { return o.idle.workers.rss })
	add("idle, workers: PSS", "MB", func(o outcome) float64 { return o.idle.workers.pss })
	add("idle, together: RSS", "MB", func(o outcome) float64 { return o.idle.all().rss })
	add("idle, together: PSS", "MB", func(o outcome) float64 { return o.idle.all().pss })
	add("after the load, launcher: PSS", "MB", func(o outcome) float64 { return o.after.launcher.pss })
	add("after the load, together: PSS", "MB", func(o outcome) float64 { return o.after.all().pss })
}

func (o outcome) p99During(k load.Kind) float64 {
	return milliseconds(o.by[k].During.Quantile(0.99))
}

// ratioRows files what counts: the ratios of the two halves of each pair.
func (b *bench) ratioRows(name string, theirs, ours []outcome) {
	add := func(what string, of func(outcome) float64) {
		b.report.add("pm2", name+": "+what+", baton / PM2", "ratio", ratios(samplesOf(theirs, of), samplesOf(ours, of)), "")
	}
	for _, c := range crowds {
		add(c.kind.String()+": p99 during reloads", func(o outcome) float64 { return o.p99During(c.kind) })
	}
	add("reload", func(o outcome) float64 { return quantile(o.reloads, 0.5) })
	add("idle, launcher: PSS", func(o outcome) float64 { return o.idle.launcher.pss })
	add("idle, together: PSS", func(o outcome) float64 { return o.idle.all().pss })
}

func samplesOf(all []outcome, of func(outcome) float64) []float64 {
	var samples []float64
	for _, o := range all {
		samples = append(samples, of(o))
	}
	return samples
}

// ratios of pairs: each y over its x; a pair whose x is 0 has none.
func ratios(x, y []float64) []float64 {
	var all []float64
	for i := range min(len(x), len(y)) {
		if cmp.Compare(x[i], 0) != 0 {
			all = append(all, y[i]/x[i])
		}
	}
	return all
}

package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"baton/internal/load"
)

// cuts is into how many pairs throughput cuts one.
const cuts = 4

// throughput compares requests per second under baton with the same server bare.
func throughput(ctx context.Context, b *bench) error {
	bare, err := b.bare(ctx)
	if err != nil {
		return err
	}
	under, err := b.underBaton(ctx)
	if err != nil {
		return err
	}

	rate, by := b.rate, "internal/load"
	if wrk, missing := exec.LookPath("wrk"); missing == nil {
		rate, by = wrkRate(wrk, b.clients), "wrk"
	}
	b.report.note("throughput: load from %s, %d connections at a time", by, b.clients)
	// One percent is asked for, so many short pairs: a busy second of the machine
	// spoils one of them.
	pairs, seconds := cuts*b.pairs, max(time.Second, b.seconds/cuts)
	for _, kind := range []load.Kind{load.KeepAlive, load.Fresh} {
		var bares, unders, ratios []float64
		for i := range pairs {
			x, y, err := inTurn(i,
				func() (float64, error) { return rate(ctx, bare.address, kind, seconds) },
				func() (float64, error) { return rate(ctx, under.address, kind, seconds) })
			if err != nil {
				return err
			}
			bares, unders, ratios = append(bares, x), append(unders, y), append(ratios, y/x)
		}
		b.report.add("throughput", kind.String()+", bare", "1/s", bares, "")
		b.report.add("throughput", kind.String()+", under baton", "1/s", unders, "")
		b.report.add("throughput", kind.String()+", baton / bare", "ratio", ratios, ">= 0.99")
	}
	return nil
}

// inTurn takes both halves of a pair; every second pair begins with the other one.
func inTurn(pair int, first, second func() (float64, error)) (x, y float64, err error) {
	if pair%2 == 1 {
		y, x, err = inTurn(0, second, first)
		return x, y, err
	}
	if x, err = first(); err != nil {
		return 0, 0, err
	}
	y, err = second()
	return x, y, err
}

// rate drives the load of our own client, as fast as it goes.
func (b *bench) rate(ctx context.Context, address string, kind load.Kind, d time.Duration) (float64, error) {
	got, err := drive(ctx, d, load.Options{
		Targets: []load.Target{{Network: "tcp", Address: address}}, Kind: kind, Clients: b.clients})
	if err != nil {
		return 0, err
	}
	if got.Lost > 0 {
		return 0, fmt.Errorf("a steady server lost requests: %v", got)
	}
	return float64(got.Answered()) / got.Elapsed.Seconds(), nil
}

// drive runs load for d.
func drive(ctx context.Context, d time.Duration, o load.Options) (load.Result, error) {
	r, err := load.Start(ctx, o)
	if err != nil {
		return load.Result{}, err
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	got := r.Stop()
	return got, ctx.Err()
}

var (
	requestsPerSecond = regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)`)
	troubles          = regexp.MustCompile(`(?m)^\s*(Socket errors|Non-2xx).*$`)
)

// wrkRate measures with wrk, which costs the machine less than a client in Go.
func wrkRate(wrk string, clients int) func(context.Context, string, load.Kind, time.Duration) (float64, error) {
	return func(ctx context.Context, address string, kind load.Kind, d time.Duration) (float64, error) {
		args := []string{"-t2", "-c" + strconv.Itoa(clients), fmt.Sprintf("-d%ds", max(1, int(d.Seconds())))}
		if kind == load.Fresh {
			args = append(args, "-H", "Connection: close")
		}
		out, err := command(ctx, wrk, append(args, "http://"+address+"/")...).CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("wrk: %w\n%s", err, out)
		}
		found := requestsPerSecond.FindSubmatch(out)
		if trouble := troubles.Find(out); found == nil || trouble != nil {
			return 0, fmt.Errorf("wrk: a steady server failed requests\n%s", out)
		}
		return strconv.ParseFloat(string(found[1]), 64)
	}
}

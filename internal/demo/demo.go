// Package demo shows in ten seconds what steering is for: it puts the real
// launcher over a real server, drives real load at it, swaps the server again and
// again, and counts what was lost, first with one socket that all generations
// share, then with a slot for each.
//
// It keeps one invariant: every figure was measured in the run that prints it, in
// the same way on both sides. It leaves no process and no file behind, and never
// listens on anything but loopback.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"baton/internal/load"
)

// Options of a demo.
type Options struct {
	// Swaps, and Time that they are spread over, of each of the two rounds.
	Swaps int
	Time  time.Duration
	// Clients open a connection for each request, without a pause.
	Clients int
	// Launcher is the command line of baton itself, up to its verb; Target that of
	// the program which calls Serve.
	Launcher, Target []string
	// Begun is told the name of each round as it begins; nil is nobody.
	Begun func(round string)
}

// Latency of the answered requests, in nanoseconds.
type Latency struct {
	Requests int           `json:"requests"`
	P50      time.Duration `json:"p50"`
	P99      time.Duration `json:"p99"`
	Max      time.Duration `json:"max"`
}

// Round is what one way of handing over cost.
type Round struct {
	Mode        string              `json:"mode"`             // "shared" or "steered", as the launcher says
	Reason      string              `json:"reason,omitempty"` // why shared
	Requests    int                 `json:"requests"`
	Swaps       int                 `json:"swaps"`
	Lost        int                 `json:"lost"`
	Reasons     map[load.Reason]int `json:"reasons,omitempty"` // of Lost
	Examples    []string            `json:"examples,omitempty"`
	Generations int                 `json:"generations"` // that answered at least one request
	Seconds     float64             `json:"seconds"`
	Steady      Latency             `json:"steady"`
	During      Latency             `json:"during"` // of requests that overlapped a swap
}

// Report is what a demo measured.
type Report struct {
	Clients int   `json:"clients"`
	Shared  Round `json:"shared"`
	Steered Round `json:"steered"`
}

// ErrNotSteered is returned with a report whose second round ran shared too: here
// steering cannot work, and Round.Reason says why.
var ErrNotSteered = errors.New("steering does not work here")

// Run runs both rounds. It returns early when ctx ends, with everything ended.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	dir, err := os.MkdirTemp("", "baton-demo")
	if err != nil {
		return nil, err
	}
	defer func() {
		if left := os.RemoveAll(dir); err == nil {
			err = left
		}
	}()
	report = &Report{Clients: o.Clients}
	for _, r := range []struct {
		steering string
		result   *Round
	}{{"off", &report.Shared}, {"auto", &report.Steered}} {
		if o.Begun != nil {
			o.Begun(name(r.steering))
		}
		if *r.result, err = round(ctx, o, dir, r.steering); err != nil {
			return nil, fmt.Errorf("%s: %w", name(r.steering), err)
		}
	}
	if report.Steered.Mode != "steered" {
		return report, fmt.Errorf("%w: %s", ErrNotSteered, report.Steered.Reason)
	}
	return report, nil
}

func name(steering string) string {
	if steering == "off" {
		return "one shared socket"
	}
	return "kernel steering"
}

// round runs one launcher from start to stop, with the swaps spread evenly over
// the time.
func round(ctx context.Context, o Options, dir, steering string) (result Round, err error) {
	l, err := launch(ctx, o, dir, steering)
	if err != nil {
		return result, err
	}
	defer func() {
		if stopped := l.stop(); err == nil {
			err = stopped
		}
	}()
	opened, err := l.await(ctx, event{Kind: "listener-opened"})
	if err != nil {
		return result, err
	}
	if _, err = l.await(ctx, event{Kind: "serving", Generation: 1}); err != nil {
		return result, err
	}
	r, err := load.Start(ctx, load.Options{
		Targets: []load.Target{{Network: "tcp", Address: opened.hostPort()}},
		Clients: o.Clients, Kind: load.Fresh, Window: time.Hour,
	})
	if err != nil {
		return result, err
	}
	err = l.swaps(ctx, o, r)
	counted := r.Stop() // before the launcher: its end would be counted as loss
	if err != nil {
		return result, err
	}
	result = rounded(counted)
	result.Mode, result.Reason = opened.Mode, opened.Reason
	return result, nil
}

func rounded(r load.Result) Round {
	round := Round{
		Requests: r.Requests, Swaps: r.Swaps, Lost: r.Lost, Generations: len(r.ByPID),
		Seconds: r.Elapsed.Seconds(), Steady: latency(r.Steady), During: latency(r.During),
	}
	if r.Lost > 0 {
		round.Reasons = r.Reasons
	}
	for _, l := range r.Examples {
		round.Examples = append(round.Examples, l.String())
	}
	return round
}

func latency(h load.Histogram) Latency {
	return Latency{h.Count(), h.Quantile(0.5), h.Quantile(0.99), h.Max()}
}

// JSON is the report for machines.
func (r *Report) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

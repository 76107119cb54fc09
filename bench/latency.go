package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"baton/internal/event"
	"baton/internal/load"
)

// latency compares the 99th percentile of fresh requests while baton swaps once a
// second with the same launcher's while it does not: with paced load, which a
// server meets that has room to breathe, and with as much as the clients can send.
func latency(ctx context.Context, b *bench) error {
	under, err := b.underBaton(ctx)
	if err != nil {
		return err
	}
	paced := swapping{part: "latency", name: "baton, paced", pause: b.pause, every: time.Second, want: "<= 1.25"}
	full := swapping{part: "latency", name: "baton, full", every: time.Second, want: paced.want}
	return errors.Join(b.latencyPairs(ctx, under, paced), b.latencyPairs(ctx, under, full))
}

// swapping is how a launcher is swapped under load, and under which name that is filed.
type swapping struct {
	part, name string
	pause      time.Duration // between two requests of one client
	every      time.Duration // a HUP
	want       string        // of p99 swapping / steady
}

// latencyPairs files the p99 of both halves of each pair, their ratio, and what
// was lost while swapping.
func (b *bench) latencyPairs(ctx context.Context, l *launched, s swapping) error {
	o := load.Options{
		Targets: []load.Target{{Network: "tcp", Address: l.address}},
		Kind:    load.Fresh, Clients: b.clients, Pause: s.pause,
	}
	var calm, busy, ratios, lost, rates []float64
	hups, servers := 0, 0
	for i := range b.pairs {
		steady := func() (float64, error) {
			got, err := drive(ctx, b.seconds, o)
			if err == nil && got.Lost > 0 {
				err = fmt.Errorf("a steady server lost requests: %v", got)
			}
			rates = append(rates, float64(got.Answered())/got.Elapsed.Seconds())
			return p99(got), err
		}
		busily := func() (float64, error) {
			got, err := b.driveSwapping(ctx, l, o, s.every)
			hups, servers = hups+got.Swaps, servers+len(got.ByPID)
			lost = append(lost, float64(got.Lost))
			if got.Lost > 0 {
				got.Examples = got.Examples[:min(2, len(got.Examples))]
				b.report.note("%s: %v", s.name, got)
			}
			return p99(got), err
		}
		x, y, err := inTurn(i, steady, busily)
		if err != nil {
			return err
		}
		calm, busy, ratios = append(calm, x), append(busy, y), append(ratios, y/x)
	}
	b.report.add(s.part, s.name+": requests while steady", "1/s", rates, "")
	b.report.add(s.part, s.name+": p99 steady", "ms", calm, "")
	b.report.add(s.part, s.name+": p99 swapping", "ms", busy, "")
	b.report.add(s.part, s.name+": p99 swapping / steady", "ratio", ratios, s.want)
	b.report.add(s.part, s.name+": lost while swapping", "lost", lost, "")
	b.report.note("%s: a HUP every %v, %d in all; the load met %d processes", s.name, s.every, hups, servers)
	return nil
}

func p99(r load.Result) float64 { return milliseconds(r.All().Quantile(0.99)) }

// driveSwapping runs load while a HUP is sent now and then, and returns when the
// last old generation has gone, so that the next half meets a quiet server.
func (b *bench) driveSwapping(ctx context.Context, l *launched, o load.Options, every time.Duration) (load.Result, error) {
	r, err := load.Start(ctx, o)
	if err != nil {
		return load.Result{}, err
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.After(b.seconds + every/2) // not at a tick: the last swap belongs to the load
	for going := true; going && err == nil; {
		select {
		case <-tick.C:
			r.Mark()
			err = l.hup()
		case <-end:
			going = false
		case <-ctx.Done():
			going, err = false, ctx.Err()
		}
	}
	got := r.Stop()
	if err != nil {
		return got, err
	}
	return got, l.settled(ctx)
}

// settled waits until only the newest generation is left. A launcher that logs no
// events has a fixed time instead.
func (l *launched) settled(ctx context.Context) error {
	if _, logs := l.find(event.Serving, 0); !logs {
		select {
		case <-time.After(3 * time.Second):
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	return l.await(ctx, "the end of the old generations", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		alive := map[int]bool{}
		for _, e := range l.events {
			switch e.Kind {
			case event.Requested: // its generation is still to come
				alive[-1] = true
			case event.Starting:
				delete(alive, -1)
				alive[e.Generation] = true
			case event.Gone:
				delete(alive, e.Generation)
			}
		}
		return len(alive) == 1
	})
}

package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"baton/internal/load"
)

const (
	prefork = 4                     // workers
	service = 20 * time.Millisecond // that each of them takes for a request, one at a time
)

// slots compares a slot for each of four workers with one for all: how long requests
// wait for workers that serve one at a time, at half of what these can take, and how
// many a second workers answer that serve many at a time.
func slots(ctx context.Context, b *bench) error {
	if err := b.slotsBlocking(ctx); err != nil {
		return err
	}
	return b.slotsMany(ctx)
}

// bySlots starts the server under baton with both values of handoff.slots.
func (b *bench) bySlots(ctx context.Context, args ...string) (worker, generation *launched, err error) {
	if worker, err = b.withSlots(ctx, "worker", args); err != nil {
		return nil, nil, err
	}
	generation, err = b.withSlots(ctx, "generation", args)
	return worker, generation, err
}

func (b *bench) withSlots(ctx context.Context, slots string, args []string) (*launched, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	exec := []string{strconv.Quote(b.server)}
	for _, a := range args {
		exec = append(exec, strconv.Quote(a))
	}
	text := fmt.Sprintf("name = \"bench\"\n[command]\nexec = [%s]\n[[listen]]\naddress = %q\n[handoff]\nworkers = %d\nslots = %q\nready = \"notify\"\n",
		strings.Join(exec, ", "), address, prefork, slots)
	home := filepath.Join(b.dir, "slots-"+strings.ReplaceAll(address, ":", "-"))
	if err := os.WriteFile(home+".toml", []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := command(ctx, b.baton, "run", "--config", home+".toml", "--log", "json")
	cmd.Env = append(os.Environ(), "BATON_HOME="+home)
	l, err := b.launch(ctx, cmd, address, "")
	if err != nil {
		return nil, err
	}
	_, err = l.awaitEvent(ctx, "serving", 1)
	return l, err
}

func (b *bench) slotsBlocking(ctx context.Context) error {
	worker, generation, err := b.bySlots(ctx, "-one", service.String())
	if err != nil {
		return err
	}
	var means, tails [2][]float64
	var ratios []float64
	for i := range b.pairs {
		half := func(side int, l *launched) func() (float64, error) {
			return func() (float64, error) {
				took, err := arrivals(ctx, l.address, uint64(i), b.seconds)
				if err != nil {
					return 0, err
				}
				mean := milliseconds(took.Mean())
				means[side] = append(means[side], mean)
				tails[side] = append(tails[side], milliseconds(took.Quantile(0.99)))
				return mean, nil
			}
		}
		x, y, err := inTurn(i, half(0, worker), half(1, generation))
		if err != nil {
			return err
		}
		ratios = append(ratios, y/x)
	}
	for side, name := range []string{"worker", "generation"} {
		b.report.add("slots", "one at a time, "+name+": mean", "ms", means[side], "")
		b.report.add("slots", "one at a time, "+name+": p99", "ms", tails[side], "")
	}
	b.report.add("slots", "one at a time, generation / worker: mean", "ratio", ratios, "<= 0.8")
	b.report.note("slots: %d workers, %v a request, one at a time; a request on a new connection every %v on average, at random times, the same for both halves of a pair",
		prefork, service, 2*service/prefork)
	return nil
}

func (b *bench) slotsMany(ctx context.Context) error {
	worker, generation, err := b.bySlots(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []load.Kind{load.KeepAlive, load.Fresh} {
		var workers, generations, ratios []float64
		for i := range b.pairs {
			x, y, err := inTurn(i,
				func() (float64, error) { return b.rate(ctx, worker.address, kind, b.seconds) },
				func() (float64, error) { return b.rate(ctx, generation.address, kind, b.seconds) })
			if err != nil {
				return err
			}
			workers, generations, ratios = append(workers, x), append(generations, y), append(ratios, y/x)
		}
		b.report.add("slots", "many at a time, "+kind.String()+", worker", "1/s", workers, "")
		b.report.add("slots", "many at a time, "+kind.String()+", generation", "1/s", generations, "")
		b.report.add("slots", "many at a time, "+kind.String()+", generation / worker", "ratio", ratios, "")
	}
	return nil
}

// arrivals sends requests at random times, each on a connection of its own, whatever
// became of those before: half as many as prefork workers can take. The seed decides
// the times.
func arrivals(ctx context.Context, address string, seed uint64, d time.Duration) (load.Histogram, error) {
	chance := rand.New(rand.NewPCG(seed, 0))
	var due []time.Duration
	for at := time.Duration(0); at < d; at += time.Duration(chance.ExpFloat64() * float64(2*service/prefork)) {
		due = append(due, at)
	}
	took, failed := make([]time.Duration, len(due)), make([]error, len(due))
	var asking sync.WaitGroup
	began := time.Now()
	for i, at := range due {
		select {
		case <-time.After(time.Until(began.Add(at))):
		case <-ctx.Done():
			asking.Wait()
			return load.Histogram{}, ctx.Err()
		}
		asking.Go(func() { // ends with the answer, or after patience
			from := time.Now()
			failed[i] = ask(address)
			took[i] = time.Since(from)
		})
	}
	asking.Wait()
	var h load.Histogram
	for i, t := range took {
		if failed[i] != nil {
			return h, fmt.Errorf("a steady server lost a request: %w", failed[i])
		}
		h.Record(t)
	}
	return h, nil
}

// ask sends one request and reads its answer.
func ask(address string) error {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}

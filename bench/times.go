package main

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"baton/internal/event"
	"baton/internal/load"
)

// times measures the steps of a swap, and of a worker's return from the dead. The
// clocks of the launcher's log, of the server's stamps and of this program are
// one: the machine's wall clock.
func times(ctx context.Context, b *bench) error {
	for _, part := range []func(context.Context, *bench) error{startTimes, swapTimes, steerTimes, deathTimes} {
		if err := part(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// startTimes is the ground under the others: what it takes this program, without a
// launcher, to bring the server to its first line.
func startTimes(ctx context.Context, b *bench) error {
	var toMain []float64
	for i := range b.times {
		stamps := filepath.Join(b.dir, fmt.Sprintf("start-%d", i))
		address, err := freeAddress()
		if err != nil {
			return err
		}
		began := time.Now()
		l, err := b.launch(ctx, command(ctx, b.server, "-listen", address, "-stamps", stamps), address, stamps)
		if err != nil {
			return err
		}
		main, err := l.awaitStamp(ctx, l.cmd.Process.Pid, "main")
		if err != nil {
			return err
		}
		toMain = append(toMain, milliseconds(main.Sub(began)))
		if err := b.stopAll(); err != nil {
			return err
		}
	}
	b.report.add("times", "fork to main, no launcher", "ms", toMain, "")
	return nil
}

// swapTimes is from HUP to the exec of the newcomer, without load: as the launcher
// logs it once the exec has succeeded, and as the newcomer sees it in the first
// line of its main, Go's own start included.
func swapTimes(ctx context.Context, b *bench) error {
	l, err := b.underBaton(ctx, "--ready", "notify", "--drain-delay", "0s")
	if err != nil {
		return err
	}
	var toExec, toMain, toServing []float64
	for generation := 2; generation < b.times+2; generation++ {
		if err := l.settled(ctx); err != nil {
			return err
		}
		began := time.Now()
		if err := l.hup(); err != nil {
			return err
		}
		serving, err := l.awaitEvent(ctx, event.Serving, generation)
		if err != nil {
			return err
		}
		started, err := l.awaitEvent(ctx, event.Started, generation)
		if err != nil {
			return err
		}
		main, err := l.awaitStamp(ctx, started.PID, "main")
		if err != nil {
			return err
		}
		toExec = append(toExec, milliseconds(started.Time.Sub(began)))
		toMain = append(toMain, milliseconds(main.Sub(began)))
		toServing = append(toServing, milliseconds(serving.Time.Sub(began)))
	}
	b.report.add("times", "HUP to exec", "ms", toExec, "")
	b.report.add("times", "HUP to the newcomer's main", "ms", toMain, "")
	b.report.add("times", "HUP to serving (ready by notify)", "ms", toServing, "")
	return b.stopAll()
}

// steerTimes is from the newcomer's READY=1 to the first connection that it
// accepts, while clients open connections without pause.
func steerTimes(ctx context.Context, b *bench) error {
	l, err := b.underBaton(ctx, "--ready", "notify", "--drain-delay", "0s")
	if err != nil {
		return err
	}
	r, err := load.Start(ctx, load.Options{
		Targets: []load.Target{{Network: "tcp", Address: l.address}}, Kind: load.Fresh, Clients: 4})
	if err != nil {
		return err
	}
	var toFirst []float64
	for generation := 2; generation < b.times+2; generation++ {
		if err := l.settled(ctx); err != nil {
			return err
		}
		if err := l.hup(); err != nil {
			return err
		}
		started, err := l.awaitEvent(ctx, event.Started, generation)
		if err != nil {
			return err
		}
		ready, err := l.awaitStamp(ctx, started.PID, "ready")
		if err != nil {
			return err
		}
		first, err := l.awaitStamp(ctx, started.PID, "first")
		if err != nil {
			return err
		}
		toFirst = append(toFirst, milliseconds(first.Sub(ready)))
	}
	got := r.Stop()
	b.report.add("times", "ready to the newcomer's first connection, under load", "ms", toFirst, "")
	b.report.add("times", "lost meanwhile", "lost", []float64{float64(got.Lost)}, "")
	return b.stopAll()
}

// deathTimes is from the KILL of the only worker to the exec of its successor. Each
// death is the first of its launcher: later ones wait longer, on purpose.
func deathTimes(ctx context.Context, b *bench) error {
	var toExec, toMain []float64
	for range b.times {
		l, err := b.underBaton(ctx, "--ready", "notify")
		if err != nil {
			return err
		}
		if _, err := l.awaitEvent(ctx, event.Serving, 1); err != nil {
			return err
		}
		victim, err := l.awaitEvent(ctx, event.Started, 1)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := syscall.Kill(victim.PID, syscall.SIGKILL); err != nil {
			return err
		}
		var successor event.Event
		err = l.await(ctx, "a successor", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, e := range l.events {
				if e.Kind == event.Started && e.PID != victim.PID {
					successor = e
				}
			}
			return successor.PID != 0
		})
		if err != nil {
			return err
		}
		main, err := l.awaitStamp(ctx, successor.PID, "main")
		if err != nil {
			return err
		}
		toExec = append(toExec, milliseconds(successor.Time.Sub(began)))
		toMain = append(toMain, milliseconds(main.Sub(began)))
		if err := b.stopAll(); err != nil {
			return err
		}
	}
	b.report.add("times", "death to the successor's exec", "ms", toExec, "")
	b.report.add("times", "death to the successor's main", "ms", toMain, "")
	return nil
}

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"baton/internal/event"
)

// memory reads what an idle launcher holds resident: with one worker from the
// start, and again after many swaps.
func memory(ctx context.Context, b *bench) error {
	l, err := b.underBaton(ctx, "--drain-delay", "0s")
	if err != nil {
		return err
	}
	if _, err := l.awaitEvent(ctx, event.Serving, 1); err != nil {
		return err
	}
	if err := b.residentRows(ctx, l, "memory", "baton, fresh", "<= 14"); err != nil {
		return err
	}
	for generation := 2; generation < b.times+2; generation++ {
		if err := l.settled(ctx); err != nil {
			return err
		}
		if err := l.hup(); err != nil {
			return err
		}
		if _, err := l.awaitEvent(ctx, event.Serving, generation); err != nil {
			return err
		}
	}
	if err := l.settled(ctx); err != nil {
		return err
	}
	return b.residentRows(ctx, l, "memory", fmt.Sprintf("baton, after %d swaps", b.times), "<= 14")
}

// residentRows samples once a second for five seconds.
func (b *bench) residentRows(ctx context.Context, l *launched, part, name, want string) error {
	var all, own []float64
	for range 5 {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		rss, err := status(l.cmd.Process.Pid, "VmRSS")
		if err != nil {
			return err
		}
		anon, err := status(l.cmd.Process.Pid, "RssAnon")
		if err != nil {
			return err
		}
		all, own = append(all, rss), append(own, anon)
	}
	b.report.add(part, name+": resident (VmRSS)", "MB", all, want)
	b.report.add(part, name+": anonymous (RssAnon)", "MB", own, "")
	return nil
}

// status reads a size from /proc/PID/status (proc_pid_status(5): "kB" there is
// 1024 bytes) in units of 10^6 bytes.
func status(pid int, key string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return float64(kib) * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, key)
}

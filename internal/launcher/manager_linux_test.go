package launcher

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baton/handoff"
	"baton/internal/event"
	"baton/internal/systemd"
)

// WATCHDOG=1 comes from the loop that does the work: while that hangs there is none.
func TestALoopThatHangsFeedsNoWatchdog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, value := range map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": "", "FDSTORE": ""} {
		t.Setenv(name, value)
	}
	fed := func(within time.Duration) bool {
		limit := time.Now().Add(within)
		for text := make([]byte, 4096); ; {
			if err := conn.SetReadDeadline(limit); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(text)
			if err != nil {
				return false
			}
			if strings.Contains("\n"+string(text[:n])+"\n", "\nWATCHDOG=1\n") {
				return true
			}
		}
	}
	to, err := systemd.New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	hangs, goOn, loads, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan error, 1)
	m := newManager(to)
	defer m.close(nil)
	s := handoff.New(m.wire(handoff.Options{
		Load: func() (*handoff.Plan, error) { <-loads; return nil, context.Canceled },
		Observe: func(e event.Event) {
			if e.Kind == event.Requested {
				close(hangs)
				<-goOn
			}
		},
	}))
	go func() { ended <- s.Run(t.Context()) }()
	for range 3 {
		if !fed(10 * time.Second) {
			t.Fatal("no WATCHDOG=1 of a loop that works")
		}
	}
	s.Reload(nil)
	<-hangs
	if fed(300*time.Millisecond) && fed(time.Second) { // one may have been on its way
		t.Error("WATCHDOG=1 while the loop hangs")
	}
	close(goOn)
	if !fed(10 * time.Second) {
		t.Error("no WATCHDOG=1 when it goes on")
	}
	s.End()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(loads)
}

func TestAStatusSaysWhatUsersMeet(t *testing.T) {
	left := 17
	worker := func(state string, connections *int) event.Worker {
		return event.Worker{State: state, Connections: connections}
	}
	for want, r := range map[string]*event.Report{
		"generation 3 serves with 2 workers; generation 2 drains: 17 connections left": {Verdict: "swapped", Generations: []event.Generation{
			{Number: 2, Phase: "draining", Workers: []event.Worker{worker("signalled", &left), worker("signalled", nil)}},
			{Number: 3, Phase: "serving", Wanted: 2, Workers: []event.Worker{worker("ready", nil), worker("ready", nil)}}}},
		"generation 1 serves with 1 of 2 workers; generation 2 gets 5 % of new connections": {Generations: []event.Generation{
			{Number: 2, Phase: "canary", Canary: &event.CanaryStep{Steps: 2, Weight: 5}},
			{Number: 1, Phase: "serving", Wanted: 2, Workers: []event.Worker{worker("ready", nil), worker("backoff", nil)}}}},
		"generation 1 loses its workers again and again: 0 of 1 worker ready; the last reload was rolled back: exit status 1": {
			Verdict: "rolled back: exit status 1", Generations: []event.Generation{{Number: 1, Phase: "serving", Wanted: 1, Looping: true}}},
		"generation 1 has ended by itself, and is left stopped": {Generations: []event.Generation{{Number: 1, Phase: "serving", Wanted: 1, Stopped: []int{0}}}},
		"generation 2 takes over worker by worker":              {Generations: []event.Generation{{Number: 2, Phase: "canary", Canary: &event.CanaryStep{}}}},
		"generation 1 starts: 1 of 2 workers ready":             {Generations: []event.Generation{{Number: 1, Phase: "starting", Wanted: 2, Workers: []event.Worker{worker("ready", nil), worker("starting", nil)}}}},
	} {
		if got := describe(r); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

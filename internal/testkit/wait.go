package testkit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// patience is how long Wait waits: far beyond what anything takes, so that a
// busy machine fails no test, and a failure still comes before go test's own.
const patience = 60 * time.Second

// settle is how long things that are ending may take to be gone; a variable for
// the tests of what finds them.
var settle = 10 * time.Second

// Wait polls until cond holds and fails the test when it does not within a
// minute; what completes "waiting for".
func Wait(t testing.TB, cond func() bool, what string) {
	t.Helper()
	WaitFor(t, patience, cond, what)
}

// WaitFor is Wait with a limit of its own, for a promise with a deadline.
func WaitFor(t testing.TB, limit time.Duration, cond func() bool, what string) {
	t.Helper()
	if !poll(limit, cond) {
		t.Fatalf("waiting for %s: not within %v", what, limit)
	}
}

// poll asks more and more slowly, up to every 20 ms.
func poll(limit time.Duration, cond func() bool) bool {
	end := time.Now().Add(limit)
	for step := time.Millisecond; !cond(); step = min(step*2, 20*time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
		<-time.After(step) // between two looks, not instead of one
	}
	return true
}

// EnvAll as "all" in the environment says that whoever runs the tests has installed
// the programs that they need, and wants to know when one of them did not run.
const EnvAll = "BATON_EXAMPLES"

// Lack ends a test that cannot run for want of a program of others, and says why: it
// is skipped, or fails under EnvAll.
func Lack(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(EnvAll) == "all" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// FreePort is a TCP port that nobody listens on and that no connection is given
// as its own: it lies below the ephemeral ports (ip_local_port_range begins at
// 32768 on Linux). No other FreePort gives it out before the test has ended.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 20_000 + rand.IntN(12_000)
		if reserve(t, port) {
			return port
		}
	}
	t.Fatal("no free port between 20000 and 32000")
	return 0
}

// reserve holds a port against the other tests of this machine by a name that
// only one process can have, and looks whether it is free.
func reserve(t testing.TB, port int) bool {
	var lc net.ListenConfig
	held, err := lc.Listen(context.Background(), "unix", fmt.Sprintf("@baton-testkit-port-%d", port))
	if err != nil {
		return false
	}
	l, err := lc.Listen(context.Background(), "tcp", ":"+strconv.Itoa(port))
	if err != nil {
		_ = held.Close()
		return false
	}
	_ = l.Close()
	t.Cleanup(func() { _ = held.Close() })
	return true
}

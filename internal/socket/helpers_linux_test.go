package socket

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const deadline = time.Minute

// steeredAt listens on address, steered, with slots 0 to n-1, and closes it with
// the test.
func steeredAt(t *testing.T, address string, n int) *steered {
	t.Helper()
	return steeredWith(t, address, n, Options{})
}

func steeredWith(t *testing.T, address string, n int, o Options) *steered {
	t.Helper()
	l := listenAt(t, address, o)
	g, ok := l.(*steered)
	if !ok {
		t.Fatalf("%s is %s: %s", address, l.Mode(), l.Reason())
	}
	for slot := range n {
		must(t, g.Reserve(slot))
		must(t, g.with(slot, "wake", g.wake)) // as if a worker had it that was probed
	}
	return g
}

func listenAt(t *testing.T, address string, o Options) Listener {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	_, a, err := ParseAddress(address)
	must(t, err)
	l, err := Listen(t.Context(), a, o)
	must(t, err)
	t.Cleanup(func() {
		must(t, l.Close())
		goleak.VerifyNone(t, leaks)
	})
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, deadline, what, ok)
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// worker serves a duplicate of a slot's descriptor: it tells each client the
// slot's number and closes.
type worker struct {
	slot int
	ln   net.Listener
	done sync.WaitGroup
	mu   sync.Mutex
	n    int
}

func serve(t *testing.T, l Listener, slot int) *worker {
	t.Helper()
	w := &worker{slot: slot, ln: accepting(t, l, slot)}
	w.done.Go(func() { // ends when ln is closed
		for {
			c, err := w.ln.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.n++
			w.mu.Unlock()
			fmt.Fprintln(c, slot)
			c.Close()
		}
	})
	t.Cleanup(w.stop)
	return w
}

// accepting is a duplicate of the slot's socket as a Go listener.
func accepting(t *testing.T, l Listener, slot int) net.Listener {
	t.Helper()
	f := os.NewFile(uintptr(duplicate(t, l, slot)), "slot")
	defer f.Close()
	ln, err := net.FileListener(f)
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// duplicate is what a worker holds: another descriptor of the slot's socket.
// It does not ask for FD where that would make the socket of a worker that
// serves already blocking again: then package net's Close waits for its Accept.
func duplicate(t *testing.T, l Listener, slot int) (fd int) {
	t.Helper()
	var err error
	if g, ok := l.(*steered); ok {
		err = g.with(slot, "duplicate", func(m *member) error { fd = m.fd; return nil })
	} else {
		fd, err = l.FD(slot)
	}
	must(t, err)
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	return dup
}

func (w *worker) stop() {
	w.ln.Close()
	w.done.Wait()
}

func (w *worker) accepted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

// target is where a client of host ("127.0.0.1", "::1") reaches l.
func target(l Listener, host string) string {
	return netip.AddrPortFrom(netip.MustParseAddr(host), uint16(l.Address().Port)).String()
}

// ask connects and returns the slot that answered.
func ask(address string) (int, error) {
	c, err := net.DialTimeout("tcp", address, deadline)
	if err != nil {
		return -1, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		return -1, err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

func mustAsk(t *testing.T, address string) int {
	t.Helper()
	slot, err := ask(address)
	must(t, err)
	return slot
}

// finding waits for a finding of the kind.
func finding(t *testing.T, l Listener, kind FindingKind) Finding {
	t.Helper()
	end := time.After(deadline)
	for {
		select {
		case f, ok := <-l.Findings():
			if !ok {
				t.Fatalf("no finding %q before the end", kind)
			}
			if f.Kind == kind {
				return f
			}
			t.Logf("another finding: %+v", f)
		case <-end:
			t.Fatalf("no finding %q", kind)
		}
	}
}

func probe(t *testing.T, l Listener, slot int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	must(t, l.Probe(ctx, slot, nil))
}

// loopbacks are a listener's address, and the client's for it.
var loopbacks = []struct{ name, listen, client string }{
	{"v4", "tcp4://127.0.0.1:0", "127.0.0.1"},
	{"v6", "tcp6://[::1]:0", "::1"},
	{"dual stack by v4", ":0", "127.0.0.1"},
	{"dual stack by v6", ":0", "::1"},
	{"any v4", "tcp4://:0", "127.0.0.1"},
}

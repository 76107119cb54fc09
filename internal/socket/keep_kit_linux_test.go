package socket

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"baton/internal/keep"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// handed is a listener between two launchers: its state as it is written down, and
// duplicates of its descriptors.
type handed struct {
	t     *testing.T
	state State
	files keep.Files
	fds   map[string]int
}

// leave keeps the listener and drops it as a process that ends does: nothing is taken
// back, and all of its own descriptors are gone.
func leave(t *testing.T, l Listener) *handed {
	t.Helper()
	h := &handed{t: t, fds: make(map[string]int)}
	var own keep.Files
	h.state = thereAndBack(t, l.Keep("l1", &own))
	own.Each(func(name string, fd int) {
		if !keep.Valid(name) {
			t.Errorf("%q is no name", name)
		}
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, 3)
		must(t, err)
		h.fds[name] = dup
		h.files.Put(name, dup)
	})
	drop(t, l)
	t.Cleanup(h.files.Close)
	return h
}

// lose is what did not come back.
func (h *handed) lose(names ...string) {
	var rest keep.Files
	for name, fd := range h.fds {
		if slices.Contains(names, name) {
			unix.Close(fd)
			delete(h.fds, name)
		} else {
			rest.Put(name, fd)
		}
	}
	h.files = rest
}

func (h *handed) resume() Listener {
	h.t.Helper()
	l, err := Resume(h.state, "l1", &h.files, slog.New(slog.NewTextHandler(h.t.Output(), nil)))
	must(h.t, err)
	h.t.Cleanup(func() {
		if err := l.Close(); !errors.Is(err, ErrClosed) { // which one that was left says
			must(h.t, err)
		}
	})
	if h.files.Len() > 0 {
		h.files.Each(func(name string, _ int) { h.t.Errorf("%s was left", name) })
	}
	return l
}

// thereAndBack is the state after JSON.
func thereAndBack(t *testing.T, s State) State {
	t.Helper()
	b, err := json.Marshal(s)
	must(t, err)
	var again State
	must(t, json.Unmarshal(b, &again))
	if d := cmp.Diff(s, again, cmp.Comparer(func(a, b interface{ IsValid() bool }) bool { return a == b })); d != "" {
		t.Errorf("%s", d)
	}
	return again
}

// drop stops what a listener has running and closes its descriptors, and takes nothing
// back of what it did to the kernel's objects: the end of a process.
func drop(t *testing.T, l Listener) {
	t.Helper()
	switch l := l.(type) {
	case *steered:
		l.mu.Lock()
		l.closed = true
		close(l.done)
		l.mu.Unlock()
		l.watch.close()
		l.probes.Wait()
		for _, m := range l.order {
			if !m.stranger() {
				unix.Close(m.fd)
			}
		}
		l.order = nil
		l.found.close()
	case *shared:
		l.mu.Lock()
		l.closed = true
		close(l.done)
		l.mu.Unlock()
		l.watch.close()
		l.probes.Wait()
		unix.Close(l.only.fd)
		l.found.close()
	case *unixListener:
		l.mu.Lock()
		l.closed = true
		close(l.done)
		l.mu.Unlock()
		l.partings.Wait()
		l.watch.close()
		l.found.close()
		l.dismiss()
	}
}

// netipPort is an address from which nothing comes.
func netipPort(l *steered) netip.AddrPort { return netip.AddrPortFrom(l.at.addr, 1) }

package socket

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"baton/internal/keep"
	"golang.org/x/sys/unix"
)

// damages calls do with the state once for each place of it, without what is there
// (another version does not know it) and with things that make no sense there.
func damages(t *testing.T, s State, do func(where string, s State)) {
	t.Helper()
	text, err := json.Marshal(s)
	must(t, err)
	var tree any
	must(t, json.Unmarshal(text, &tree))
	try := func(where string) {
		t.Helper()
		b, err := json.Marshal(tree)
		must(t, err)
		var damaged State
		if json.Unmarshal(b, &damaged) == nil { // else whoever reads it says so
			do(where, damaged)
		}
	}
	var visit func(where string, at any)
	visit = func(where string, at any) {
		put := func(name string, was any, set func(any)) {
			for _, wrong := range []any{nil, 0, -1, 1 << 30, "", "x", false, true, []any{}, map[string]any{}} {
				set(wrong)
				try(fmt.Sprintf("%s.%s = %v", where, name, wrong))
			}
			set(was)
			visit(where+"."+name, was)
		}
		switch at := at.(type) {
		case map[string]any:
			for name, was := range at {
				delete(at, name)
				try("without " + where + "." + name)
				put(name, was, func(v any) { at[name] = v })
			}
		case []any:
			for i, was := range at {
				put(fmt.Sprint(i), was, func(v any) { at[i] = v })
			}
		}
	}
	visit("state", tree)
}

// eachKind calls do with a listener of each kind, with united slots and two sides.
func eachKind(t *testing.T, do func(t *testing.T, l Listener)) {
	t.Helper()
	plain := func(address string, o Options) func(*testing.T) Listener {
		return func(t *testing.T) Listener { return listenAt(t, address, o) }
	}
	sharedUnix := unixOptions()
	sharedUnix.Shared, sharedUnix.UID, sharedUnix.Mode = true, unix.Getuid(), 0o600
	for kind, listen := range map[string]func(t *testing.T) Listener{
		"steered tcp": plain("tcp4://127.0.0.1:0", Options{}),
		"steered udp": plain("udp://:0", Options{}),
		"shared":      plain("tcp6://[::1]:0", Options{Shared: true}),
		"unix":        func(t *testing.T) Listener { return unixListen(t, unixOptions()) },
		"shared unix": func(t *testing.T) Listener { return unixListen(t, sharedUnix) },
		"adopted": func(t *testing.T) Listener {
			_, fd, a := outside(t, ":0")
			return adopt(t, fd, a, Options{})
		},
		"adopted unix": func(t *testing.T) Listener {
			_, fd, a := outside(t, "unix://"+filepath.Join(t.TempDir(), "s"))
			return adopt(t, fd, a, unixOptions())
		},
	} {
		t.Run(kind, func(t *testing.T) {
			l := listen(t)
			must(t, l.Reserve(1))
			must(t, l.Reserve(2))
			must(t, l.Unite(1, 2))
			must(t, l.Steer([]Share{{Slot: 0, Weight: 3}, {Slot: 2, Weight: 1, Side: 1}}))
			do(t, l)
		})
	}
}

func TestAStateOfEachKindSurvivesJSON(t *testing.T) {
	eachKind(t, func(t *testing.T, l Listener) {
		var f keep.Files
		if err := Check(thereAndBack(t, l.Keep("l1", &f)), "l1", &f); err != nil {
			t.Error(err)
		}
	})
}

// Whatever is wrong with a state, the check says it or the listener works; and nothing
// panics. The check does neither harm nor good.
func TestADamagedStateIsSaidOrMadeUpFor(t *testing.T) {
	if testing.Short() {
		t.Skip("some thousand listeners")
	}
	eachKind(t, func(t *testing.T, l Listener) {
		var own keep.Files
		state := l.Keep("l1", &own)
		said := 0
		damages(t, state, func(where string, s State) {
			err := Check(s, "l1", &own)
			if err != nil {
				said++
				if !strings.HasPrefix(err.Error(), "check listener ") {
					t.Errorf("%s: %v", where, err)
				}
			}
			if _, err := Resume(s, "l1", new(keep.Files), nil); err == nil {
				t.Errorf("%s: resumed from nothing", where)
			}
		})
		if said < 30 {
			t.Errorf("only %d damages were met", said)
		}
		must(t, l.Steer(to(0)))
		if err := Check(state, "l1", &own); err != nil {
			t.Error(err)
		}
	})
}

// The same with the sockets there: what passes the check serves.
func TestADamagedStateThatPassesIsTakenUp(t *testing.T) {
	if testing.Short() {
		t.Skip("some hundred listeners")
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	eachKind(t, func(t *testing.T, l Listener) {
		h := leave(t, l)
		held := h.fds
		damages(t, h.state, func(where string, s State) {
			var files keep.Files
			for name, fd := range held {
				dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
				must(t, err)
				files.Put(name, dup)
			}
			passes := Check(s, "l1", &files) == nil
			r, err := Resume(s, "l1", &files, quiet)
			files.Close()
			switch {
			case err == nil:
				if err := r.Maintain(); err != nil && passes {
					t.Errorf("%s: %v", where, err)
				}
				drop(t, r)
			case passes:
				t.Errorf("%s: passes the check, and then: %v", where, err)
			}
		})
		must(t, h.resume().Close()) // the files of a path go
	})
}

func TestHandshakesSurviveJSON(t *testing.T) {
	h := Handshakes{
		{Local: netip.MustParseAddrPort("127.0.0.1:80"), Remote: netip.MustParseAddrPort("127.0.0.1:9")}: {},
		{Local: netip.MustParseAddrPort("[::1]:80"), Remote: netip.MustParseAddrPort("[::1]:9")}:         {},
	}
	b, err := json.Marshal(h)
	must(t, err)
	var again Handshakes
	must(t, json.Unmarshal(b, &again))
	if !maps.Equal(h, again) {
		t.Errorf("%s became %v", b, again)
	}
	if json.Unmarshal([]byte(`{"local":1}`), &again) == nil {
		t.Error("not a list, and no error")
	}
}

func FuzzState(f *testing.F) {
	for _, s := range []string{
		`{"name":"a","address":"tcp://:80","mode":"steered","bound":"::","dual":true,"made":2,"table":[{"slot":0,"weight":1}],` +
			`"sockets":[{"number":1,"inode":1},{"number":2,"inode":2,"slots":[0]}]}`,
		`{"address":"unix:///run/a","mode":"shared","slots":[0],"made":1,"table":[],"unix":{"keys":1,"at":1},` +
			`"sockets":[{"number":1,"file":{"key":0}}]}`,
		`{"address":"udp://x:1","mode":"shared","bound":"127.0.0.1","table":[{}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s State
		if json.Unmarshal(b, &s) != nil {
			return
		}
		var none keep.Files
		if Check(s, "l1", &none) == nil {
			t.Errorf("passes without a descriptor: %s", b)
		}
		if _, err := Resume(s, "l1", &none, nil); err == nil {
			t.Errorf("resumed without a descriptor: %s", b)
		}
	})
}

// Who connects while the group is made whole comes to who serves, or is heard a moment
// later: never to a slot that is there anew and that nobody serves.
func TestWhoConnectsDuringAResumeIsServed(t *testing.T) {
	for round := range 5 {
		l := steeredAt(t, "tcp4://127.0.0.1:0", 4)
		serve(t, l, 3)
		must(t, l.Steer(to(3)))
		address := target(l, "127.0.0.1")
		h := leave(t, l)
		var lost []string
		for _, one := range h.state.Order {
			if !slices.Contains(one.Slots, 3) {
				lost = append(lost, socketName("l1", one.Number))
			}
		}
		h.lose(lost...)
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() { // ends with stop
				for {
					select {
					case <-stop:
						return
					default:
					}
					if c, err := net.Dial("tcp", address); err == nil {
						c.Close()
					}
				}
			})
		}
		g := h.resume().(*steered)
		close(stop)
		clients.Wait()
		for slot := range 3 {
			if p, err := g.Pending(slot); err != nil || p.Queued > 0 {
				t.Errorf("round %d: %d wait on slot %d, %v", round, p.Queued, slot, err)
			}
		}
		must(t, g.Close())
	}
}

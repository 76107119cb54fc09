package wire_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/wire"
)

func TestMain(m *testing.M) {
	testkit.Main()
	os.Exit(m.Run())
}

const roundTrip = 80 * time.Millisecond

// serve starts a real server at the server's end and waits until it answers.
func serve(t *testing.T, w *wire.Wire, host string) (l *testkit.Launcher, address string) {
	t.Helper()
	address = net.JoinHostPort(host, "8080")
	l = testkit.NewTarget(t, "listen="+address)
	l.StartBy = w.ServerCommand
	l.Start()
	testkit.Wait(t, func() bool {
		c, err := w.Dial(t.Context(), "tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, "a connection over the wire")
	return l, address
}

// dial connects and returns how long that took.
func dial(t *testing.T, w *wire.Wire, address string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	c, err := w.Dial(ctx, "tcp", address)
	took := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	return took
}

func TestConnectingTakesARoundTrip(t *testing.T) {
	testkit.Leaks(t)
	w := wire.New(t, wire.Options{})
	for _, host := range []string{wire.Server4, wire.Server6} {
		server, address := serve(t, w, host)
		// Less than two, some time: a busy machine is slow most of the time.
		testkit.Wait(t, func() bool {
			took := dial(t, w, address)
			if took < roundTrip {
				t.Errorf("%s: %v, faster than the wire", host, took)
			}
			return took < 2*roundTrip
		}, host+" to be reached in one round trip")
		server.Stop()
	}
}

func TestRequestsOverTheWireTakeTwoRoundTripsAndLoseNothing(t *testing.T) {
	testkit.Leaks(t)
	w := wire.New(t, wire.Options{})
	server, address := serve(t, w, wire.Server4)
	r, err := load.Start(t.Context(), load.Options{Targets: []load.Target{{Network: "tcp", Address: address}}, Clients: 20, Dial: w.Dial})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool {
		now := r.Result()
		return now.Requests >= 100 && now.Steady.Quantile(0) < 3*roundTrip
	}, "100 requests, one of them in two round trips")
	got := r.Stop()
	if got.Lost != 0 || got.Steady.Quantile(0) < 2*roundTrip {
		t.Errorf("%v; fastest %v", got, got.Steady.Quantile(0))
	}
	if got.ByPID[strconv.Itoa(server.PID())] != got.Requests {
		t.Errorf("answered by %v, not by %d alone", got.ByPID, server.PID())
	}
	if s := w.Stats(); len(s.Dropped) != 0 || s.Forwarded[wire.FinalACK] < got.Requests || s.Forwarded[wire.Data] < 2*got.Requests {
		t.Errorf("%+v for %v", s, got)
	}
	server.Stop()
}

// TestALostSYNACKIsSentAgain: Linux sends it again after 1 s (TCP_TIMEOUT_INIT
// in include/net/tcp.h), and the client its SYN.
func TestALostSYNACKIsSentAgain(t *testing.T) {
	testkit.Leaks(t)
	var lossy atomic.Bool
	w := wire.New(t, wire.Options{Delay: 5 * time.Millisecond, Drop: func(p wire.Packet) bool {
		return lossy.Load() && p.Kind == wire.SYNACK && p.Nth == 1
	}})
	server, address := serve(t, w, wire.Server4)
	testkit.Wait(t, func() bool { return dial(t, w, address) < time.Second }, "a connection without a loss, in less than a second")
	lossy.Store(true)
	took := dial(t, w, address)
	if took < 900*time.Millisecond || took > time.Minute {
		t.Errorf("%v with the first SYN-ACK lost", took)
	}
	if s := w.Stats(); s.Dropped[wire.SYNACK] != 1 || len(s.Dropped) != 1 {
		t.Errorf("%+v", s)
	}
	server.Stop()
}

// TestAConnectionWhoseFinalACKIsLostIsHalfOpen: the client is connected and the
// server is not, which is what a launcher has to wait for.
func TestAConnectionWhoseFinalACKIsLostIsHalfOpen(t *testing.T) {
	testkit.Leaks(t)
	host, port := wire.Server4, 9090
	w := wire.New(t, wire.Options{Delay: 5 * time.Millisecond, Drop: func(p wire.Packet) bool {
		return p.Kind == wire.FinalACK && int(p.Target.Port()) == port
	}})
	server := testkit.NewTarget(t, "listen="+net.JoinHostPort(host, strconv.Itoa(port)))
	server.StartBy = w.ServerCommand
	server.Start()
	var c net.Conn
	testkit.Wait(t, func() (ok bool) {
		var err error
		c, err = w.Dial(t.Context(), "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		return err == nil
	}, "a connection over the wire")
	defer c.Close()
	halfOpen := func() int {
		count := 0
		if err := w.Server(func() error {
			table, err := os.ReadFile("/proc/thread-self/net/tcp")
			for line := range strings.Lines(string(table)) {
				// local address, remote address, state; 03 is TCP_SYN_RECV.
				if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && f[3] == "03" {
					count++
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return count
	}
	testkit.Wait(t, func() bool { return halfOpen() == 1 && w.Stats().Dropped[wire.FinalACK] > 0 }, "a half-open handshake")
	// Data carries the acknowledgement as well, and completes the handshake.
	if _, err := c.Write([]byte("GET /pid HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 {
		t.Fatal(err)
	}
	if n := halfOpen(); n != 0 {
		t.Errorf("%d half open after data", n)
	}
	server.Stop()
}

func TestLoseMakesTheSameChoicesForTheSameSeed(t *testing.T) {
	share := map[wire.Kind]float64{wire.SYNACK: 0.2, wire.FinalACK: 1}
	a, b, lost := wire.Lose(7, share), wire.Lose(7, share), 0
	for i := range 10_000 {
		p := wire.Packet{Kind: wire.SYNACK}
		switch i % 3 {
		case 1:
			p.Kind = wire.FinalACK
		case 2:
			p.Kind = wire.Data
		}
		first := a(p)
		if first != b(p) {
			t.Fatalf("packet %d: another choice", i)
		}
		if first != (p.Kind == wire.FinalACK) && p.Kind != wire.SYNACK {
			t.Fatalf("%s lost: %v", p.Kind, first)
		}
		if first && p.Kind == wire.SYNACK {
			lost++
		}
	}
	if lost < 550 || lost > 800 { // of 3,334: 667 expected
		t.Errorf("%d of 3,334 lost at 20 %%", lost)
	}
}

// TestTheTestsOwnNamespaceIsLeftAlone by making, using and ending a wire.
func TestTheTestsOwnNamespaceIsLeftAlone(t *testing.T) {
	interfaces := func() string {
		all, err := net.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(all)
	}
	before := interfaces()
	t.Run("wire", func(t *testing.T) {
		w := wire.New(t, wire.Options{Delay: time.Millisecond})
		for range 20 {
			if err := w.Server(func() error {
				if all, err := net.Interfaces(); err != nil || len(all) != 2 {
					return fmt.Errorf("%v at the server's end: %w", all, err)
				}
				// Its loopback works: what listens there can be reached there.
				l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				defer l.Close()
				c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", l.Addr().String())
				if err == nil {
					_ = c.Close()
				}
				return err
			}); err != nil {
				t.Error(err)
			}
			if now := interfaces(); now != before {
				t.Fatalf("interfaces %s, before %s", now, before)
			}
		}
	})
	if now := interfaces(); now != before {
		t.Errorf("interfaces %s, before %s", now, before)
	}
}

package load_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"baton/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// good is a stock net/http server with the handlers that the kinds ask for.
type good struct {
	target   load.Target
	requests atomic.Int64
}

func newGood(t *testing.T, network, address string) *good {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	g := &good{target: load.Target{Network: network, Address: l.Addr().String()}}
	server := &http.Server{Handler: g, ReadHeaderTimeout: time.Minute}
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(l) }) // ends with Shutdown, with ErrServerClosed
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	return g
}

func (g *good) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.requests.Add(1)
	w.Header().Set(load.HeaderPID, strconv.Itoa(os.Getpid()))
	w.Header().Set(load.HeaderGeneration, "3")
	switch r.URL.Path {
	case "/upload":
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%x", h.Sum(nil))
	case "/stream":
		w.Header().Set(load.HeaderPattern, "70000")
		for i := range 10 {
			_, _ = w.Write(load.Pattern(i*7000, 7000)) // the client tells
			_ = http.NewResponseController(w).Flush()  // likewise
		}
	default:
		w.Header().Set(load.HeaderPattern, "12")
		_, _ = w.Write(load.Pattern(0, 12)) // the client tells
	}
}

func TestAGoodServerLosesNothingAndSeesEachRequestOnce(t *testing.T) {
	for _, kind := range []load.Kind{load.Fresh, load.Slow, load.Stream, load.Upload, load.KeepAlive} {
		for _, network := range []string{"tcp4", "tcp6", "unix"} {
			t.Run(kind.String()+" "+network, func(t *testing.T) {
				t.Parallel()
				address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": filepath.Join(t.TempDir(), "s")}[network]
				s := newGood(t, network, address)
				o := load.Options{Targets: []load.Target{s.target}, Clients: 4, Kind: kind, UploadTime: 10 * time.Millisecond}
				got := drive(t, o, 60)
				if got.Lost != 0 || got.IdleClosed != 0 || got.Requests != int(s.requests.Load()) {
					t.Errorf("server saw %d: %v", s.requests.Load(), got)
				}
				if got.ByPID[strconv.Itoa(os.Getpid())] != got.Requests || got.ByGeneration["3"] != got.Requests {
					t.Errorf("%v %v of %d", got.ByPID, got.ByGeneration, got.Requests)
				}
				want := got.Requests
				if kind == load.KeepAlive {
					want = o.Clients
				}
				if got.Connections != want {
					t.Errorf("%d connections, not %d: %v", got.Connections, want, got)
				}
			})
		}
	}
}

func TestClientsAreDealtToTheTargetsInTurn(t *testing.T) {
	a, b := newGood(t, "tcp4", "127.0.0.1:0"), newGood(t, "tcp4", "127.0.0.1:0")
	got := drive(t, load.Options{Targets: []load.Target{a.target, b.target}, Clients: 4}, 100)
	if a.requests.Load() == 0 || b.requests.Load() == 0 || got.Requests != int(a.requests.Load()+b.requests.Load()) {
		t.Errorf("%d and %d: %v", a.requests.Load(), b.requests.Load(), got)
	}
}

func TestFreshConnectionsLeaveNothingInTimeWait(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc/net/tcp, which is Linux's")
	}
	s := newGood(t, "tcp4", "127.0.0.1:0")
	drive(t, load.Options{Targets: []load.Target{s.target}, Clients: 4}, 500)
	_, port, err := net.SplitHostPort(s.target.Address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "06" && strings.HasSuffix(f[1]+" "+f[2], fmt.Sprintf(":%04X", number)) {
				left++
			}
		}
		return left < 5 // where the server's close was the first to arrive
	}, "end of TIME_WAIT")
}

func TestEndOfTheContextAbandonsWhatIsUnderWay(t *testing.T) {
	release := make(chan struct{})
	s := newBad(t, func(peer) bool { <-release; return false })
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	r, err := load.Start(ctx, load.Options{Targets: []load.Target{s.target()}, Clients: 3})
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return s.requests.Load() == 3 }, "3 requests at the server")
	cancel()
	<-r.Done()
	if got := r.Stop(); got.Abandoned != 3 || got.Requests != 0 {
		t.Error(got)
	}
}

func TestStopWaitsForTheAnswersUnderWay(t *testing.T) {
	release := make(chan struct{})
	s := newBad(t, func(p peer) bool { <-release; return p.ok() && false })
	r, err := load.Start(t.Context(), load.Options{Targets: []load.Target{s.target()}, Clients: 3})
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return s.requests.Load() == 3 }, "3 requests at the server")
	stopped := make(chan load.Result)
	go func() { stopped <- r.Stop() }()
	select {
	case got := <-stopped:
		t.Fatalf("stopped before the answers: %v", got)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if got := <-stopped; got.Requests != 3 || got.Lost != 0 || got.Abandoned != 0 {
		t.Error(got)
	}
}

func TestLatencyDuringASwapIsToldFromSteady(t *testing.T) {
	const slow = 3 * time.Second // which no stall of the machine lasts
	var swapping atomic.Bool
	s := newBad(t, func(p peer) bool {
		if swapping.Load() {
			<-time.After(slow) // the server is slow during the swap
		}
		return p.ok() && false
	})
	r, err := load.Start(t.Context(), load.Options{Targets: []load.Target{s.target()}, Clients: 2, Window: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		await(t, func() bool {
			at := r.Result().Timeline
			return len(at) > 1 && at[len(at)-1].Ended > 0 && !at[len(at)-1].During
		}, "an interval of steady requests")
		r.Mark()
		swapping.Store(true)
		await(t, func() bool { return r.Result().During.Max() >= slow }, "a slow request")
		swapping.Store(false)
		before := r.Result()
		await(t, func() bool { return r.Result().During.Count() > before.During.Count()+20 }, "the last slow request")
		r.Settle()
	}
	got := r.Stop()
	if got.Swaps != 2 || got.Steady.Max() >= slow || got.During.Max() < slow {
		t.Errorf("%v: steady at most %v, during %v", got, got.Steady.Max(), got.During.Max())
	}
	ended, during := 0, 0
	for _, i := range got.Timeline {
		ended += i.Ended
		if i.During {
			during++
		}
	}
	if ended != got.Requests || during == 0 || during == len(got.Timeline) {
		t.Errorf("timeline has %d requests of %d, %d of %d intervals during a swap", ended, got.Requests, during, len(got.Timeline))
	}
}

func TestWithoutATargetNothingStarts(t *testing.T) {
	if _, err := load.Start(t.Context(), load.Options{}); err == nil {
		t.Error("no error")
	}
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

func TestAnIdleConnectionIsAnsweredWithCloseOnItsNextRequest(t *testing.T) {
	testkit.Leaks(t)
	a := serve(t, &Server{Idle: time.Minute}, listen(t))
	c := a.dial()
	c.expect("/1", false)
	c.expect("/2", false)
	a.drain()
	c.expect("/3", true)
	c.end()
	a.wait()
	a.gone()
}

func TestAConnectionThatWasAcceptedButNotReadIsAnswered(t *testing.T) {
	testkit.Leaks(t)
	a := serve(t, &Server{Idle: time.Minute}, listen(t))
	first, second := a.dial(), a.dial()
	first.expect("/1", false)
	a.drain()
	first.expect("/2", true)
	first.end()
	a.gone() // the listener is closed, and the accept loop has ended
	second.expect("/3", true)
	second.end()
	a.wait()
}

func TestARequestInFlightIsFinishedAndTheNextIsAnsweredWithClose(t *testing.T) {
	testkit.Leaks(t)
	a := serve(t, &Server{Idle: time.Minute}, listen(t))
	c := a.dial()
	c.send("/held")
	<-a.reached
	a.drain()
	a.gone()
	close(a.release)
	if c.receive("/held") {
		t.Error("an answer that began before the drain says Connection: close; the package's documentation has it otherwise")
	}
	c.expect("/next", true)
	c.end()
	a.wait()
}

// Connections that the kernel has accepted and the process has not are in its queue
// when the drain begins, and their requests are answered.
func TestWhatIsQueuedWhenTheDrainBeginsIsAnswered(t *testing.T) {
	testkit.Leaks(t)
	const queued = 50
	stuck, other := listen(t), listen(t)
	held, release := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	s := &Server{HTTP: &http.Server{}, Idle: time.Minute}
	s.HTTP.ConnContext = func(ctx context.Context, c net.Conn) context.Context { // in the accept loop
		if c.LocalAddr().String() == stuck.Addr().String() && once.CompareAndSwap(false, true) {
			close(held)
			<-release
		}
		return ctx
	}
	a := serve(t, s, stuck, other)
	var clients []*client
	for range queued {
		c := a.dial()
		c.send("/queued")
		clients = append(clients, c)
	}
	<-held
	witness := a.dialTo(other.Addr().String())
	witness.expect("/1", false)
	a.drain()
	close(release)
	for _, c := range clients {
		if !c.receive("/queued") {
			t.Error("an answer in a drain does not say Connection: close")
		}
		c.end()
	}
	witness.expect("/2", true)
	witness.end()
	a.wait()
}

func TestASilentConnectionIsClosedAfterItsTimeAndNotBefore(t *testing.T) {
	testkit.Leaks(t)
	const idle = 400 * time.Millisecond
	a := serve(t, &Server{Idle: idle}, listen(t))
	idler, mute := a.dial(), a.dial()
	idler.expect("/1", false)
	begin := time.Now()
	a.drain()
	idler.end()
	mute.end()
	if took := time.Since(begin); took < idle {
		t.Errorf("closed %v after the drain began, before the %v it was allowed", took, idle)
	}
	a.wait()
}

// Each answer up to the one that says close is whole, though more requests than the
// server will read are on their way: a reset would destroy it.
func TestAClientThatPipelinesGetsItsLastAnswerWhole(t *testing.T) {
	testkit.Leaks(t)
	const size = 100_000
	for range 20 {
		a := serve(t, &Server{}, listen(t))
		c := a.dial()
		c.expect("/1", false)
		writing := make(chan struct{})
		go func() { // ends when the server has closed
			defer close(writing)
			for {
				request := fmt.Sprintf("GET /?%d HTTP/1.1\r\nHost: baton.test\r\nX-Filling: %s\r\n\r\n", size, strings.Repeat("x", 1000))
				if _, err := io.WriteString(c, request); err != nil {
					return
				}
			}
		}()
		n := 0
		for last := false; !last; n++ {
			if n == 10 {
				a.stop()
			}
			resp, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Fatalf("answer %d: %v", n, err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || len(got) != size {
				t.Fatalf("answer %d: %d bytes of %d: %v", n, len(got), size, err)
			}
			resp.Body.Close()
			last = resp.Close
		}
		if n < 10 {
			t.Fatalf("the last of %d answers came before the drain", n)
		}
		c.end()
		c.Close()
		<-writing
		a.wait()
	}
}

// Generations follow each other on one socket, as in baton's shared mode. No client
// repeats anything.
func TestNothingIsLostOverManyDrains(t *testing.T) {
	testkit.Leaks(t)
	l := listen(t).(*net.TCPListener)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	next := func() *app {
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return serve(t, &Server{}, l)
	}
	now := next()
	l.Close() // the copies are accepted from, and only they
	target := []load.Target{{Network: "tcp", Address: now.address}}
	runs := map[string]*load.Runner{
		"fresh":                  begun(t, load.Options{Targets: target, Clients: 4, Path: "/?64", Pause: time.Millisecond}),
		"slow":                   begun(t, load.Options{Targets: target, Clients: 4, Path: "/slow?64"}),
		"keep-alive":             begun(t, load.Options{Targets: target, Clients: 4, Kind: load.KeepAlive, Path: "/?64"}),
		"keep-alive, with pause": begun(t, load.Options{Targets: target, Clients: 8, Kind: load.KeepAlive, Path: "/?64", Pause: 20 * time.Millisecond}),
		"keep-alive, slow":       begun(t, load.Options{Targets: target, Clients: 4, Kind: load.KeepAlive, Path: "/slow?64"}),
		"keep-alive, seldom":     begun(t, load.Options{Targets: target, Clients: 16, Kind: load.KeepAlive, Path: "/?64", Pause: 300 * time.Millisecond}),
	}
	var draining []*app
	for range 25 {
		old := now
		now = next()
		old.stop()
		if draining = append(draining, old); len(draining) > 3 {
			draining[0].wait()
			draining = draining[1:]
		}
	}
	for _, old := range draining {
		old.wait()
	}
	for name, r := range runs {
		got := r.Stop()
		none(t, name, got, 100)
		if strings.HasPrefix(name, "keep-alive") && got.Connections < 25 {
			t.Errorf("%s: %d connections over 25 drains: they were not on what drained", name, got.Connections)
		}
	}
}

func TestServeSaysReadyOnlyWhenEveryListenerIsAcceptedFrom(t *testing.T) {
	testkit.Leaks(t)
	ls := []net.Listener{listen(t), listen(t), listen(t)}
	var asked []string
	s := &Server{HTTP: &http.Server{Handler: http.NotFoundHandler()}}
	ctx, cancel := context.WithCancel(t.Context())
	s.HTTP.BaseContext = func(l net.Listener) context.Context {
		if l == ls[2] {
			asked = append(asked, "the last listener")
		}
		return ctx
	}
	s.Ready = func() error { asked = append(asked, "ready"); cancel(); return nil }
	if err := s.Serve(ctx, ls...); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(asked, ", "); got != "the last listener, ready" {
		t.Errorf("in this order: %s", got)
	}
}

func TestWhatGoesWrongEndsServeWithItsError(t *testing.T) {
	testkit.Leaks(t)
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		listeners []net.Listener
		ready     error
		after     func(*Server, net.Listener)
		want      string
	}{
		"no listener":             {want: "serve: no listener"},
		"a listener of its own":   {listeners: []net.Listener{struct{ net.Listener }{listen(t)}}, want: "cannot be drained"},
		"ready cannot be said":    {listeners: []net.Listener{listen(t)}, ready: broken, want: "broken"},
		"a listener is closed":    {listeners: []net.Listener{listen(t), listen(t)}, after: func(_ *Server, l net.Listener) { l.Close() }, want: "use of closed network connection"},
		"the server is shut down": {listeners: []net.Listener{listen(t)}, after: func(s *Server, _ net.Listener) { s.HTTP.Close() }, want: "Server closed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{HTTP: &http.Server{Handler: http.NotFoundHandler()}}
			s.Ready = func() error {
				if c.after != nil {
					c.after(s, c.listeners[0])
				}
				return c.ready
			}
			if err := s.Serve(t.Context(), c.listeners...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Serve: %v, want %q", err, c.want)
			}
		})
	}
}

// faulty cannot accept in a drain.
type faulty struct{ *net.TCPListener }

func (f faulty) Accept() (net.Conn, error) {
	if c, err := f.TCPListener.Accept(); err == nil {
		return c, nil
	}
	return nil, errors.New("broken in the drain")
}

func TestWhatGoesWrongInTheDrainIsTheErrorToo(t *testing.T) {
	testkit.Leaks(t)
	ctx, stop := context.WithCancel(t.Context())
	s := &Server{HTTP: &http.Server{}, Ready: func() error { stop(); return nil }}
	if err := s.Serve(ctx, listen(t), faulty{listen(t).(*net.TCPListener)}); err == nil || err.Error() != "broken in the drain" {
		t.Errorf("Serve: %v", err)
	}
}

func TestAHijackedConnectionIsTheHandlersAndIsToldOfTheDrain(t *testing.T) {
	testkit.Leaks(t)
	mux := http.NewServeMux()
	told := make(chan struct{})
	var a *app
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		draining := Draining(r.Context())
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n") // the client reads it
		go func() {                                                          // ends with the drain
			<-draining
			_, _ = io.WriteString(c, "bye") // as above
			c.Close()
			close(told)
		}()
	})
	a = serve(t, &Server{HTTP: &http.Server{Handler: mux}, Idle: time.Minute}, listen(t))
	c := a.dial()
	c.send("/ws")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	a.stop()
	a.wait()
	if rest, err := io.ReadAll(c.r); string(rest) != "bye" || err != nil {
		t.Fatalf("the last of the connection: %q %v", rest, err)
	}
	<-told
}

func TestTheUsersOwnHooksSeeWhatTheyWould(t *testing.T) {
	testkit.Leaks(t)
	l := listen(t)
	type key struct{}
	var mu sync.Mutex
	var states []http.ConnState
	srv := &http.Server{
		BaseContext: func(got net.Listener) context.Context {
			if got != l {
				t.Errorf("BaseContext was given a %T", got)
			}
			return context.Background()
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if _, ok := c.(*net.TCPConn); !ok {
				t.Errorf("ConnContext was given a %T", c)
			}
			return context.WithValue(ctx, key{}, "mine")
		},
		ConnState: func(_ net.Conn, s http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			states = append(states, s)
		},
	}
	draining := make(chan (<-chan struct{}), 2)
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		draining <- Draining(r.Context())
		fmt.Fprint(w, r.Context().Value(key{}))
	})
	a := serve(t, &Server{HTTP: srv}, l)
	c := a.dial()
	c.send("/")
	c.receive("mine")
	a.stop()
	<-<-draining
	c.send("/")
	c.receive("mine")
	c.end()
	a.wait()
	mu.Lock()
	defer mu.Unlock()
	if got, want := fmt.Sprint(states), "[new active idle active closed]"; got != want {
		t.Errorf("ConnState was told %s, want %s", got, want)
	}
}

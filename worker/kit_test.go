package worker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// app is a Serve under way, in this process.
type app struct {
	t       *testing.T
	address string
	stop    context.CancelFunc
	ended   chan error                      // Serve's
	begun   atomic.Pointer[<-chan struct{}] // Draining, as a handler has it
	release chan struct{}                   // lets /held answer
	reached chan string                     // what /held was asked
}

// listen opens a port of the test's own.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve begins to serve and returns when it is ready. Its end is awaited with the test's.
func serve(t *testing.T, s *Server, ln ...net.Listener) *app {
	t.Helper()
	a := &app{t: t, address: ln[0].Addr().String(), ended: make(chan error, 1), release: make(chan struct{}), reached: make(chan string, 100)}
	if s.HTTP == nil {
		s.HTTP = &http.Server{}
	}
	if s.HTTP.Handler == nil {
		s.HTTP.Handler = a
	}
	ready := make(chan struct{})
	s.Ready = func() error { close(ready); return nil }
	ctx, stop := context.WithCancel(t.Context())
	a.stop = stop
	go func() { // ends with stop
		a.ended <- s.Serve(ctx, ln...)
		close(a.ended)
	}()
	select {
	case <-ready:
	case err := <-a.ended:
		t.Fatalf("Serve: %v before it was ready", err)
	}
	t.Cleanup(func() { stop(); <-a.ended })
	return a
}

// ServeHTTP answers with the path; /held when it is released.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begun := Draining(r.Context())
	a.begun.Store(&begun)
	switch r.URL.Path {
	case "/held":
		a.reached <- r.URL.Path
		<-a.release
	case "/slow":
		<-time.After(30 * time.Millisecond) // the request takes this long
	}
	if r.URL.RawQuery != "" {
		if n, err := strconv.Atoi(r.URL.RawQuery); err == nil {
			w.Header().Set(load.HeaderPattern, r.URL.RawQuery)
			_, _ = w.Write(load.Pattern(0, n))
			return
		}
	}
	fmt.Fprint(w, r.URL.Path)
}

// drain begins one, and returns when it has begun. A request was answered before.
func (a *app) drain() {
	a.t.Helper()
	a.stop()
	select {
	case <-*a.begun.Load():
	case <-time.After(time.Minute):
		a.t.Fatal("no drain within a minute")
	}
}

// wait returns what Serve returned.
func (a *app) wait() {
	a.t.Helper()
	select {
	case err := <-a.ended:
		if err != nil {
			a.t.Fatalf("Serve: %v", err)
		}
	case <-time.After(time.Minute):
		a.t.Fatal("Serve has not returned within a minute")
	}
}

// client is a connection that never repeats anything.
type client struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func (a *app) dial() *client { a.t.Helper(); return a.dialTo(a.address) }

func (a *app) dialTo(address string) *client {
	a.t.Helper()
	c, err := (&net.Dialer{}).DialContext(a.t.Context(), "tcp", address)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		a.t.Fatal(err)
	}
	return &client{Conn: c, t: a.t, r: bufio.NewReader(c)}
}

// over is the same client on a layer over its connection.
func (c *client) over(conn net.Conn) *client {
	return &client{Conn: conn, t: c.t, r: bufio.NewReader(conn)}
}

func (c *client) send(path string) {
	c.t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: baton.test\r\n\r\n"); err != nil {
		c.t.Fatalf("asking for %s: %v", path, err)
	}
}

// receive reads the whole answer to path and tells whether it is the connection's last.
func (c *client) receive(path string) (last bool) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("the answer to %s: %v", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != path {
		c.t.Fatalf("the answer to %s: %s %.100q %v", path, resp.Status, body, err)
	}
	return resp.Close
}

// expect asks and wants an answer that ends the connection, or one that does not.
func (c *client) expect(path string, last bool) {
	c.t.Helper()
	c.send(path)
	if got := c.receive(path); got != last {
		c.t.Fatalf("the answer to %s: Connection: close is %v, want %v", path, got, last)
	}
}

// end wants the connection to have been closed in order, with nothing more on it.
func (c *client) end() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("at the connection's end: %.100q, %v", rest, err)
	}
	c.Close()
}

// begun starts load that ends with the test at the latest.
func begun(t *testing.T, o load.Options) *load.Runner {
	t.Helper()
	r, err := load.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Stop() })
	return r
}

// none wants every request answered, and no kept connection closed but by an answer
// that says so: whether a request was on its way is the client's luck.
func none(t *testing.T, what string, r load.Result, least int) {
	t.Helper()
	t.Logf("%s: %v", what, r)
	if r.Lost+r.IdleClosed > 0 || r.Answered() < least {
		t.Errorf("%s: %v; want at least %d and none lost, no connection closed while idle", what, r, least)
	}
}

// gone wants nobody to listen any more.
func (a *app) gone() {
	a.t.Helper()
	_, port, err := net.SplitHostPort(a.address)
	if err != nil {
		a.t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		a.t.Fatal(err)
	}
	testkit.Wait(a.t, func() bool { return !testkit.Listening(a.t, n) }, a.address+" not to be listened on")
}

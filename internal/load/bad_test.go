package load_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"baton/internal/load"
)

// body is what the servers of these tests answer with.
const body = "twelve bytes"

// peer is a connection at its server, and a request read from it.
type peer struct {
	*net.TCPConn
	request *http.Request
	nth     int // of the server's requests, from 1
	onConn  int // of the connection's requests, from 1
}

// reset makes the close of the connection send RST (SO_LINGER of 0).
func (p peer) reset() { _ = p.SetLinger(0) }

func (p peer) ok() bool {
	_, err := fmt.Fprintf(p, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s: 7\r\n\r\n%s", len(body), load.HeaderPID, body)
	return err == nil
}

// bad is a server written by hand, so that it can do what net/http never does.
type bad struct {
	t        *testing.T
	listener net.Listener
	answer   func(peer) bool // false closes the connection
	requests atomic.Int64
	conns    atomic.Int64
	all      sync.WaitGroup
}

func newBad(t *testing.T, answer func(peer) bool) *bad {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bad{t: t, listener: l, answer: answer}
	b.all.Go(b.accept)
	t.Cleanup(func() {
		_ = l.Close() // ends accept; an error would leave it, and the wait, hanging
		b.all.Wait()
	})
	return b
}

func (b *bad) target() load.Target {
	return load.Target{Network: "tcp", Address: b.listener.Addr().String()}
}

func (b *bad) accept() {
	for {
		c, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.conns.Add(1)
		b.all.Go(func() { b.serve(c.(*net.TCPConn)) })
	}
}

func (b *bad) serve(c *net.TCPConn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for i := 1; ; i++ {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
		if !b.answer(peer{c, request, int(b.requests.Add(1)), i}) {
			return
		}
	}
}

// drive runs o until enough requests have ended, and stops.
func drive(t *testing.T, o load.Options, enough int) load.Result {
	t.Helper()
	r, err := load.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		now := r.Result()
		return now.Requests+now.IdleClosed >= enough
	}, fmt.Sprintf("%d requests", enough))
	return r.Stop()
}

// await polls until done holds, for at most a minute.
func await(t *testing.T, done func() bool, what string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("no %s within a minute", what)
		}
	}
}

// TestEveryTenthRequestLostIsCounted holds the count against the server's own,
// for each way in which a server can lose a request.
func TestEveryTenthRequestLostIsCounted(t *testing.T) {
	write := func(s string) func(peer) { return func(p peer) { _, _ = io.WriteString(p, s) } }
	framed := "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, c := range map[string]struct {
		reason load.Reason
		lose   func(peer)
	}{
		"reset before a byte":       {load.Reset, peer.reset},
		"closed before a byte":      {load.EOF, func(peer) {}},
		"closed within the head":    {load.Truncated, write("HTTP/1.1 200 OK\r\nConte")},
		"closed within the body":    {load.Truncated, write(framed + "twelve by")},
		"reset within the body":     {load.Truncated, func(p peer) { write(framed + "twelve by")(p); p.reset() }},
		"closed within a chunk":     {load.Truncated, write(chunked + "c\r\ntwelve b")},
		"closed before last chunk":  {load.Truncated, write(chunked + "c\r\n" + body + "\r\n")},
		"closed without framing":    {load.Truncated, write("HTTP/1.1 200 OK\r\n\r\ntwelve")},
		"one byte wrong":            {load.Content, write(framed + "twelve bites")},
		"right framing, too short":  {load.Content, write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntwelve")},
		"right framing, too long":   {load.Content, write("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\ntwelve bytes!")},
		"a byte of zero too many":   {load.Content, write("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\ntwelve bytes\x00")},
		"refused with a status":     {load.Status, write("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno")},
		"another protocol":          {load.Malformed, write("SSH-2.0-OpenSSH_9.9\r\n\r\n")},
		"chunks that are no chunks": {load.Malformed, write(chunked + "what is this?\r\n")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var lost atomic.Int64
			s := newBad(t, func(p peer) bool {
				if p.nth%10 != 0 {
					return p.ok()
				}
				lost.Add(1)
				c.lose(p)
				return false
			})
			got := drive(t, load.Options{Targets: []load.Target{s.target()}, Clients: 4, Expect: []byte(body)}, 200)
			if got.Lost != int(lost.Load()) || got.Reasons[c.reason] != got.Lost || got.Lost == 0 {
				t.Errorf("server lost %d; counted %v", lost.Load(), got)
			}
			if got.Requests != int(s.requests.Load()) || got.Requests != int(s.conns.Load()) {
				t.Errorf("server saw %d requests on %d connections; counted %v", s.requests.Load(), s.conns.Load(), got)
			}
			if got.Answered() != got.ByPID["7"] || got.All().Count() != got.Answered() {
				t.Errorf("%d answered, %v by pid, %d latencies", got.Answered(), got.ByPID, got.All().Count())
			}
			if n := len(got.Examples); n != min(got.Lost, 20) || got.Examples[0].Reason != c.reason || got.Examples[0].At.IsZero() {
				t.Errorf("%d examples of %d lost, the first %v", n, got.Lost, got.Examples)
			}
		})
	}
}

func TestAResponseWhoseEndCannotBeToldIsNotTakenForWhole(t *testing.T) {
	s := newBad(t, func(p peer) bool {
		_, _ = io.WriteString(p, "HTTP/1.1 200 OK\r\n\r\n"+body)
		return false
	})
	o := load.Options{Targets: []load.Target{s.target()}}
	if got := drive(t, o, 5); got.Reasons[load.Malformed] != got.Requests {
		t.Errorf("nothing known of the content: %v", got)
	}
	o.Expect = []byte(body)
	if got := drive(t, o, 5); got.Lost != 0 {
		t.Errorf("content known: %v", got)
	}
}

func TestAnAnswerThatNeverComesIsATimeout(t *testing.T) {
	release := make(chan struct{})
	s := newBad(t, func(peer) bool { <-release; return false })
	t.Cleanup(func() { close(release) })
	got := drive(t, load.Options{Targets: []load.Target{s.target()}, Clients: 2, Timeout: 60 * time.Millisecond}, 4)
	if got.Reasons[load.Timeout] != got.Lost || got.Lost < 4 {
		t.Error(got)
	}
}

func TestAPortOrPathThatNobodyListensOnIsRefused(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, target := range []load.Target{{"tcp", closed}, {"unix", t.TempDir() + "/none"}} {
		got := drive(t, load.Options{Targets: []load.Target{target}, Clients: 2}, 6)
		if got.Reasons[load.Refused] != got.Requests || got.Requests < 6 {
			t.Errorf("%v: %v", target, got)
		}
	}
}

func TestUploadAnsweredWithAnotherDigestIsLost(t *testing.T) {
	s := newBad(t, func(p peer) bool {
		_, _ = fmt.Fprintf(p, "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n%064d", 0)
		return false
	})
	o := load.Options{Targets: []load.Target{s.target()}, Kind: load.Upload, UploadTime: time.Millisecond}
	if got := drive(t, o, 4); got.Reasons[load.Content] != got.Requests {
		t.Error(got)
	}
}

func TestAnUploadCutShortIsLost(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() { // ends when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, 1000))
			_ = c.Close()
		}
	})
	o := load.Options{Targets: []load.Target{{"tcp", l.Addr().String()}}, Kind: load.Upload, UploadTime: 20 * time.Millisecond}
	got := drive(t, o, 4)
	_ = l.Close()
	all.Wait()
	if got.Reasons[load.Reset]+got.Reasons[load.EOF] != got.Requests {
		t.Error(got)
	}
}

func TestClosedBetweenTwoRequestsIsCountedApart(t *testing.T) {
	s := newBad(t, func(p peer) bool { return p.ok() && p.onConn%5 != 0 })
	o := load.Options{Targets: []load.Target{s.target()}, Clients: 3, Kind: load.KeepAlive, Pause: 2 * time.Millisecond}
	got := drive(t, o, 100)
	if got.Lost != 0 || got.IdleClean == 0 || got.IdleClosed != got.IdleClean+got.IdleRaced {
		t.Error(got)
	}
	// Each connection but the last of each client was closed by the server.
	if least := got.Connections - o.Clients; got.IdleClosed < least || got.IdleClosed > got.Connections {
		t.Errorf("%d connections: %v", got.Connections, got)
	}
	if got.Requests != int(s.requests.Load()) {
		t.Errorf("server answered %d: %v", s.requests.Load(), got)
	}
}

func TestClosedAsTheNextRequestArrivesIsCountedApart(t *testing.T) {
	for name, reset := range map[string]bool{"closed": false, "reset": true} {
		t.Run(name, func(t *testing.T) {
			s := newBad(t, func(p peer) bool {
				if p.onConn%5 != 0 {
					return p.ok()
				}
				if reset {
					p.reset()
				}
				return false
			})
			o := load.Options{Targets: []load.Target{s.target()}, Clients: 3, Kind: load.KeepAlive, RaceWindow: 10 * time.Second}
			got := drive(t, o, 100)
			if got.Lost != 0 || got.IdleRaced < 10 || got.IdleClean != 0 {
				t.Error(got)
			}
			if got.Requests+got.IdleRaced != int(s.requests.Load()) {
				t.Errorf("server saw %d: %v", s.requests.Load(), got)
			}
		})
	}
}

// TestARequestThatWasWorkedOnAndThenDroppedIsLostOnAKeptConnectionToo, also where
// connecting took its time, by which the network's share is measured.
func TestARequestThatWasWorkedOnAndThenDroppedIsLostOnAKeptConnectionToo(t *testing.T) {
	for name, connecting := range map[string]time.Duration{"at once": 0, "after a slow connect": 600 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var dropped atomic.Int64
			s := newBad(t, func(p peer) bool {
				if p.onConn%5 != 0 {
					return p.ok()
				}
				dropped.Add(1)
				<-time.After(2 * time.Second) // the server works
				return false
			})
			o := load.Options{Targets: []load.Target{s.target()}, Clients: 4, Kind: load.KeepAlive,
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					<-time.After(connecting) // the network is slow
					return (&net.Dialer{}).DialContext(ctx, network, address)
				}}
			got := drive(t, o, 20)
			if got.IdleClosed != 0 || got.Lost == 0 || got.Lost != int(dropped.Load()) || got.Reasons[load.EOF] != got.Lost {
				t.Errorf("server dropped %d: %v", dropped.Load(), got)
			}
		})
	}
}

func TestTheFirstRequestOfAKeptConnectionHasNoExcuse(t *testing.T) {
	s := newBad(t, func(peer) bool { return false })
	got := drive(t, load.Options{Targets: []load.Target{s.target()}, Kind: load.KeepAlive}, 10)
	if got.IdleClosed != 0 || got.Reasons[load.EOF] != got.Requests {
		t.Error(got)
	}
}

func TestConnectionCloseIsObeyed(t *testing.T) {
	s := newBad(t, func(p peer) bool {
		_, _ = fmt.Fprintf(p, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		return false
	})
	got := drive(t, load.Options{Targets: []load.Target{s.target()}, Kind: load.KeepAlive, Expect: []byte(body)}, 20)
	if got.Lost != 0 || got.IdleClosed != 0 || got.Connections != got.Requests {
		t.Error(got)
	}
}

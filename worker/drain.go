package worker

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// drain knows every connection of a server, from the accept to its end, and ends
// them politely once it has begun.
type drain struct {
	next  http.Handler
	idle  time.Duration
	since time.Time     // when it began; set before began is closed
	began chan struct{} // closed
	conns sync.Map      // net.Conn, as net/http has it, to *conn
}

// conn is one connection. net/http calls its hooks and handlers one after another.
type conn struct {
	net.Conn
	drain *drain
	state atomic.Int32 // http.ConnState
	since atomic.Int64 // of the state, where it began within a drain: Unix time, ns
	h2    atomic.Bool
	tail  *os.File // see linger
	ended bool     // by wait, for its silence
}

type connKey struct{}

// Draining is closed when the [Serve] that a request came by begins to drain: for
// handlers that answer for as long as the client listens, or have hijacked its
// connection. ctx is the request's; for any other the channel is nil, never closed.
func Draining(ctx context.Context) <-chan struct{} {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.drain.began
	}
	return nil
}

// newDrain puts itself between the server and what the user has set.
func newDrain(srv *http.Server, idle time.Duration) *drain {
	d := &drain{next: srv.Handler, idle: idle, began: make(chan struct{})}
	if d.next == nil {
		d.next = http.DefaultServeMux
	}
	if d.idle <= 0 {
		d.idle = idleDefault
	}
	srv.Handler = d
	if base := srv.BaseContext; base != nil {
		srv.BaseContext = func(l net.Listener) context.Context {
			if q, ok := l.(*queue); ok {
				l = q.Listener // as the user knows it
			}
			return base(l)
		}
	}
	user := srv.ConnContext
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if user != nil {
			ctx = user(ctx, c)
		}
		return context.WithValue(ctx, connKey{}, d.open(c))
	}
	hook := srv.ConnState
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		if hook != nil {
			hook(c, state)
		}
		if known, ok := d.conns.Load(c); ok {
			known.(*conn).enter(state)
		}
	}
	return d
}

// open is called in the accept loop: when that has ended, every connection is known.
func (d *drain) open(c net.Conn) *conn {
	t := &conn{Conn: c, drain: d}
	t.enter(http.StateNew)
	d.conns.Store(c, t)
	return t
}

// enter notes a connection's new state.
func (t *conn) enter(state http.ConnState) {
	if t.drain.draining() {
		t.since.Store(time.Now().UnixNano())
	}
	if state == http.StateActive && http.ConnState(t.state.Load()) == http.StateNew {
		// The handshake is over, so that ConnectionState does not wait for it.
		if c, ok := t.Conn.(*tls.Conn); ok {
			t.h2.Store(c.ConnectionState().NegotiatedProtocol == "h2")
		}
	}
	t.state.Store(int32(state))
	if state == http.StateClosed || state == http.StateHijacked {
		t.gone(state)
	}
}

// ServeHTTP asks a client whose connection would stay open to open another one.
func (d *drain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, known := r.Context().Value(connKey{}).(*conn)
	if known && r.ProtoMajor == 2 && !t.h2.Load() {
		t.h2.Store(true) // without TLS, only its first request tells
	}
	switch {
	case !d.draining() || r.Close:
		d.next.ServeHTTP(w, r)
	case r.ProtoMajor == 1:
		if known {
			t.hold()
		}
		last := &answer{ResponseWriter: w}
		d.next.ServeHTTP(last, r)
		last.last() // where nothing was written, net/http writes the header now
	default:
		w.Header().Set("Connection", "close") // net/http sends GOAWAY for it
		d.next.ServeHTTP(w, r)
	}
}

func (d *drain) begin() {
	d.since = time.Now()
	close(d.began)
}

func (d *drain) draining() bool {
	select {
	case <-d.began:
		return true
	default:
		return false
	}
}

// look is how often wait looks at the connections.
const look = 10 * time.Millisecond

// wait returns when no connection is open but those that Shutdown ends without loss:
// of HTTP/2, which has a message for it. No new one can come.
func (d *drain) wait() {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		open, now := 0, time.Now()
		for _, v := range d.conns.Range {
			t := v.(*conn)
			if t.h2.Load() {
				continue
			}
			open++
			if !t.ended && t.silent(now) {
				t.ended = true
				go t.Close() // ends within 5 s, which is what TLS waits for its last word
			}
		}
		if open == 0 {
			return
		}
		<-tick.C
	}
}

// silent tells whether nothing has come for too long.
func (t *conn) silent(now time.Time) bool {
	state := http.ConnState(t.state.Load())
	if state != http.StateNew && state != http.StateIdle {
		return false
	}
	since := t.drain.since
	if s := time.Unix(0, t.since.Load()); s.After(since) {
		since = s
	}
	return now.Sub(since) >= t.drain.idle
}

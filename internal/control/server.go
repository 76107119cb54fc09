package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// What one peer, or many, may take of a launcher.
const (
	maxConns   = 32      // connections at a time
	maxWaits   = 24      // of them, requests that wait for a verdict, for events or for the end
	maxReaders = 12      // of these, streams of events
	maxCalls   = 64      // calls of the engine that have no answer yet
	maxHeader  = 4 << 10 // bytes of a request; net/http adds 4 KiB of its own

	headerTime = 5 * time.Second  // from the first byte of a request to its last
	idleTime   = 30 * time.Second // between requests
	writeTime  = 5 * time.Second  // of a response
	engineTime = 10 * time.Second // for an answer of the engine that needs no waiting
	leaveTime  = time.Second      // for responses under way when the launcher ends
	lastTime   = leaveTime / 2    // of them, for the last events
)

// Server answers on one control socket. Make it with New.
type Server struct {
	engine  Engine
	o       Options
	feed    *Feed
	http    http.Server
	waits   chan struct{} // holds one for each request that waits
	readers chan struct{} // holds one for each of them that is a stream of events
	calls   chan struct{} // holds one for each call of the engine
	quiet   chan struct{} // closed when Leave need not wait any more

	mu     sync.Mutex
	group  int // whose members are let in; -1: none
	guests map[*guest]struct{}
	due    int // requests that will have their whole response soon, or with the engine's end
	door   net.Listener
	shut   bool
}

// Options are what a Server has besides its engine.
type Options struct {
	Log *slog.Logger
	// Events is what the engine's events are added to; nil: there are none.
	Events *Feed
	// Reopen opens the files of the workers' output again, after somebody moved them;
	// Flush empties them. Either is nil where no output is kept.
	Reopen, Flush func() error
	// Upgrade begins to replace the launcher by the program that lies where this one did,
	// and returns; failed, which it may call from any goroutine, is told why that was
	// not done. nil: it cannot be done.
	Upgrade func(failed func(error))
}

// New returns a Server of an engine. It lets in root and the user of this process,
// and with Admit a group.
func New(e Engine, o Options) *Server {
	s := &Server{
		engine: e, o: o, feed: o.Events, group: -1, guests: make(map[*guest]struct{}),
		waits: make(chan struct{}, maxWaits), readers: make(chan struct{}, maxReaders),
		calls: make(chan struct{}, maxCalls), quiet: make(chan struct{}),
	}
	if s.feed == nil {
		s.feed = &Feed{}
	}
	var one http.Protocols
	one.SetHTTP1(true)
	s.http = http.Server{
		Handler: http.HandlerFunc(s.handle), Protocols: &one,
		ReadTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog:    slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, guestKey{}, c) },
	}
	return s
}

type guestKey struct{}

// Serve answers until Leave or Close; then it returns nil. l is closed by then.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.door = l
	shut := s.shut
	s.mu.Unlock()
	if shut {
		return l.Close()
	}
	err := s.http.Serve(door{l, s})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Leave takes no new connection, and returns when every request but those that wait
// for the launcher's end has its response, soon after the engine's end. It is for a
// process that ends next: these last ones learn of that by the end of their
// connections, which is the kernel's doing and so cannot come early.
func (s *Server) Leave() {
	s.mu.Lock()
	first, l := !s.shut, s.door
	s.shut = true
	if first && s.due == 0 {
		close(s.quiet)
	}
	s.mu.Unlock()
	if first && l != nil {
		_ = l.Close() // there is nothing to be lost in it
	}
	select {
	case <-s.quiet:
	case <-time.After(leaveTime):
	}
}

// owe counts a response that is due; paid says that it has been sent, and may be
// called again.
func (s *Server) owe() (paid func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.due--; s.due == 0 && s.shut && !isClosed(s.quiet) {
			close(s.quiet)
		}
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Close is Leave, and the end of every connection.
func (s *Server) Close() {
	s.Leave()
	_ = s.http.Close() // the listener is closed already
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.guests {
		_ = g.Conn.Close() // nothing is owed any more
	}
}

// door is the socket as net/http sees it: only those come through who may.
type door struct {
	net.Listener
	s *Server
}

func (d door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err // net/http waits and asks again where that helps
		}
		if g := d.s.admit(c); g != nil {
			return g, nil
		}
		_ = c.Close() // not let in, or told that there is no room
	}
}

// admit lets a connection in, or returns nil.
func (s *Server) admit(c net.Conn) *guest {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	switch uid, may, err := s.knows(u); {
	case err != nil:
		s.o.Log.Warn("control socket: a peer is refused", "reason", err.Error())
		return nil
	case !may:
		s.o.Log.Warn("control socket: a peer is refused, being neither root nor the launcher's user, nor of its control.group", "uid", uid)
		return nil
	}
	g := &guest{Conn: c, s: s, since: time.Now()}
	if !s.seat(g) {
		// A fresh socket takes these few bytes at once.
		_ = c.SetWriteDeadline(time.Now().Add(writeTime))
		_, _ = io.WriteString(c, full) // to one who may not read it
		return nil
	}
	return g
}

// Admit lets in the members of a group from now on, instead of another one's; -1:
// none. Who is in stays.
func (s *Server) Admit(gid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.group = gid
}

// knows tells who is at the other end, and whether he may be.
func (s *Server) knows(c *net.UnixConn) (uid int, may bool, err error) {
	uid, gid, err := peer(c)
	if err != nil || uid == 0 || uid == os.Geteuid() {
		return uid, err == nil, err
	}
	s.mu.Lock()
	group := s.group
	s.mu.Unlock()
	if group < 0 || gid == group {
		return uid, group >= 0, nil
	}
	others, err := peerGroups(c)
	return uid, slices.Contains(others, group), err
}

const full = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\n" +
	"Content-Length: 33\r\n\r\n" + `{"error":"too many connections"}` + "\n"

// seat finds room for a connection. When there is none, the one that has said
// nothing, or not all, for longest makes way; those whose request is being answered
// stay.
func (s *Server) seat(g *guest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.guests) >= maxConns {
		var oldest *guest
		for g := range s.guests {
			if !g.busy && (oldest == nil || g.since.Before(oldest.since)) {
				oldest = g
			}
		}
		if oldest == nil {
			return false
		}
		delete(s.guests, oldest)
		_ = oldest.Conn.Close() // it had its time
	}
	s.guests[g] = struct{}{}
	return true
}

// guest is one connection.
type guest struct {
	net.Conn
	s *Server

	// Under s.mu.
	since time.Time // of its being idle
	busy  bool      // a request of it is being answered
}

func (g *guest) Close() error {
	g.s.mu.Lock()
	delete(g.s.guests, g)
	g.s.mu.Unlock()
	return g.Conn.Close()
}

func (g *guest) setBusy(busy bool) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	g.busy, g.since = busy, time.Now()
}

package worker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"
)

// Server serves as [Serve] does, with settings of its own.
type Server struct {
	// HTTP is the server, with its handler and time limits; required.
	HTTP *http.Server
	// Idle is how long a drain leaves a connection open on which nothing happens,
	// from the beginning of the drain or of its idleness; 0 is 5 s. A client whose
	// next request is later than this, and whose own limit on idle connections is
	// longer, may still write it to a connection that is being closed.
	Idle time.Duration
	// Ready is called once every listener is accepted from; an error ends Serve. Nil
	// is the package's Ready. A program with two Servers gives each its own, and says
	// ready when both are.
	Ready func() error
}

const idleDefault = 5 * time.Second

// Serve serves HTTP on the listeners, says ready once all of them are accepted from,
// and when ctx ends or the process gets TERM drains and returns nil:
//
//   - What waits in the accept queues is accepted. A listener is closed when nothing
//     has come for 0.1 s, after 1 s at the latest. Until then new connections are
//     served as well; it is the launcher that sends them elsewhere.
//   - Requests in flight are finished, however long they take. It is the launcher that
//     sets a limit (drain_timeout in baton, TimeoutStopSec= in systemd).
//   - Every open connection is left open until its next request, which is answered with
//     "Connection: close". A response that was begun before the drain does not carry
//     it: the one after it does. Requests that a client has pipelined behind the one
//     that is answered so are not processed, as RFC 9112 section 9.6 has it, and the
//     answer reaches the client whole. What a handler sets as Connection is overruled,
//     unless it answers 101 or hijacks: an upgrade is one when it is answered so.
//   - A connection that stays silent, new or idle, is closed after 5 s: see [Server].
//   - HTTP/2 connections get a GOAWAY at the end, by http.Server.Shutdown, and finish
//     their streams; Shutdown also runs what RegisterOnShutdown has registered.
//   - Connections that a handler has hijacked, WebSockets among them, are the handler's.
//     Serve does not wait for them: [Draining] tells them, and main waits.
//
// This differs from http.Server.Shutdown alone, which closes idle connections under a
// client that is just writing, and connections that were accepted but not yet read,
// without an answer.
//
// With certificates in srv.TLSConfig it serves TLS, as srv.ServeTLS(l, "", "") does.
// The listeners must have SetDeadline, as net's own have; they are closed when Serve
// returns. Serve takes srv over: Handler, ConnState, ConnContext and BaseContext are
// wrapped, and srv cannot be used again.
//
// The first error of accepting, of saying ready, or of Shutdown is returned, after a
// drain; that nobody hears of the drain itself (see [Stopping]) is none. TERM is caught from the call of Serve until it returns; a second one changes
// nothing.
func Serve(ctx context.Context, srv *http.Server, ln ...net.Listener) error {
	return (&Server{HTTP: srv}).Serve(ctx, ln...)
}

// Serve is [Serve] with the server's settings. It can be called once.
func (s *Server) Serve(ctx context.Context, ln ...net.Listener) error {
	if len(ln) == 0 {
		return errors.New("serve: no listener")
	}
	r := &run{server: s, ended: make(chan error, len(ln))}
	for _, l := range ln {
		q, err := newQueue(l)
		if err != nil {
			return err
		}
		r.queues = append(r.queues, q)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	if c := s.HTTP.TLSConfig; c != nil {
		r.tls = len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil
	}
	r.drain = newDrain(s.HTTP, s.Idle)
	for _, q := range r.queues {
		r.loops++
		go func() { r.ended <- r.accept(q) }() // ends with its queue, which end sees to
	}
	err := r.serve(ctx)
	return r.end(err)
}

// run is one call of Serve.
type run struct {
	server *Server
	drain  *drain
	tls    bool // as http.Server.ServeTLS decides it
	queues []*queue
	loops  int        // accept loops that were not yet heard of in ended
	ended  chan error // how each ended
}

// accept is net/http's accept loop. It ends by itself only with an error.
func (r *run) accept(q *queue) error {
	var err error
	if r.tls {
		err = r.server.HTTP.ServeTLS(q, "", "")
	} else {
		err = r.server.HTTP.Serve(q)
	}
	if errors.Is(err, errEmpty) {
		return nil
	}
	return err
}

// serve returns when the drain is to begin, with an error when that is the reason.
func (r *run) serve(ctx context.Context) error {
	for _, q := range r.queues {
		select {
		case <-q.accepting:
		case err := <-r.ended:
			r.loops--
			return err
		case <-ctx.Done():
			return nil
		}
	}
	ready := r.server.Ready
	if ready == nil {
		ready = Ready
	}
	if err := ready(); err != nil {
		return err
	}
	select {
	case err := <-r.ended:
		r.loops--
		return err
	case <-ctx.Done():
		return nil
	}
}

// end drains, and returns the first error of the whole run.
func (r *run) end(first error) error {
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	// Its error is not the run's: the drain needs nobody to hear this, a launcher that
	// is gone has nothing left to steer, and one that is there learns of the end by the
	// process's exit all the same.
	_ = Stopping()
	r.drain.begin()
	for _, q := range r.queues {
		if q.finish() != nil { // it is closed already, or else no accept is to wait in it
			q.Close()
		}
	}
	for ; r.loops > 0; r.loops-- {
		note(<-r.ended)
	}
	r.drain.wait()
	note(r.server.HTTP.Shutdown(context.Background()))
	return first
}

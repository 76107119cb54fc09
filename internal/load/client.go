package load

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// client sends one request after another.
type client struct {
	runner *Runner
	target Target
	number int // requests begun

	mu     sync.Mutex // guards result, which Runner.Result reads during the run
	result Result

	kept *connection // KeepAlive's, between two requests
}

// connection is one to the server, and what was seen on it.
type connection struct {
	net.Conn
	reader *bufio.Reader
	got    int           // bytes received since the last request was begun
	end    error         // of the last read, when that failed
	served int           // requests answered in full
	dialed time.Duration // how long connecting took: one round trip
}

func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.got, c.end = c.got+n, err
	return n, err
}

// discard closes at once. A TCP connection is reset, so that neither end is
// left in TIME_WAIT and a long run does not use up the ephemeral ports; it is
// called when the answer was read in full, or when nothing more is expected.
func (c *connection) discard() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // only makes the close below an orderly one
	}
	_ = c.Close() // nothing that is still wanted is lost with it
}

func newClient(r *Runner, i int) *client {
	return &client{runner: r, target: r.options.Targets[i%len(r.options.Targets)], result: newResult()}
}

// run sends until running ends; ctx, when it ends, drops the one under way.
func (c *client) run(ctx, running context.Context) {
	defer func() {
		if c.kept != nil {
			c.kept.discard()
		}
	}()
	for running.Err() == nil {
		pause := c.runner.options.Pause
		if !c.once(ctx) {
			pause = max(pause, lostPause)
		}
		rest(running, pause)
	}
}

// lostPause follows a lost request, so that clients of a server that is gone do
// not take the processor from the one that is to come.
const lostPause = time.Millisecond

func rest(running context.Context, pause time.Duration) {
	if pause <= 0 {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-running.Done():
	}
}

// once makes one request, counts it, and tells whether it was not lost.
func (c *client) once(ctx context.Context) bool {
	r := c.runner
	c.checkKept()
	begin := time.Since(r.began)
	swaps, open := r.swaps.at(begin)
	a, conn, err := c.exchange(ctx)
	end := time.Since(r.began)
	later, _ := r.swaps.at(end)
	during := open || later != swaps

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.result.answered(a, end, end-begin, during)
	case ctx.Err() != nil && (isTimeout(err) || errors.Is(err, context.Canceled)):
		c.result.Abandoned++
	case conn != nil && conn.closedIdle(err, end-begin, r.options.RaceWindow):
		c.result.IdleRaced++
	default:
		loss := Loss{At: r.began.Add(end), After: end, Took: end - begin, Target: c.target, During: during,
			Reason: reason(err, conn), Detail: err.Error()}
		if conn != nil {
			loss.Local = conn.LocalAddr().String()
		}
		c.result.lost(loss)
		return false
	}
	return true
}

// checkKept drops a kept connection that the server closed since its last
// answer, before a request is wasted on it.
func (c *client) checkKept() {
	if c.kept == nil || !peerClosed(c.kept.Conn) {
		return
	}
	c.kept.discard()
	c.kept = nil
	c.mu.Lock()
	c.result.IdleClean++
	c.mu.Unlock()
}

// closedIdle tells whether err, the end of a request that took so long, is the
// server closing a connection that it held to be idle: the connection had
// answered before, nothing came in answer to this request, and the end came as
// fast as the network allows. A server that took the request, worked on it and
// then dropped it lost it, however often the connection had been used.
func (c *connection) closedIdle(err error, took, window time.Duration) bool {
	if c.served == 0 || c.got > 0 || took > window+min(4*c.dialed, slowestNetwork) {
		return false
	}
	kind := reason(err, c)
	return kind == EOF || kind == Reset
}

const (
	// raceWindow allows for the scheduling of both ends on a busy machine.
	raceWindow = 50 * time.Millisecond
	// slowestNetwork bounds what one slow connect, which a stall may have been as
	// well, excuses on its connection from then on.
	slowestNetwork = time.Second
)

// exchange sends one request and reads its answer, within Options.Timeout. The
// connection is returned with an error too, for what was seen on it, and is
// closed unless it was kept.
func (c *client) exchange(ctx context.Context) (*answer, *connection, error) {
	o := &c.runner.options
	deadline := time.Now().Add(o.Timeout)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	// The deadline stands for Timeout, and for ctx when that is cancelled.
	if err := conn.SetDeadline(deadline); err != nil {
		conn.discard()
		return nil, conn, err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails only when closed, which ends the request as well
	})
	defer stop()

	c.number++
	a, err := o.converse(ctx, conn, c.number)
	if err == nil && o.Kind == KeepAlive && !a.last && conn.SetDeadline(time.Time{}) == nil {
		conn.served++
		c.kept = conn
		return a, conn, nil
	}
	conn.discard()
	return a, conn, err
}

// connect returns the kept connection, or a new one.
func (c *client) connect(ctx context.Context) (*connection, error) {
	if conn := c.kept; conn != nil {
		c.kept = nil
		conn.got = 0
		return conn, nil
	}
	begin := time.Now()
	raw, err := c.runner.options.Dial(ctx, c.target.Network, c.target.Address)
	if err != nil {
		return nil, &dialError{err}
	}
	c.mu.Lock()
	c.result.Connections++
	c.mu.Unlock()
	conn := &connection{Conn: raw, dialed: time.Since(begin)}
	conn.reader = bufio.NewReader(conn)
	return conn, nil
}

// dialError is an error of connecting, apart from one of the exchange.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// reason classes an error of exchange; conn is nil when there was no connection.
func reason(err error, conn *connection) Reason {
	var dial *dialError
	var wrong *answerError
	switch {
	case errors.As(err, &wrong):
		return wrong.reason
	case isTimeout(err):
		return Timeout
	case errors.As(err, &dial):
		if isRefused(err) {
			return Refused
		}
		if isReset(err) {
			return Reset
		}
		return Connect
	case conn != nil && conn.got > 0 && (isEOF(err) || isNetwork(err)):
		return Truncated
	case conn != nil && conn.got > 0:
		return Malformed // bytes that framing cannot be read from
	case isReset(err):
		return Reset
	default:
		return EOF
	}
}

// Package load drives HTTP/1.1 requests at a server and counts honestly what
// became of each: it is how the project knows that a swap lost nothing, so a
// miss here would make every other promise worthless.
//
// It keeps one invariant: every request that was begun ends in exactly one of
// [Result.Requests], [Result.IdleClosed] and [Result.Abandoned], and a request
// counts as answered only when its whole response was read and found right:
// status, framing, length and content.
//
// It never retries, unlike net/http's client, which silently sends a request
// again when a reused connection turns out to be dead; and it never takes an
// error for anything better than it is. The two repetitions below it are the
// kernel's retransmission of a SYN, and the dialer's second attempt when it
// was connected to itself (net.sysDialer.doDialTCP), which no server ever saw.
package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is the shape of the requests of a run.
type Kind int

const (
	// Fresh opens a connection for each request and sends "Connection: close".
	Fresh Kind = iota
	// Slow is Fresh to a path that answers late: the request is in flight
	// across a swap.
	Slow
	// Stream is Fresh to a path that answers in chunks over time.
	Stream
	// Upload is Fresh with a body sent slowly, by turns chunked and with a
	// Content-Length; the answer must be the SHA-256 of the body in hex.
	Upload
	// KeepAlive sends request after request on one connection per client.
	KeepAlive
)

// String names the kind as it stands in tables and test names.
func (k Kind) String() string {
	names := [...]string{"fresh", "slow", "stream", "upload", "keep-alive"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return names[k]
}

// path is where a kind's requests go when Options.Path is empty: the handlers
// of the demo's server and of the tests' target.
func (k Kind) path() string {
	switch k {
	case Slow:
		return "/slow?delay=300ms"
	case Stream:
		return "/stream?chunks=10&every=30ms"
	case Upload:
		return "/upload"
	default:
		return "/"
	}
}

// Target is one address to send requests to.
type Target struct {
	Network string // "tcp", "tcp4", "tcp6" or "unix"
	Address string // host:port with a literal address, or a path
}

// Dialer opens a connection; net.Dialer.DialContext is one. It must not retry.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Options say what to send. The zero value of each field but Targets is usable.
type Options struct {
	// Targets are dealt to the clients in turn; one client keeps to one target.
	Targets []Target
	// Clients is how many requests are under way at a time; 0 is 1.
	Clients int
	Kind    Kind
	// Path and query of each request; empty is the kind's own.
	Path string
	// Host is the Host header; empty is "baton.test".
	Host string
	// Pause between two requests of one client. The end of the run cuts it short.
	Pause time.Duration
	// Timeout bounds one request from dialling to the last byte; 0 is 15 s.
	Timeout time.Duration
	// Dial opens the connections; nil is a plain net.Dialer.
	Dial Dialer
	// Expect, when not nil, must be the body of every response. Otherwise a body
	// is held against [Pattern] when the server announces one, and against its
	// own framing always.
	Expect []byte
	// UploadSize in bytes and UploadTime shape each Upload body: it is sent in
	// ten parts spread over that time. 0 is 64 KiB and 300 ms.
	UploadSize int
	UploadTime time.Duration
	// RaceWindow is how soon after a request was begun the end of its connection
	// still counts as [Result.IdleRaced] and not as a loss, besides the time that
	// the network takes; 0 is 50 ms. A longer one suits a busy machine and a server
	// that cannot drop what it works on for as long.
	RaceWindow time.Duration
	// Window is how long after a [Runner.Mark] latency still counts as latency
	// during a swap, unless [Runner.Settle] ends it sooner; 0 is 1 s.
	Window time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Targets) == 0 {
		return o, errors.New("load: no target")
	}
	if o.Kind < Fresh || o.Kind > KeepAlive {
		return o, fmt.Errorf("load: %v: no such kind", o.Kind)
	}
	o.Clients = max(o.Clients, 1)
	if o.Path == "" {
		o.Path = o.Kind.path()
	}
	if o.Host == "" {
		o.Host = "baton.test"
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	if o.UploadSize == 0 {
		o.UploadSize = 64 << 10
	}
	if o.UploadTime == 0 {
		o.UploadTime = 300 * time.Millisecond
	}
	if o.RaceWindow == 0 {
		o.RaceWindow = raceWindow
	}
	if o.Window == 0 {
		o.Window = time.Second
	}
	return o, nil
}

// Runner is a run under way. Its methods are safe for concurrent use.
type Runner struct {
	options Options
	began   time.Time
	ended   atomic.Int64 // nanoseconds after began; 0 while clients run
	swaps   marks
	clients []*client
	stop    context.CancelFunc // begin no more requests
	abort   context.CancelFunc // drop those under way
	done    chan struct{}      // closed when the last client has returned
}

// Start begins a run. It ends with [Runner.Stop], or when ctx ends: requests
// under way are then dropped and counted as abandoned. The clients are
// goroutines that end with the run.
func Start(ctx context.Context, o Options) (*Runner, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Runner{options: o, began: time.Now(), done: make(chan struct{})}
	ctx, r.abort = context.WithCancel(ctx)
	running, stop := context.WithCancel(ctx)
	r.stop = stop
	var all sync.WaitGroup
	for i := range o.Clients {
		c := newClient(r, i)
		r.clients = append(r.clients, c)
		all.Go(func() { c.run(ctx, running) })
	}
	go func() { // ends with the last client
		all.Wait()
		r.ended.Store(int64(time.Since(r.began)))
		r.abort()
		close(r.done)
	}()
	return r, nil
}

// Mark notes that a swap begins now: see [Options.Window].
func (r *Runner) Mark() { r.swaps.open(time.Since(r.began), r.options.Window) }

// Settle notes that the swap is over: requests begun from now on are steady.
func (r *Runner) Settle() { r.swaps.close(time.Since(r.began)) }

// Done is closed when the run has ended, by Stop or by its context.
func (r *Runner) Done() <-chan struct{} { return r.done }

// Result is the count so far. Requests under way are not in it.
func (r *Runner) Result() Result {
	total := newResult()
	for _, c := range r.clients {
		c.mu.Lock()
		total.add(&c.result)
		c.mu.Unlock()
	}
	total.Elapsed = time.Duration(r.ended.Load())
	if total.Elapsed == 0 {
		total.Elapsed = time.Since(r.began)
	}
	total.Swaps = r.swaps.count()
	total.finish()
	return total
}

// Stop begins no more requests, waits until those under way have their answer
// (each is bounded by [Options.Timeout]), and returns the count. Calling it
// again returns the same.
func (r *Runner) Stop() Result {
	r.stop()
	<-r.done
	return r.Result()
}

// marks tell whether a request overlapped a swap.
type marks struct {
	mu     sync.Mutex
	number int
	until  time.Duration // end of the latest window, since the run began
}

func (m *marks) open(now, window time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.number++
	m.until = now + window
}

func (m *marks) close(now time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.until = min(m.until, now)
}

func (m *marks) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.number
}

// at returns how many swaps began before now, and whether the latest still is
// in its window. A request overlapped a swap when its start lay in a window or
// the number had grown by its end.
func (m *marks) at(now time.Duration) (number int, open bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.number, m.number > 0 && now < m.until
}

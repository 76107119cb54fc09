package wire

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Wire joins a server's and a client's namespace.
type Wire struct {
	options        Options
	server, client *namespace
	reader         *reader
	deciding       sync.Mutex // Drop is called by one goroutine at a time

	mu    sync.Mutex
	stats Stats
}

// New makes a wire that is there until the test has ended. Without root the
// test is skipped.
func New(t testing.TB, o Options) *Wire {
	t.Helper()
	if o.Delay == 0 {
		o.Delay = 40 * time.Millisecond
	}
	w := &Wire{options: o, reader: newReader(), stats: Stats{map[Kind]int{}, map[Kind]int{}}}
	w.server = w.end(t)
	w.client = w.end(t)
	serverTun, err := w.server.tun(Server4, Server6)
	if err != nil {
		t.Fatal(err)
	}
	clientTun, err := w.client.tun(Client4, Client6)
	if err != nil {
		_ = serverTun.Close() // the error says enough
		t.Fatal(err)
	}
	var all sync.WaitGroup
	w.carry(&all, serverTun, clientTun, true)
	w.carry(&all, clientTun, serverTun, false)
	t.Cleanup(func() {
		_, _ = serverTun.Close(), clientTun.Close() // wakes the readers, and nothing of it matters any more
		all.Wait()
	})
	return w
}

// end makes the namespace of one end.
func (w *Wire) end(t testing.TB) *namespace {
	t.Helper()
	n, err := newNamespace()
	if errors.Is(err, unix.EPERM) {
		t.Skip("a network namespace of one's own needs root:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

// late is a packet on its way.
type late struct {
	due   time.Time
	bytes []byte
}

// inFlight is how many packets the wire holds in each direction; beyond it the
// sender's own queue fills, as on a real link.
const inFlight = 20_000

// carry starts the two goroutines of one direction, which end when the devices
// are closed.
func (w *Wire) carry(all *sync.WaitGroup, from, to *os.File, fromServer bool) {
	queue := make(chan late, inFlight)
	all.Go(func() {
		defer close(queue)
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			if w.decide(w.reader.read(buffer[:n], fromServer)) {
				queue <- late{time.Now().Add(w.options.Delay), append([]byte(nil), buffer[:n]...)}
			}
		}
	})
	all.Go(func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for p := range queue { // first in, first out: the delay is the same for all
			timer.Reset(time.Until(p.due))
			<-timer.C
			_, _ = to.Write(p.bytes) // a device that is full or gone loses it, as networks do
		}
	})
}

// decide counts a packet and tells whether it is carried.
func (w *Wire) decide(p Packet) bool {
	w.deciding.Lock()
	lost := w.options.Drop != nil && w.options.Drop(p)
	w.deciding.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if lost {
		w.stats.Dropped[p.Kind]++
	} else {
		w.stats.Forwarded[p.Kind]++
	}
	return !lost
}

// Stats is what was carried and lost so far.
func (w *Wire) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Stats{maps.Clone(w.stats.Forwarded), maps.Clone(w.stats.Dropped)}
}

// ServerCommand starts a command whose network is the server's end: it may
// listen on Server4 and Server6. The caller waits for it and ends it.
func (w *Wire) ServerCommand(cmd *exec.Cmd) error { return w.server.do(cmd.Start) }

// Server calls f on a thread whose network is the server's end, for the sockets
// that f makes, and for the /proc/thread-self/net that it reads.
func (w *Wire) Server(f func() error) error { return w.server.do(f) }

// Dial connects from the client's end, to a literal address; the connection may
// be used anywhere. It is a load.Dialer.
func (w *Wire) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = w.client.do(func() error {
		var inner error
		// For a literal address the socket is made by this goroutine, on this thread.
		conn, inner = (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
		return inner
	})
	return conn, err
}

package socket

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProbeProvesAcceptanceOnASlotThatReceivesNothing(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			serving, newcomer := serve(t, l, 0), serve(t, l, 2)
			probe(t, l, 2)
			eventually(t, "the newcomer has accepted", func() bool { return newcomer.accepted() == 1 })
			if got := mustAsk(t, target(l, c.client)); got != 0 {
				t.Fatalf("after the probe slot %d answered", got)
			}
			if newcomer.accepted() != 1 || serving.accepted() != 1 {
				t.Fatalf("newcomer accepted %d, the serving worker %d", newcomer.accepted(), serving.accepted())
			}
		})
	}
}

// tryProbe gives the probe a short time.
func tryProbe(t *testing.T, l Listener, slot int, owner func(uint64) bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	return l.Probe(ctx, slot, owner)
}

func TestProbeEndsWithItsContextWhenNobodyAccepts(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	accepting(t, l, 1) // listens, and never accepts
	err := tryProbe(t, l, 1, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "probe slot 1 of tcp 127.0.0.1:") {
		t.Fatalf("nobody accepts: %v", err)
	}
	if len(l.isolated) != 0 {
		t.Errorf("a rule is left: %v", l.isolated)
	}
}

func TestProbeOfAnUnknownSlot(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 1)
	if err := tryProbe(t, l, 1, nil); !errors.Is(err, ErrNoSlot) {
		t.Errorf("%v", err)
	}
}

// conduct serves slot with what do makes of each connection.
func conduct(t *testing.T, l Listener, slot int, do func(c *net.TCPConn)) {
	t.Helper()
	ln := accepting(t, l, slot)
	var done sync.WaitGroup
	done.Go(func() { // ends when ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			do(c.(*net.TCPConn))
		}
	})
	t.Cleanup(func() { ln.Close(); done.Wait() })
}

// Whatever a worker does with a connection, that it took one shows.
func TestProbeKnowsEveryWayToAccept(t *testing.T) {
	l := steeredAt(t, ":0", 6)
	kept := make(chan net.Conn, 2)
	read := func(c *net.TCPConn) {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the probe sent something")
		}
		c.Close()
	}
	conduct(t, l, 1, func(c *net.TCPConn) { c.Close() })
	conduct(t, l, 2, func(c *net.TCPConn) { kept <- c })
	conduct(t, l, 3, func(c *net.TCPConn) { c.Write([]byte("220 ready\r\n")); c.Close() })
	conduct(t, l, 4, func(c *net.TCPConn) { c.CloseWrite(); kept <- c })
	conduct(t, l, 5, read)
	for slot := 1; slot <= 5; slot++ {
		probe(t, l, slot)
	}
	for range 2 {
		(<-kept).Close()
	}
}

// The probe says goodbye before it closes, so that the worker reads the end of
// the stream and no reset.
func TestProbePartsPolitely(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	seen := make(chan error, 1)
	conduct(t, l, 1, func(c *net.TCPConn) {
		c.Write([]byte("hello"))
		_, err := c.Read(make([]byte, 1))
		seen <- err
		c.Close()
	})
	probe(t, l, 1)
	if err := <-seen; err == nil || err.Error() != "EOF" {
		t.Errorf("the worker saw %v", err)
	}
}

func TestProbeSendsARequestWhereAcceptWaitsForOne(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	fd := duplicate(t, l, 1)
	defer unix.Close(fd)
	must(t, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 5))
	got := make(chan string, 1)
	conduct(t, l, 1, func(c *net.TCPConn) {
		b := make([]byte, 100)
		n, _ := c.Read(b)
		got <- string(b[:n])
		c.Close()
	})
	probe(t, l, 1)
	if s := <-got; s != "GET / HTTP/1.0\r\n\r\n" {
		t.Errorf("the worker read %q", s)
	}
}

func TestManyProbesAtOnceReachTheirOwnSlots(t *testing.T) {
	const slots = 8
	l := steeredAt(t, ":0", slots)
	var workers []*worker
	for slot := range slots {
		workers = append(workers, serve(t, l, slot))
	}
	var probes sync.WaitGroup
	for slot := range slots {
		for range slot { // a different number for each
			probes.Go(func() { probe(t, l, slot) }) // ends with its deadline
		}
	}
	probes.Wait()
	for slot, w := range workers { // the kernel knows of an accept before the worker does
		eventually(t, "each slot has its own", func() bool { return w.accepted() >= slot })
	}
	for slot, w := range workers {
		if w.accepted() != slot {
			t.Errorf("slot %d accepted %d connections", slot, w.accepted())
		}
	}
}

// A queue that is lost resets the probe's connection, which is no proof: the
// probe goes on with the slot's fresh socket.
func TestProbeIsNotSatisfiedByAReset(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	result := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	go func() { result <- l.Probe(ctx, 1, nil) }() // ends with ctx
	arrived := func() bool {
		fd, err := l.FD(1)
		must(t, err)
		state, err := tcpListening(fd)
		must(t, err)
		return state.queued == 1
	}
	eventually(t, "a probe is queued", arrived)
	fd := duplicate(t, l, 1)
	must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	must(t, unix.Close(fd))
	finding(t, l, Broken)
	eventually(t, "the next probe is queued", arrived)
	if len(result) != 0 {
		t.Fatalf("ended before anybody accepted: %v", <-result)
	}
	serve(t, l, 1)
	must(t, <-result)
}

func probing(l *steered) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.isolated) > 0
}

func TestCloseEndsAProbe(t *testing.T) {
	_, a, err := ParseAddress("127.0.0.1:0")
	must(t, err)
	l, err := Listen(t.Context(), a, Options{})
	must(t, err)
	result := make(chan error, 1)
	go func() { result <- l.Probe(context.Background(), 0, nil) }() // ends with l
	eventually(t, "a probe is under way", func() bool { return probing(l.(*steered)) })
	must(t, l.Close())
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

// holds tells what owner is for: whether this process has the socket open.
func holds(t *testing.T) func(inode uint64) bool {
	return func(inode uint64) bool {
		fds, err := filepath.Glob("/proc/self/fd/*")
		must(t, err)
		for _, fd := range fds {
			var st unix.Stat_t
			if link, _ := os.Readlink(fd); strings.HasPrefix(link, "socket:") && unix.Stat(fd, &st) == nil && st.Ino == inode {
				return true
			}
		}
		return false
	}
}

// In shared mode anyone may accept; only what the owner took is proof.
func TestProbeOfASharedSocketProvesTheOwner(t *testing.T) {
	for _, c := range loopbacks {
		l := listenAt(t, c.listen, Options{Shared: true})
		must(t, l.Reserve(1))
		conduct(t, l, 1, func(conn *net.TCPConn) { conn.Read(make([]byte, 1)); conn.Close() })
		if err := tryProbe(t, l, 1, func(uint64) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: another accepted: %v", c.name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		must(t, l.Probe(ctx, 1, holds(t)))
		cancel()
		if err := tryProbe(t, l, 1, nil); !errors.Is(err, ErrNoProof) {
			t.Errorf("%s: without an owner: %v", c.name, err)
		}
	}
}

func TestThereIsNoProofForUDP(t *testing.T) {
	for _, o := range []Options{{}, {Shared: true}} {
		l := listenAt(t, "udp://127.0.0.1:0", o)
		if err := tryProbe(t, l, 0, holds(t)); !errors.Is(err, ErrNoProof) {
			t.Errorf("%s: %v", l.Mode(), err)
		}
	}
}

func TestConnectionsCountsWhatTheOwnerHolds(t *testing.T) {
	for _, c := range loopbacks {
		for _, o := range []Options{{}, {Shared: true}} {
			l := listenAt(t, c.listen, o)
			taken := make(chan *net.TCPConn, 3)
			conduct(t, l, 0, func(conn *net.TCPConn) { taken <- conn })
			var clients []net.Conn
			for range 3 {
				conn, err := net.Dial("tcp", target(l, c.client))
				must(t, err)
				clients = append(clients, conn)
			}
			held := []*net.TCPConn{<-taken, <-taken, <-taken}
			count := func(owner func(uint64) bool) int {
				n, err := l.Connections(owner)
				must(t, err)
				return n
			}
			if n := count(holds(t)); n != 3 {
				t.Errorf("%s %s: %d connections, want 3", c.name, l.Mode(), n)
			}
			if n := count(func(uint64) bool { return false }); n != 0 {
				t.Errorf("%s %s: %d connections of nobody", c.name, l.Mode(), n)
			}
			clients[0].Close() // half closed by the client, and still the worker's
			held[1].Close()
			if n := count(holds(t)); n != 2 {
				t.Errorf("%s %s: %d connections, want 2", c.name, l.Mode(), n)
			}
			for i := range 3 {
				clients[i].Close()
				held[i].Close()
			}
		}
	}
}

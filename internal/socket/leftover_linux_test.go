package socket

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A probe that nobody accepted stays in the slot's queue. It is not counted as
// pending: nobody waits for an answer, and a drain would wait for it in vain.
func TestAProbeThatWasGivenUpIsNotPending(t *testing.T) {
	l, err := Listen(t.Context(), Address{Network: "tcp4", Host: "127.0.0.1"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	must(t, l.Reserve(1))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Probe(ctx, 1, nil); err == nil {
		t.Fatal("proved, and nobody accepts")
	}
	fd, err := l.FD(1)
	must(t, err)
	raw, err := tcpListening(fd)
	must(t, err)
	if raw.queued != 1 {
		t.Fatalf("the kernel has %d queued, want the probe", raw.queued)
	}
	pending := func() int {
		t.Helper()
		p, err := l.Pending(1)
		must(t, err)
		return p.Queued
	}
	if n := pending(); n != 0 {
		t.Errorf("%d pending, want none", n)
	}
	must(t, l.Steer([]Share{{Slot: 1, Weight: 1}}))
	client := dialed(t, l)
	defer client.Close()
	if n := pending(); n != 1 {
		t.Errorf("%d pending, want the client", n)
	}
	for _, left := range []int{1, 0} { // the probe was first in the queue
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		must(t, err)
		if n := pending(); n != left {
			t.Errorf("%d pending after an accept, want %d", n, left)
		}
		must(t, unix.Close(conn))
	}
}

func dialed(t *testing.T, l Listener) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(l.Address().Port), 5*time.Second)
	must(t, err)
	return c
}

// A slot that was refused is open again for its next worker.
func TestReserveTakesBackARefuse(t *testing.T) {
	for _, mode := range []bool{false, true} {
		l, err := Listen(t.Context(), Address{Network: "tcp4", Host: "127.0.0.1"}, Options{Shared: mode})
		if err != nil {
			t.Fatal(err)
		}
		must(t, l.Refuse(0))
		must(t, l.Reserve(0))
		client := dialed(t, l)
		must(t, client.Close())
		must(t, l.Close())
	}
}

// All slots are refused in one call, but for one that does not exist.
func TestRefuseOfSeveralSlots(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 4)
	for slot := range 4 {
		serve(t, l, slot)
	}
	must(t, l.Steer(to(0, 1, 2, 3)))
	must(t, l.Refuse(0, 2))
	got := draw(t, l, "127.0.0.1", 40)
	if got[0]+got[2] != 0 || got[1] == 0 || got[3] == 0 {
		t.Errorf("with slots 0 and 2 refused: %v", got)
	}
	if err := l.Refuse(1, 9, 3); !errors.Is(err, ErrNoSlot) {
		t.Errorf("slot 9: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if c, err := new(net.Dialer).DialContext(ctx, "tcp", target(l, "127.0.0.1")); err == nil {
		c.Close()
		t.Error("connected, and every slot is refused")
	}
}

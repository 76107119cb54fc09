package socket

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// answering serves a udp slot: it tells each sender the slot's number.
func answering(t *testing.T, l Listener, slot int) {
	t.Helper()
	f := os.NewFile(uintptr(duplicate(t, l, slot)), "slot")
	defer f.Close()
	pc, err := net.FilePacketConn(f)
	must(t, err)
	ended := make(chan struct{})
	go func() { // ends when pc is closed
		defer close(ended)
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo([]byte{byte(slot)}, from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-ended })
}

// exchange sends a datagram and returns the slot that answered.
func exchange(t *testing.T, c net.Conn) int {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(deadline)))
	_, err := c.Write([]byte("?"))
	must(t, err)
	var b [1]byte
	_, err = c.Read(b[:])
	must(t, err)
	return int(b[0])
}

func dialUDP(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", address)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

var udpLoopbacks = []struct{ listen, client string }{
	{"udp4://127.0.0.1:0", "127.0.0.1"}, {"udp6://[::1]:0", "::1"}, {"udp://:0", "127.0.0.1"}, {"udp://:0", "::1"},
}

// A flow moves with the switch: the same client is answered by the new slot.
func TestSteerMovesDatagrams(t *testing.T) {
	for _, c := range udpLoopbacks {
		l := steeredAt(t, c.listen, 3)
		for slot := range 3 {
			answering(t, l, slot)
		}
		conn := dialUDP(t, target(l, c.client))
		for _, slot := range []int{0, 2, 1} {
			must(t, l.Steer(to(slot)))
			for range 5 {
				if got := exchange(t, conn); got != slot {
					t.Errorf("%s from %s: steered to %d, slot %d answered", c.listen, c.client, slot, got)
				}
			}
		}
		inOrder(t, l)
	}
}

func TestAFlowOfDatagramsStaysWithItsSlot(t *testing.T) {
	for _, c := range udpLoopbacks {
		l := steeredAt(t, c.listen, 2)
		answering(t, l, 0)
		answering(t, l, 1)
		must(t, l.Steer(to(0, 1)))
		slots := make(map[int]int)
		for range 40 {
			conn := dialUDP(t, target(l, c.client))
			slot := exchange(t, conn)
			for range 5 {
				if got := exchange(t, conn); got != slot {
					t.Fatalf("%s: slot %d answered, then %d", c.listen, slot, got)
				}
			}
			slots[slot]++
		}
		if slots[0] < 5 || slots[1] < 5 {
			t.Errorf("%s: 40 flows went %v", c.listen, slots)
		}
	}
}

func TestUDPPendingIsWhatIsUnread(t *testing.T) {
	for _, o := range []Options{{}, {Shared: true}} {
		l := listenAt(t, "udp://127.0.0.1:0", o)
		queued(t, l, 0, 0)
		conn := dialUDP(t, target(l, "127.0.0.1"))
		_, err := conn.Write(make([]byte, 500))
		must(t, err)
		eventually(t, "the datagram is there", func() bool {
			p, err := l.Pending(0)
			must(t, err)
			return p.Queued >= 500
		})
		answering(t, l, 0)
		queued(t, l, 0, 0)
	}
}

func TestUDPSlotUnderAbuse(t *testing.T) {
	abuses := map[string]func(fd int) error{
		"connect": func(fd int) error {
			return unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
		},
		"clear SO_REUSEPORT": func(fd int) error { return reusePort(fd, 0) },
		"detach the program": func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0)
		},
		"shutdown": func(fd int) error {
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != unix.ENOTCONN {
				return err
			}
			return nil
		},
	}
	for name, do := range abuses {
		t.Run(name, func(t *testing.T) {
			l := steeredAt(t, "udp4://127.0.0.1:0", 3)
			answering(t, l, 0)
			answering(t, l, 2)
			fd := duplicate(t, l, 1) // which lives on, in the group or not
			defer unix.Close(fd)
			must(t, do(fd))
			must(t, l.Maintain())
			answering(t, l, 1)
			conn := dialUDP(t, target(l, "127.0.0.1"))
			for slot := range 3 {
				must(t, l.Steer(to(slot)))
				if got := exchange(t, conn); got != slot {
					t.Errorf("steered to %d, slot %d answered", slot, got)
				}
			}
			inOrder(t, l)
		})
	}
}

// A stranger's udp socket gives no sign of its own when the order is proved.
func TestAStrangerAmongUDPSlots(t *testing.T) {
	l := steeredAt(t, "udp4://127.0.0.1:0", 2)
	answering(t, l, 0)
	answering(t, l, 1)
	fd := intrude(t, l.at)
	conn := dialUDP(t, target(l, "127.0.0.1"))
	check := func() {
		t.Helper()
		for slot := range 2 {
			must(t, l.Steer(to(slot)))
			if got := exchange(t, conn); got != slot {
				t.Errorf("steered to %d, slot %d answered", slot, got)
			}
		}
	}
	check()
	finding(t, l, Stranger)
	must(t, unix.Close(fd))
	check()
	finding(t, l, StrangerGone)
	inOrder(t, l)
}

func TestARefusedUDPSlotReceivesNothingMore(t *testing.T) {
	for _, o := range []Options{{}, {Shared: true}} {
		l := listenAt(t, "udp4://127.0.0.1:0", o)
		conn := dialUDP(t, target(l, "127.0.0.1"))
		_, err := conn.Write([]byte("early"))
		must(t, err)
		eventually(t, "the early one is there", func() bool {
			p, err := l.Pending(0)
			must(t, err)
			return p.Queued > 0
		})
		before, err := l.Pending(0)
		must(t, err)
		must(t, l.Refuse(0))
		for range 20 {
			_, err := conn.Write([]byte("late"))
			must(t, err)
		}
		after, err := l.Pending(0)
		must(t, err)
		if after != before {
			t.Errorf("%s: %d bytes became %d", l.Mode(), before.Queued, after.Queued)
		}
		answering(t, l, 0)
		queued(t, l, 0, 0)
	}
}

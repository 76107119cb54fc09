package socket

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// knocker is a client whose handshake stays half open for as long as it does
// not hear: it drops the answer for its TTL, which is below 255.
type knocker struct {
	t  *testing.T
	fd int
	at endpoint
}

func knock(t *testing.T, l Listener, host string) *knocker {
	t.Helper()
	return begin(t, l, host, true)
}

// begin begins to connect.
func begin(t *testing.T, l Listener, host string, deaf bool) *knocker {
	t.Helper()
	addr := netip.MustParseAddr(host)
	k := &knocker{t: t, at: endpoint{stream: true, addr: addr, port: uint16(l.Address().Port)}}
	var err error
	k.fd, err = k.at.socket()
	must(t, err)
	t.Cleanup(func() { unix.Close(k.fd) })
	if deaf {
		must(t, k.at.deafen(k.fd))
	}
	sa, err := k.at.sockaddr(k.at.target(addr))
	must(t, err)
	if err := unix.Connect(k.fd, sa); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connect: %v", err)
	}
	return k
}

// complete lets the repeated answer through.
func (k *knocker) complete() { must(k.t, k.at.hear(k.fd)) }

func (k *knocker) established() bool {
	state, err := observe(k.fd)
	must(k.t, err)
	return state == open || state == answered
}

func (k *knocker) triedAgain() bool {
	info, err := unix.GetsockoptTCPInfo(k.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	must(k.t, err)
	return info.Total_retrans > 0
}

func halfOpen(t *testing.T, l Listener) Handshakes {
	t.Helper()
	h, err := l.HalfOpen()
	must(t, err)
	return h
}

// A handshake that began before the switch completes on the slot it began on,
// and is counted until it has.
func TestAHandshakeBelongsToTheSlotOfItsSYN(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 2)
			a, b := knock(t, l, c.client), knock(t, l, c.client)
			eventually(t, "two handshakes are half open", func() bool { return len(halfOpen(t, l)) == 2 })
			must(t, l.Steer(to(1)))
			before := halfOpen(t, l)
			late := knock(t, l, c.client)
			eventually(t, "a third", func() bool { return len(halfOpen(t, l)) == 3 })
			remaining := func() int {
				n, err := l.Remaining(before)
				must(t, err)
				return n
			}
			if n := remaining(); n != 2 {
				t.Errorf("%d of the two remain; the later one is none of them", n)
			}
			all := []*knocker{a, b, late}
			for _, k := range all {
				k.complete()
			}
			for _, k := range all {
				eventually(t, "it completes", k.established)
			}
			eventually(t, "none of the two remains", func() bool { return remaining() == 0 })
			queued(t, l, 0, 2)
			queued(t, l, 1, 1)
		})
	}
}

func queued(t *testing.T, l Listener, slot, want int) {
	t.Helper()
	n := -1
	eventually(t, "the queue has its length", func() bool {
		p, err := l.Pending(slot)
		must(t, err)
		n = p.Queued
		return n == want
	})
}

func TestRemainingOfNothing(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 1)
	if n, err := l.Remaining(nil); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if h := halfOpen(t, l); len(h) != 0 {
		t.Errorf("%v", h)
	}
}

// At a full stop what is queued and what is half open is served, and what comes
// later is ignored, then refused. Nobody who was let in is reset.
func TestRefuseEmptiesTheQueueWithoutAReset(t *testing.T) {
	for _, o := range []Options{{}, {Shared: true}} {
		for _, client := range []string{"127.0.0.1", "::1"} {
			t.Run(client, func(t *testing.T) {
				l := listenAt(t, ":0", o)
				early := []*knocker{begin(t, l, client, false), begin(t, l, client, false)}
				queued(t, l, 0, 2)
				half := knock(t, l, client)
				eventually(t, "one is half open", func() bool { return len(halfOpen(t, l)) == 1 })
				must(t, l.Refuse(0))
				late := begin(t, l, client, false)
				must(t, l.Maintain())

				half.complete()
				eventually(t, "the half open one completes", half.established)
				queued(t, l, 0, 3)
				eventually(t, "the late one tries again", late.triedAgain)
				serve(t, l, 0)
				for _, k := range append(early, half) {
					answers(t, k)
				}
				queued(t, l, 0, 0)
				if late.established() || len(halfOpen(t, l)) != 0 {
					t.Error("the late one was let in")
				}
			})
		}
	}
}

// answers waits for the worker's line and its end.
func answers(t *testing.T, k *knocker) {
	t.Helper()
	var text []byte
	buf := make([]byte, 16)
	eventually(t, "the worker answers", func() bool {
		n, err := unix.Read(k.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		must(t, err)
		text = append(text, buf[:n]...)
		return n == 0
	})
	if string(text) != "0\n" {
		t.Errorf("read %q", text)
	}
}

func TestARefusedSlotDoesNotCountInTheTable(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	serve(t, l, 0)
	serve(t, l, 1)
	must(t, l.Steer(to(0, 1)))
	must(t, l.Refuse(0))
	must(t, l.Maintain())
	for range 30 {
		if got := mustAsk(t, target(l, "127.0.0.1")); got != 1 {
			t.Fatalf("slot %d answered", got)
		}
	}
	must(t, l.Refuse(1))
	k := knock(t, l, "127.0.0.1")
	must(t, l.Reserve(0)) // for its next worker: the client's next try reaches it
	k.complete()
	eventually(t, "it connects", k.established)
	answers(t, k)
}

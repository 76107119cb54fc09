package socket

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// intrude opens a listening socket on the listener's port as another program
// would that knows SO_REUSEPORT. It accepts nothing.
func intrude(t *testing.T, at endpoint) int {
	t.Helper()
	fd, err := at.socket()
	must(t, err)
	must(t, at.prepare(fd))
	must(t, reusePort(fd, 1))
	must(t, at.bind(fd))
	if at.stream {
		must(t, unix.Listen(fd, 16))
	}
	return fd
}

// each slot is reached when steered to.
func allReached(t *testing.T, l *steered, client string, slots int) {
	t.Helper()
	for slot := range slots {
		must(t, l.Steer(to(slot)))
		for range 3 {
			if got := mustAsk(t, target(l, client)); got != slot {
				t.Errorf("steered to %d, slot %d answered", slot, got)
			}
		}
	}
	inOrder(t, l)
}

func TestAStrangerThatJoinsAndLeavesMisroutesNobody(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 2)
			serve(t, l, 0)
			serve(t, l, 1)
			fd := intrude(t, l.at)
			allReached(t, l, c.client, 2)
			f := finding(t, l, Stranger)
			if f.Slot != -1 || !strings.Contains(f.Detail, "joined the group") || !strings.Contains(f.Detail, "pid ") {
				t.Errorf("%+v", f)
			}
			must(t, unix.Close(fd))
			allReached(t, l, c.client, 2)
			finding(t, l, StrangerGone)
			if len(l.strangers) != 0 {
				t.Errorf("still remembers %v", l.strangers)
			}
		})
	}
}

func TestAStrangerThatLeavesAfterWeAppended(t *testing.T) {
	l := steeredAt(t, ":0", 1)
	fd := intrude(t, l.at)
	for slot := range 4 {
		must(t, l.Reserve(slot))
		serve(t, l, slot)
	}
	allReached(t, l, "::1", 4)
	must(t, unix.Close(fd)) // the last guard takes its place, in the middle
	allReached(t, l, "::1", 4)
}

func TestStrangersComeAndGoBetweenTwoLooks(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 3)
	for slot := range 3 {
		serve(t, l, slot)
	}
	a, b, c := intrude(t, l.at), intrude(t, l.at), intrude(t, l.at)
	must(t, l.Maintain())
	must(t, unix.Close(b))
	d := intrude(t, l.at)
	must(t, unix.Close(a))
	allReached(t, l, "127.0.0.1", 3)
	must(t, unix.Close(c))
	must(t, unix.Close(d))
	allReached(t, l, "127.0.0.1", 3)
}

// The stranger is last in the group, and so takes a broken slot's place.
func TestAStrangerThatTakesABrokenSlotsPlace(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	serve(t, l, 0)
	stranger := intrude(t, l.at)
	fd := duplicate(t, l, 1)
	must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	must(t, unix.Close(fd))
	finding(t, l, Broken)
	serve(t, l, 1)
	allReached(t, l, "127.0.0.1", 2)
	must(t, unix.Close(stranger))
	allReached(t, l, "127.0.0.1", 2)
}

// A worker that leaves with its old socket and listens on it again is a
// stranger from then on.
func TestABrokenSocketThatComesBackIsAStranger(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	fd := duplicate(t, l, 1)
	must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	finding(t, l, Broken)
	must(t, unix.Listen(fd, 16))
	serve(t, l, 0)
	serve(t, l, 1)
	allReached(t, l, "127.0.0.1", 2)
	finding(t, l, Stranger)
	must(t, unix.Close(fd))
	allReached(t, l, "127.0.0.1", 2)
	finding(t, l, StrangerGone)
}

// A specific address beats the wildcard: the stranger is no member, and yet
// takes what is sent to its address.
func TestAStrangerOnAnotherAddressIsReported(t *testing.T) {
	l := steeredAt(t, ":0", 1)
	serve(t, l, 0)
	at := endpoint{stream: true, addr: netip.MustParseAddr("127.0.0.1"), port: uint16(l.Address().Port)}
	fd := intrude(t, at)
	must(t, l.Maintain())
	f := finding(t, l, Stranger)
	want := fmt.Sprintf("on %s ", netip.AddrPortFrom(at.addr, at.port))
	if !strings.Contains(f.Detail, want) || !strings.Contains(f.Detail, "takes the connections to its address") {
		t.Errorf("%+v", f)
	}
	allReached(t, l, "::1", 1)
	must(t, unix.Close(fd))
	must(t, l.Maintain())
	finding(t, l, StrangerGone)
	allReached(t, l, "127.0.0.1", 1)
}

// Members that drop packets of their own accord, here for a full queue, do not
// mislead the proof of the order.
func TestTheOrderIsProvedWhileClientsAreDropped(t *testing.T) {
	l := steeredWith(t, "127.0.0.1:0", 3, Options{Backlog: 1})
	must(t, l.Steer(to(0, 2))) // nobody accepts on either
	stop := make(chan struct{})
	var flood sync.WaitGroup
	for range 2 {
		fd, err := l.at.socket()
		must(t, err)
		sa, err := l.at.reach(l.origin)
		must(t, err)
		flood.Go(func() { // ends with stop
			defer unix.Close(fd)
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Connect(fd, sa) // in progress, for ever
					if err := disconnect(fd); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	drops := func() (n uint32) {
		for _, slot := range []int{0, 2} {
			fd, err := l.FD(slot)
			must(t, err)
			mem, err := meminfo(fd)
			must(t, err)
			n += mem.drops
		}
		return n
	}
	before := drops()
	eventually(t, "both queues are full", func() bool { return drops() > before+100 })
	for range 20 {
		inOrder(t, l)
	}
	if drops() < before+200 {
		t.Error("the flood dried up")
	}
	close(stop)
	flood.Wait()
}

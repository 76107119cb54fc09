package socket

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A launcher that is killed has its descriptors closed one by one, in whatever order, while
// the program stays and names indexes that are others' by then, or nobody's. No connection
// ends in it: who is not served is not heard either, and tries again.
func TestNothingIsLostWhileADeadLaunchersSocketsClose(t *testing.T) {
	for _, address := range []string{"tcp4://127.0.0.1:0", "tcp6://[::1]:0", "tcp://:0"} {
		for _, reverse := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/reverse=%v", address, reverse), func(t *testing.T) {
				l := steeredAt(t, address, 4) // 0 and 1 had workers, 2 and 3 have
				must(t, l.Reserve(4))         // for a newcomer
				must(t, l.Steer(to(2, 3)))
				must(t, l.Rest(0))
				must(t, l.Rest(1))
				for _, slot := range []int{2, 3} {
					answer(t, duplicateClosed(t, l, slot)) // what a worker has
				}
				var fds []int
				for _, m := range l.order {
					own, err := unix.FcntlInt(uintptr(m.fd), unix.F_DUPFD_CLOEXEC, 0)
					must(t, err)
					fds = append(fds, own)
				}
				must(t, l.Close()) // the sockets stay: these are what dies
				if reverse {
					slices.Reverse(fds)
				}
				for i, fd := range fds {
					must(t, unix.Close(fd))
					timeout := 200 * time.Millisecond
					if i == len(fds)-1 {
						timeout = deadline // what workers have hears everybody
					}
					askAll(t, l, i+1, timeout)
				}
			})
		}
	}
}

// answer accepts and answers until the socket is closed.
func answer(t *testing.T, fd int) {
	t.Helper()
	must(t, unix.SetNonblock(fd, true))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if n, _ := unix.Poll(p, 20); n == 0 {
				continue // nobody came, or a signal did
			}
			if c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC); err == nil {
				_, _ = unix.Write(c, []byte("y")) // the client tells
				unix.Close(c)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// askAll connects as many clients do at once, and has an answer from each that was heard
// within the timeout: when that is the deadline, from all.
func askAll(t *testing.T, l *steered, closed int, timeout time.Duration) {
	t.Helper()
	host := "127.0.0.1"
	if l.at.family() == unix.AF_INET6 {
		host = "::1"
	}
	const clients = 32
	heard, failed := make(chan bool, clients), make(chan error, clients)
	for range clients {
		go func() { // ends with its deadlines
			c, err := (&net.Dialer{Timeout: timeout}).Dial("tcp", target(l, host))
			if err != nil {
				heard <- false // not heard, or not in time
				failed <- nil
				return
			}
			defer c.Close()
			heard <- true
			err = c.SetDeadline(time.Now().Add(deadline))
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			failed <- err
		}()
	}
	all := 0
	for range clients {
		if <-heard {
			all++
		}
	}
	for range clients {
		if err := <-failed; err != nil {
			t.Errorf("with %d sockets closed: %v", closed, err)
		}
	}
	if timeout == deadline && all < clients {
		t.Errorf("with %d sockets closed %d of %d were heard", closed, all, clients)
	}
}

// A slot rests from its making, and again when it is told to, also for the next launcher;
// not one that is steered to, and no longer than that.
func TestASlotRestsUntilItIsSteeredTo(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	must(t, l.Reserve(2))
	must(t, l.Steer(to(0)))
	must(t, l.Rest(0))
	must(t, l.Rest(1))
	deaf := func(g *steered) (slots []int) {
		for slot := range 3 {
			ttl, err := unix.GetsockoptInt(g.slots[slot].fd, unix.IPPROTO_IP, unix.IP_MINTTL)
			must(t, err)
			if ttl == ttlDeaf {
				slots = append(slots, slot)
			}
		}
		return slots
	}
	if got := deaf(l); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("deaf are %v", got)
	}
	g := leave(t, l).resume().(*steered)
	if got := deaf(g); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("with the next launcher %v", got)
	}
	must(t, g.Steer(to(0, 2)))
	if got := deaf(g); !slices.Equal(got, []int{1}) {
		t.Errorf("steered to 0 and 2: %v", got)
	}
	inOrder(t, g)
}

package socket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/keep"
	"golang.org/x/sys/unix"
)

// Connections that wait, that are served, and that come next: all of them go on, also
// when the listener changes hands a second time.
func TestASteeredListenerGoesOn(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			served := accepting(t, l, 2)
			must(t, l.Steer(to(2)))
			client, server := connect(t, target(l, c.client), served)
			must(t, l.Steer(to(1)))
			queued, err := net.Dial("tcp", target(l, c.client))
			must(t, err)
			defer queued.Close()

			g := leave(t, l).resume().(*steered)
			eventually(t, "it is queued on slot 1", func() bool {
				p, err := g.Pending(1)
				must(t, err)
				return p.Queued == 1
			})
			for slot := range 2 {
				serve(t, g, slot)
			}
			if got, err := bufio.NewReader(queued).ReadString('\n'); err != nil || got != "1\n" {
				t.Errorf("what was queued is answered %q, %v", got, err)
			}
			_, err = client.Write([]byte("x"))
			must(t, err)
			_, err = server.Read(make([]byte, 1))
			must(t, err)
			if got := mustAsk(t, target(g, c.client)); got != 1 {
				t.Errorf("slot %d answered", got)
			}
			served.Close()
			serve(t, g, 2)
			allReached(t, g, c.client, 3)
			again := leave(t, g).resume().(*steered)
			allReached(t, again, c.client, 3)
			must(t, again.Reserve(3))
			serve(t, again, 3)
			allReached(t, again, c.client, 4)
		})
	}
}

// connect is a connection by both ends.
func connect(t *testing.T, address string, ln net.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", address)
	must(t, err)
	t.Cleanup(func() { client.Close() })
	server, err = ln.Accept()
	must(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

// A launcher that is killed takes its guards and its free slots along; what workers hold
// is left, and the kernel has moved the last members into the holes.
func TestASteeredListenerGoesOnWithSomeOfItsSockets(t *testing.T) {
	for _, c := range loopbacks {
		for _, survivors := range [][]int{{1}, {2, 3}, {0, 4}, {0, 1, 2, 3, 4}} {
			t.Run(fmt.Sprintf("%s, %v", c.name, survivors), func(t *testing.T) {
				l := steeredAt(t, c.listen, 5)
				last := survivors[len(survivors)-1]
				must(t, l.Steer(to(last)))
				queued, err := net.Dial("tcp", target(l, c.client))
				must(t, err)
				defer queued.Close()
				h := leave(t, l)
				var lost []string
				for _, one := range h.state.Order {
					if len(one.Slots) == 0 || !slices.Contains(survivors, one.Slots[0]) {
						lost = append(lost, socketName("l1", one.Number))
					}
				}
				h.lose(lost...)
				g := h.resume().(*steered)
				for slot := range 5 {
					serve(t, g, slot)
				}
				got, err := bufio.NewReader(queued).ReadString('\n')
				if err != nil || got != fmt.Sprintln(last) {
					t.Errorf("what was queued is answered %q, %v", got, err)
				}
				if got := mustAsk(t, target(g, c.client)); got != last {
					t.Errorf("slot %d answered", got)
				}
				broken := make(map[int]bool)
				for range 5 - len(survivors) {
					broken[finding(t, g, Broken).Slot] = true
				}
				for slot := range 5 {
					if broken[slot] == slices.Contains(survivors, slot) {
						t.Errorf("slot %d: broken %v", slot, broken[slot])
					}
				}
				allReached(t, g, c.client, 5)
				allReached(t, leave(t, g).resume().(*steered), c.client, 5)
			})
		}
	}
}

// While the group is made whole the program that was left names places that others have by
// now. Nobody may be sent to a socket that no worker has.
func TestNobodyIsSentToASubstituteWhileTheGroupIsMadeWhole(t *testing.T) {
	for range 10 {
		l := steeredAt(t, "127.0.0.1:0", 5)
		must(t, l.Steer(to(3)))
		h := leave(t, l)
		var lost []string
		for _, one := range h.state.Order {
			if !slices.Contains(one.Slots, 3) {
				lost = append(lost, socketName("l1", one.Number))
			}
		}
		h.lose(lost...)
		stop, ended := make(chan struct{}), make(chan struct{})
		first := make(chan struct{})
		go func() { // ends with stop
			defer close(ended)
			var clients []net.Conn
			for {
				// A guard is deaf: the client would be heard a second later.
				c, err := net.DialTimeout("tcp", target(l, "127.0.0.1"), 20*time.Millisecond)
				if err == nil {
					clients = append(clients, c)
				}
				if len(clients) == 1 {
					close(first)
					clients = append(clients, nil)
				}
				select {
				case <-stop:
					for _, c := range clients {
						if c != nil {
							_ = c.Close() // nothing was sent
						}
					}
					return
				default:
				}
			}
		}()
		<-first
		g := h.resume().(*steered)
		for _, slot := range []int{0, 1, 2, 4} {
			if p, err := g.Pending(slot); err != nil || p.Queued > 0 {
				t.Errorf("slot %d: %d connections are queued where no worker is, %v", slot, p.Queued, err)
			}
		}
		close(stop)
		<-ended
	}
}

// With the guards gone the oldest socket is a worker's, and for IPv6 the kernel finds the
// group by it. What such a worker can do is bounded by the next Maintain.
func TestAWorkerThatLeavesTheGroupAfterAPartialResumeIsPutBack(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 2)
			must(t, l.Steer(to(1)))
			h := leave(t, l)
			for _, one := range h.state.Order {
				if len(one.Slots) == 0 {
					h.lose(socketName("l1", one.Number))
				}
			}
			g := h.resume().(*steered)
			serve(t, g, 0)
			serve(t, g, 1)
			fd := duplicate(t, g, 0)
			defer unix.Close(fd)
			must(t, reusePort(fd, 0))
			must(t, g.Maintain())
			finding(t, g, Reasserted)
			allReached(t, g, c.client, 2)
		})
	}
}

func TestALostSocketThatAWorkerStillHasIsAStranger(t *testing.T) {
	l := steeredAt(t, "tcp4://127.0.0.1:0", 2)
	held := duplicate(t, l, 0)
	h := leave(t, l)
	h.lose(socketName("l1", h.state.Order[1].Number))
	g := h.resume().(*steered)
	serve(t, g, 0)
	serve(t, g, 1)
	finding(t, g, Stranger)
	allReached(t, g, "127.0.0.1", 2)
	unix.Close(held)
	allReached(t, g, "127.0.0.1", 2)
}

// What became of the sockets between two launchers is met as Maintain would meet it.
func TestSocketsThatBrokeMeanwhileAreReplaced(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			must(t, l.Steer(to(1)))
			shut, disconnected := duplicate(t, l, 1), duplicate(t, l, 0)
			defer unix.Close(shut)
			defer unix.Close(disconnected)
			h := leave(t, l)
			must(t, unix.Shutdown(shut, unix.SHUT_RD))
			must(t, disconnect(disconnected))
			g := h.resume().(*steered)
			for slot := range 3 {
				serve(t, g, slot)
			}
			for range 2 {
				if f := finding(t, g, Broken); f.Slot == 2 {
					t.Errorf("%+v", f)
				}
			}
			if got := mustAsk(t, target(g, c.client)); got != 1 {
				t.Errorf("slot %d answered", got)
			}
			allReached(t, g, c.client, 3)
		})
	}
}

// The worst of all: one socket has come back, and that one is broken.
func TestTheOnlySocketThatCameBackIsBroken(t *testing.T) {
	for slots := 1; slots < 3; slots++ {
		l := steeredAt(t, ":0", slots)
		held := duplicate(t, l, 0)
		defer unix.Close(held)
		h := leave(t, l)
		for _, one := range h.state.Order {
			if !slices.Equal(one.Slots, []int{0}) {
				h.lose(socketName("l1", one.Number))
			}
		}
		must(t, unix.Shutdown(held, unix.SHUT_RD))
		g := h.resume().(*steered)
		for slot := range slots {
			serve(t, g, slot)
		}
		allReached(t, g, "127.0.0.1", slots)
	}
}

// The watch may find the only socket broken before there is a guard beside it.
func TestAGroupThatHasLostItsOnlyMemberGetsAnother(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.order
	l.order = nil
	m, err := l.spareGuard()
	must(t, err)
	if len(l.order) != 1 || l.order[0] != m || !m.guard() {
		t.Errorf("%d members, guard %v", len(l.order), m.guard())
	}
	l.order = append(was, m)
}

func TestNothingCameBack(t *testing.T) {
	for _, address := range []string{":0", "udp://:0"} {
		h := leave(t, listenAt(t, address, Options{}))
		h.files.Close()
		h.files = keep.Files{}
		l, err := Resume(h.state, "l1", &h.files, nil)
		if l != nil || !errors.Is(err, keep.ErrMissing) {
			t.Errorf("%v", err)
		}
	}
}

func TestADescriptorOfSomethingElseIsNotTaken(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer other.Close()
	raw, err := other.(*net.TCPListener).SyscallConn()
	must(t, err)
	var wrong int
	must(t, raw.Control(func(fd uintptr) { wrong, err = unix.Dup(int(fd)) }))
	must(t, err)
	l := steeredAt(t, "tcp4://127.0.0.1:0", 2)
	h := leave(t, l)
	name := socketName("l1", h.state.Order[1].Number) // slot 0's
	unix.Close(h.fds[name])
	h.files.Put(name, wrong)
	if err := Check(h.state, "l1", &h.files); err == nil || !strings.Contains(err.Error(), "not on port") {
		t.Errorf("%v", err)
	}
	g := h.resume().(*steered)
	finding(t, g, Broken)
	serve(t, g, 0)
	serve(t, g, 1)
	allReached(t, g, "127.0.0.1", 2)
}

// A worker's flag is its own, whatever the options say.
func TestResumeLeavesNonBlockingAsItIs(t *testing.T) {
	for _, address := range []string{"tcp4://127.0.0.1:0", "unix"} {
		for _, flag := range []bool{false, true} {
			for _, o := range []Options{{NonBlocking: !flag}, {NonBlocking: !flag, Shared: true}} {
				var l Listener
				if o.UID, o.GID = -1, -1; address == "unix" {
					l = unixListen(t, o)
				} else {
					l = listenAt(t, address, o)
				}
				fd := duplicate(t, l, 0)
				must(t, unix.SetNonblock(fd, flag))
				again := leave(t, l).resume()
				must(t, again.Maintain())
				must(t, again.Steer(to(0)))
				flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
				must(t, err)
				if got := flags&unix.O_NONBLOCK != 0; got != flag {
					t.Errorf("%s shared %v: O_NONBLOCK became %v", address, o.Shared, got)
				}
				unix.Close(fd)
			}
		}
	}
}

func TestUnitedAndRefusedSlotsStaySo(t *testing.T) {
	l := steeredAt(t, "tcp4://127.0.0.1:0", 2)
	must(t, l.Unite(2, 3))
	must(t, l.Steer(to(2)))
	must(t, l.Refuse(2))
	g := leave(t, l).resume().(*steered)
	if got := g.Sharing(3); !slices.Equal(got, []int{2, 3}) {
		t.Errorf("united are %v", got)
	}
	ignored(t, g)
	serve(t, g, 3)
	must(t, g.Reserve(2))
	if got := mustAsk(t, target(g, "127.0.0.1")); got != 3 {
		t.Errorf("slot %d answered", got)
	}
}

// ignored sees that a client is not answered for a moment: its SYN is dropped.
func ignored(t *testing.T, l Listener) {
	t.Helper()
	c, err := net.DialTimeout("tcp", target(l, "127.0.0.1"), 100*time.Millisecond)
	if err == nil {
		c.Close()
		t.Error("connected to what refuses")
	}
}

func TestWhatAProbeLeftIsStillNotCounted(t *testing.T) {
	l := steeredAt(t, "tcp4://127.0.0.1:0", 2)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Probe(ctx, 1, nil); err == nil {
		t.Fatal("accepted by nobody")
	}
	g := leave(t, l).resume().(*steered)
	if p, err := g.Pending(1); err != nil || p.Queued != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	serve(t, g, 1)
	probe(t, g, 1)
}

func TestDatagramSocketsGoOn(t *testing.T) {
	for _, c := range udpLoopbacks {
		t.Run(c.listen+" "+c.client, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			must(t, l.Steer(to(1)))
			client := dialUDP(t, target(l, c.client))
			_, err := client.Write([]byte("?"))
			must(t, err)
			h := leave(t, l)
			var lost []string
			for _, one := range h.state.Order {
				if !slices.Equal(one.Slots, []int{1}) {
					lost = append(lost, socketName("l1", one.Number))
				}
			}
			g := h.resume().(*steered) // all of it
			h = leave(t, g)
			h.lose(lost...)
			g = h.resume().(*steered) // and then some
			for slot := range 3 {
				answering(t, g, slot)
			}
			must(t, client.SetReadDeadline(time.Now().Add(deadline)))
			if _, err := client.Read(make([]byte, 1)); err != nil { // what was unread meanwhile
				t.Error(err)
			}
			for slot := range 3 {
				must(t, g.Steer(to(slot)))
				if got := exchange(t, client); got != slot {
					t.Errorf("slot %d answered, not %d", got, slot)
				}
			}
			inOrder(t, g)
		})
	}
}

// A launcher that is killed in the middle of a proof leaves signs on the sockets.
func TestSignsOfAProofThatWasCutShortAreUndone(t *testing.T) {
	for _, address := range []string{"tcp4://127.0.0.1:0", "udp4://127.0.0.1:0", "udp6://[::1]:0"} {
		l := steeredAt(t, address, 2)
		p := &proof{g: l, from: netipPort(l)}
		for _, slot := range []int{0, 1} {
			must(t, p.sign(l.slots[slot]))
		}
		g := leave(t, l).resume().(*steered)
		for _, m := range g.taken() {
			if filtered(m.fd) {
				t.Errorf("%s: slot %d has a filter", address, m.slot)
			}
			if ttl, err := unix.GetsockoptInt(m.fd, unix.IPPROTO_IP, unix.IP_MINTTL); err != nil || ttl != 0 {
				t.Errorf("%s: the smallest TTL of slot %d is %d, %v", address, m.slot, ttl, err)
			}
		}
		inOrder(t, g)
	}
}

func TestAWorkersOwnFilterIsLeftAlone(t *testing.T) {
	l := steeredAt(t, "udp4://127.0.0.1:0", 2)
	must(t, attachFilter(l.slots[1].fd, dropSYN())) // which no launcher puts on udp
	g := leave(t, l).resume().(*steered)
	if !filtered(g.slots[1].fd) {
		t.Error("it is gone")
	}
}

func TestASharedListenerGoesOn(t *testing.T) {
	for _, address := range []string{":0", "udp://:0"} {
		l := listenAt(t, address, Options{Shared: true})
		must(t, l.Reserve(4))
		must(t, l.Refuse(4))
		again := leave(t, l).resume()
		if again.Mode() != Shared || again.Reason() != l.Reason() || !slices.Equal(again.Sharing(4), []int{0, 4}) {
			t.Errorf("%s, %q, %v", again.Mode(), again.Reason(), again.Sharing(4))
		}
		if address != ":0" {
			must(t, again.Reserve(4))
			answering(t, again, 4)
			if got := exchange(t, dialUDP(t, target(again, "127.0.0.1"))); got != 4 {
				t.Errorf("slot %d answered", got)
			}
			continue
		}
		ignored(t, again)
		must(t, again.Reserve(4))
		serve(t, again, 4)
		mustAsk(t, target(again, "127.0.0.1"))
		again = leave(t, again).resume()
		fd := duplicate(t, again, 4)
		must(t, unix.Shutdown(fd, unix.SHUT_RD)) // the watch is there
		unix.Close(fd)
		finding(t, again, Broken)
	}
}

// A name leads to one socket for good: a store that still has it by that name is right.
func TestNamesOfDescriptorsAreNotUsedTwice(t *testing.T) {
	named := make(map[string]uint64)
	note := func(l Listener) {
		var f keep.Files
		l.Keep("l1", &f)
		f.Each(func(name string, fd int) {
			inode, err := inodeOf(fd)
			must(t, err)
			if was, met := named[name]; met && was != inode {
				t.Errorf("%s was %d and is %d", name, was, inode)
			}
			named[name] = inode
		})
	}
	breakSlot := func(l Listener, slot int) {
		fd := duplicate(t, l, slot)
		defer unix.Close(fd)
		must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
		for finding(t, l, Broken).Slot != slot { //nolint:revive // findings of the other slots
		}
	}
	for _, l := range []Listener{
		listenAt(t, "tcp4://127.0.0.1:0", Options{}), listenAt(t, ":0", Options{Shared: true}),
		unixListen(t, unixOptions()),
	} {
		clear(named)
		for range 2 {
			note(l)
			must(t, l.Reserve(1))
			note(l)
			breakSlot(l, 1)
			note(l)
			must(t, l.Unite(1, 2))
			note(l)
			l = leave(t, l).resume()
			note(l)
		}
	}
}

func TestKeepAfterCloseIsNothingToResume(t *testing.T) {
	for _, o := range []Options{{}, {Shared: true}} {
		l := listenAt(t, ":0", o)
		must(t, l.Close())
		var f keep.Files
		if _, err := Resume(l.Keep("l1", &f), "l1", &f, slog.Default()); err == nil || f.Len() > 0 {
			t.Errorf("%v, %d descriptors", err, f.Len())
		}
	}
}

func BenchmarkKeep(b *testing.B) {
	l, err := Listen(b.Context(), Address{Network: "tcp"}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for slot := range 8 {
		if err := l.Reserve(slot); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		var f keep.Files
		l.Keep("l1", &f)
	}
}

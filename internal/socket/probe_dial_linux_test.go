package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

func TestADialTalksToItsSlotAndMovesNobodyElse(t *testing.T) {
	for _, c := range loopbacks {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			for slot := range 3 {
				parrotOn(t, l, slot)
			}
			for slot := range 3 {
				own := dial(t, l, slot)
				if got, err := talk(own, "dial"); got != slot || err != nil {
					t.Errorf("dialed %d, slot %d answered: %v", slot, got, err)
				}
				user, err := net.Dial("tcp", target(l, c.client))
				must(t, err)
				if got, err := talk(user, "user"); got != 0 || err != nil {
					t.Errorf("slot %d answered a user: %v", got, err)
				}
				if got, err := talk(own, "dial"); got != slot || err != nil { // it lasts
					t.Errorf("dialed %d, slot %d answered: %v", slot, got, err)
				}
				must(t, user.Close())
				must(t, own.Close())
			}
			if len(l.isolated) != 0 {
				t.Errorf("rules are left: %v", l.isolated)
			}
		})
	}
}

// Nobody is on a slot who was not sent there, and no Dial is anywhere else, while
// strangers connect all the time, sockets of a stranger join and leave the group,
// and steering changes.
func TestDialsAndStrangersNeverMeet(t *testing.T) {
	dir := unixDirectory(t)
	for _, c := range append(loopbacks[:3:3], struct{ name, listen, client string }{"unix", "unix://" + dir + "/s", ""}) {
		t.Run(c.name, func(t *testing.T) {
			l := listenAt(t, c.listen, Options{UID: -1, GID: -1})
			var workers []*parrot
			for slot := range 4 {
				must(t, l.Reserve(slot))
				workers = append(workers, parrotOn(t, l, slot))
			}
			connect := func() (net.Conn, error) {
				if c.client == "" {
					return net.DialTimeout("unix", l.Address().Path, deadline)
				}
				return net.DialTimeout("tcp", target(l, c.client), deadline)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var others sync.WaitGroup
			defer others.Wait()
			defer cancel()
			var users atomic.Int64
			for range 2 {
				others.Go(func() { // ends with ctx
					for ctx.Err() == nil {
						user, err := connect()
						if err != nil {
							t.Error(err)
							return
						}
						if _, err := talk(user, "user"); err != nil {
							t.Error(err)
						}
						user.Close()
						users.Add(1)
					}
				})
			}
			others.Go(func() { // ends with ctx
				for i := 0; ctx.Err() == nil; i++ {
					if err := l.Steer(to(i % 2)); err != nil {
						t.Error(err)
						return
					}
				}
			})
			var dials sync.WaitGroup
			const each = 40
			for slot := range 4 {
				for range 2 {
					dials.Go(func() { // ends after each dials
						for range each {
							own, err := l.Dial(ctx, slot, nil)
							if err != nil {
								t.Error(err)
								return
							}
							own.SetDeadline(time.Now().Add(deadline))
							word := fmt.Sprintf("dial%d", slot)
							if got, err := talk(own, word); got != slot || err != nil {
								t.Errorf("dialed %d, slot %d answered: %v", slot, got, err)
							}
							own.Close()
						}
					})
				}
			}
			dials.Wait()
			cancel()
			others.Wait()
			for slot, w := range workers {
				for word, n := range w.said {
					if word == "user" && slot > 1 || word != "user" && word != fmt.Sprintf("dial%d", slot) {
						t.Errorf("slot %d heard %q %d times", slot, word, n)
					}
				}
				if n := w.heard(fmt.Sprintf("dial%d", slot)); n != 2*each {
					t.Errorf("slot %d heard %d dials of its own, want %d", slot, n, 2*each)
				}
			}
			if users.Load() == 0 {
				t.Error("no user has connected")
			}
		})
	}
}

func TestADialReachesItsSlotThoughStrangersComeAndGo(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 3)
	for slot := range 3 {
		parrotOn(t, l, slot)
	}
	var strangers []int // more than there are guards to fill their places
	for range 30 {
		strangers = append(strangers, intrude(t, l.at))
	}
	const slots = 10 // the last of them beyond the strangers, in the order of the group
	for slot := 3; slot < slots; slot++ {
		must(t, l.Reserve(slot))
		parrotOn(t, l, slot)
	}
	all := func() {
		t.Helper()
		for slot := range slots {
			own := dial(t, l, slot)
			if got, err := talk(own, "dial"); got != slot || err != nil {
				t.Errorf("dialed %d, slot %d answered: %v", slot, got, err)
			}
			own.Close()
		}
	}
	all()
	for _, fd := range strangers {
		must(t, unix.Close(fd)) // and the last of the group takes its place
	}
	all()
}

// A handshake that takes its time keeps the rule, which means the address and the
// port, and not the one or the other.
func TestTheRuleStaysUntilTheHandshakeIsTheSlots(t *testing.T) {
	for _, c := range []struct{ name, listen, client, neighbour string }{
		{"v4", "tcp4://:0", "127.0.0.1", "127.0.0.2"},
		{"v6", "tcp6://:0", "::1", ""}, // loopback has one address
	} {
		t.Run(c.name, func(t *testing.T) {
			l := steeredAt(t, c.listen, 3)
			parrotOn(t, l, 0)
			probed := parrotOn(t, l, 2)
			fd := duplicate(t, l, 2)
			defer unix.Close(fd)
			must(t, l.at.deafen(fd)) // the SYN is lost, and repeated after a second
			got := make(chan net.Conn, 1)
			go func() { got <- dial(t, l, 2) }() // ends once the slot hears
			var from netip.AddrPort
			eventually(t, "the rule is in force", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				for from = range l.isolated {
					return true
				}
				return false
			})
			ask := func(host string, port uint16) {
				t.Helper()
				at := &net.TCPAddr{IP: net.ParseIP(host), Port: int(port)}
				user, err := (&net.Dialer{LocalAddr: at, Timeout: deadline}).Dial("tcp", target(l, c.client))
				must(t, err)
				defer user.Close()
				if slot, err := talk(user, "user"); slot != 0 || err != nil {
					t.Errorf("a user from %s went to slot %d: %v", user.LocalAddr(), slot, err)
				}
				fd, err := duplicateOf(user)
				must(t, err)
				defer unix.Close(fd)
				info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
				must(t, err)
				if info.Total_retrans > 0 {
					t.Errorf("the first packet of a user from %s went to the deaf slot", user.LocalAddr())
				}
			}
			ask(c.client, 0)
			if c.neighbour != "" {
				ask(c.neighbour, from.Port())
			}
			if len(got) != 0 || !probing(l) {
				t.Error("the handshake was over before the slot could hear it")
			}
			must(t, l.at.hear(fd))
			own := <-got
			if slot, err := talk(own, "dial"); slot != 2 || err != nil {
				t.Errorf("slot %d answered: %v", slot, err)
			}
			must(t, own.Close())
			if probing(l) || probed.heard("user") != 0 {
				t.Errorf("a rule is left: %v; users on the slot: %d", probing(l), probed.heard("user"))
			}
		})
	}
}

func TestADialNeedsNoAcceptance(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		l := listenAt(t, address, Options{UID: -1, GID: -1})
		must(t, l.Reserve(1))
		must(t, dial(t, l, 1).Close())
		own := dial(t, l, 1)
		parrotOn(t, l, 1)
		if slot, err := talk(own, "dial"); slot != 1 || err != nil {
			t.Errorf("%s: slot %d answered: %v", address, slot, err)
		}
		must(t, own.Close())
	}
}

// A drain would wait for it in vain.
func TestADialThatWasClosedUnacceptedIsNotPending(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		l := listenAt(t, address, Options{UID: -1, GID: -1})
		own := dial(t, l, 0)
		fmt.Fprintln(own, "hello")
		queued(t, l, 0, 1)
		must(t, own.Close())
		queued(t, l, 0, 0)
		fd, err := l.FD(0)
		must(t, err)
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		must(t, err)
		defer unix.Close(c)
		buf := make([]byte, 16)
		n, err := unix.Read(c, buf)
		must(t, err)
		if string(buf[:n]) != "hello\n" {
			t.Errorf("%s: whoever accepts it reads %q", address, buf[:n])
		}
		// Its end comes by itself, though nobody maintains the listener here.
		eventually(t, "it has ended", func() bool {
			n, err = unix.Read(c, buf)
			return err == nil && n == 0
		})
	}
}

func TestADialIsRefusedWithItsCause(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		for _, shared := range []bool{false, true} {
			if shared && address != "127.0.0.1:0" {
				address += "hared"
			}
			l := listenAt(t, address, Options{UID: -1, GID: -1, Shared: shared})
			if err := tryDial(t, l, 7, holds(t)); !errors.Is(err, ErrNoSlot) {
				t.Errorf("%s: %v", address, err)
			}
			if err := tryDial(t, l, 0, nil); shared && !errors.Is(err, ErrNoProof) {
				t.Errorf("%s without an owner: %v", address, err)
			}
		}
	}
	l := listenAt(t, "udp://127.0.0.1:0", Options{})
	if err := tryDial(t, l, 0, nil); !errors.Is(err, ErrNoProof) {
		t.Errorf("udp: %v", err)
	}
	g := steeredAt(t, "127.0.0.1:0", 2)
	fd := duplicate(t, g, 1)
	defer unix.Close(fd)
	must(t, g.at.deafen(fd))
	err := tryDial(t, g, 1, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "dial slot 1 of tcp 127.0.0.1:") {
		t.Errorf("nobody hears: %v", err)
	}
	if probing(g) {
		t.Error("a rule is left")
	}
}

// The worker reads the end of the stream and no reset, also when it still had
// something to say.
func TestADialPartsPolitely(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		l := listenAt(t, address, Options{UID: -1, GID: -1})
		ln := accepting(t, l, 0)
		own := dial(t, l, 0)
		c, err := ln.Accept()
		must(t, err)
		must(t, c.SetDeadline(time.Now().Add(deadline)))
		_, err = c.Write(make([]byte, 100_000)) // nobody reads it
		must(t, err)
		must(t, own.Close())
		if _, err := own.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: written after close: %v", address, err)
		}
		if err := own.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: closed twice: %v", address, err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: the worker saw %v", address, err)
		}
		_, err = c.Write([]byte("bye"))
		must(t, err)
		must(t, c.Close())
	}
}

func TestADialCanBeHalfClosed(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		l := listenAt(t, address, Options{UID: -1, GID: -1})
		ln := accepting(t, l, 0)
		own := dial(t, l, 0)
		c, err := ln.Accept()
		must(t, err)
		fmt.Fprint(own, "question")
		must(t, own.(interface{ CloseWrite() error }).CloseWrite())
		if b, err := io.ReadAll(c); string(b) != "question" || err != nil {
			t.Errorf("%s: the worker read %q, %v", address, b, err)
		}
		fmt.Fprint(c, "answer")
		must(t, c.Close())
		if b, err := io.ReadAll(own); string(b) != "answer" || err != nil {
			t.Errorf("%s: read %q, %v", address, b, err)
		}
		must(t, own.Close())
	}
}

// A probe each second must not take a port from the users for a minute each time.
func TestThePortOfADialServesAgain(t *testing.T) {
	for _, c := range loopbacks[:2] {
		l := steeredAt(t, c.listen, 2)
		parrotOn(t, l, 1)
		seen := make(map[int]bool)
		reused := false
		eventually(t, "a port serves again", func() bool {
			own := dial(t, l, 1)
			if slot, err := talk(own, "dial"); slot != 1 || err != nil {
				t.Errorf("slot %d answered: %v", slot, err)
			}
			port := own.LocalAddr().(*net.TCPAddr).Port
			must(t, own.Close()) // the parrot waits, so that we close first
			reused = seen[port]
			seen[port] = true
			return reused
		})
		waiting, err := diag.Dump(unix.IPPROTO_TCP, diag.StateTimeWait, 0)
		must(t, err)
		n := 0
		for _, s := range waiting {
			if s.Remote.Port() == uint16(l.Address().Port) {
				n++
			}
		}
		if n == 0 {
			t.Errorf("%s: none of %d connections is in TIME_WAIT: it was not what this is about", c.name, len(seen))
		}
	}
}

// The connection is the caller's.
func TestADialedConnectionOutlivesItsListener(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		_, a, err := ParseAddress(address)
		must(t, err)
		l, err := Listen(t.Context(), a, Options{UID: -1, GID: -1})
		must(t, err)
		ln := accepting(t, l, 0)
		own := dial(t, l, 0)
		c, err := ln.Accept()
		must(t, err)
		must(t, l.Close())
		fmt.Fprint(c, "still here")
		must(t, c.Close())
		if b, err := io.ReadAll(own); string(b) != "still here" || err != nil {
			t.Errorf("%s: read %q, %v", address, b, err)
		}
		must(t, own.Close())
		if _, err := l.Dial(t.Context(), 0, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestCloseWaitsForNoGoodbye(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		_, a, err := ParseAddress(address)
		must(t, err)
		l, err := Listen(t.Context(), a, Options{UID: -1, GID: -1})
		must(t, err)
		ln := accepting(t, l, 0)
		own := dial(t, l, 0)
		c, err := ln.Accept() // and never closes, as far as the goodbye goes
		must(t, err)
		defer c.Close()
		must(t, own.Close())
		began := time.Now()
		must(t, l.Close())
		if d := time.Since(began); d > partingPatience/2 {
			t.Errorf("%s: Close took %v", address, d)
		}
	}
}

// A port that serves again is another connection's: it must not pass for the one
// that was given up from there, and hide a user who waits.
func TestAPortThatServesAgainHidesNobodyWhoWaits(t *testing.T) {
	l := steeredAt(t, "127.0.0.1:0", 2)
	fd := duplicate(t, l, 0)
	defer unix.Close(fd)
	first := dial(t, l, 0)
	must(t, first.Close())
	c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	must(t, err)
	must(t, unix.Close(c))
	user := dialed(t, l)
	defer user.Close()
	eventually(t, "its port may serve again", func() bool {
		l.ports.mu.Lock()
		defer l.ports.mu.Unlock()
		return len(l.ports.rest) > 0 && time.Since(l.ports.rest[0].since) > portRest
	})
	second := dial(t, l, 1)
	defer second.Close()
	if first.LocalAddr().String() != second.LocalAddr().String() {
		t.Fatalf("the first came from %s, the second from %s", first.LocalAddr(), second.LocalAddr())
	}
	queued(t, l, 0, 1)
}

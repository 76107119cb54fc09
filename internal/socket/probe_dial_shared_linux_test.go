package socket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// kin tells the workers of one process apart, as owner tells those of several.
type kin struct {
	mu  sync.Mutex
	own map[uint64]bool
}

func (k *kin) owns(inode uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.own[inode]
}

// clerk is a worker of several on one socket: it answers with its name. Before
// each accept it waits for its turn, and after each it calls took.
func clerk(t *testing.T, l Listener, name string, turn <-chan struct{}, took func(inode uint64), empty *atomic.Int64) {
	t.Helper()
	ln := accepting(t, l, 0)
	var done sync.WaitGroup
	done.Go(func() { // ends when ln is closed and its turn has come
		for {
			<-turn
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fd, err := duplicateOf(c)
			must(t, err)
			inode, err := inodeOf(fd)
			must(t, err)
			unix.Close(fd)
			took(inode)
			done.Go(func() { // ends when the client closes
				defer c.Close()
				line, err := bufio.NewReader(c).ReadString('\n')
				if err != nil {
					empty.Add(1)
					return
				}
				fmt.Fprintf(c, "%s %s", name, line)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); done.Wait() })
}

// Whoever accepts first has the connection; only the owner's is used.
func TestADialInSharedModeTalksToTheOwnerAlone(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"tcp4://127.0.0.1:0", "tcp6://[::1]:0", ":0", "unix://" + dir + "/s"} {
		t.Run(address, func(t *testing.T) {
			l := listenAt(t, address, Options{UID: -1, GID: -1, Shared: true})
			must(t, l.Reserve(1))
			k := &kin{own: make(map[uint64]bool)}
			var empty, unused atomic.Int64
			// Every second connection is another's.
			first, second := make(chan struct{}, 1), make(chan struct{}, 1)
			first <- struct{}{}
			clerk(t, l, "another", first, func(uint64) { second <- struct{}{} }, &empty)
			clerk(t, l, "owner", second, func(inode uint64) {
				k.mu.Lock()
				k.own[inode] = true
				k.mu.Unlock()
				first <- struct{}{}
			}, &unused)
			t.Cleanup(func() { close(first); close(second) })
			ctx, cancel := context.WithTimeout(t.Context(), 2*deadline)
			defer cancel()
			for range 5 {
				own, err := l.Dial(ctx, 1, k.owns)
				must(t, err)
				fmt.Fprintln(own, "dial")
				answer, err := io.ReadAll(own)
				if string(answer) != "owner dial\n" {
					t.Fatalf("%q answered: %v", answer, err)
				}
				must(t, own.Close())
			}
			// The owner's is unused when it was asked before it knew.
			eventually(t, "each was taken by another first", func() bool { return empty.Load() == 5+unused.Load() })
		})
	}
}

func TestADialInSharedModeOfAWorkerThatNeverAcceptsEnds(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		l := listenAt(t, address, Options{UID: -1, GID: -1, Shared: true})
		parrotOn(t, l, 0)
		if err := tryDial(t, l, 0, func(uint64) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestADialWhereAcceptWaitsForARequest(t *testing.T) {
	for _, shared := range []bool{false, true} {
		l := listenAt(t, "127.0.0.1:0", Options{Shared: shared})
		fd := duplicate(t, l, 0)
		defer unix.Close(fd)
		must(t, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 5))
		parrotOn(t, l, 0)
		if shared {
			if err := tryDial(t, l, 0, holds(t)); !errors.Is(err, ErrNoProof) || !strings.Contains(err.Error(), "TCP_DEFER_ACCEPT") {
				t.Errorf("shared: %v", err)
			}
			continue
		}
		own := dial(t, l, 0)
		if slot, err := talk(own, "dial"); slot != 0 || err != nil {
			t.Errorf("slot %d answered: %v", slot, err)
		}
		must(t, own.Close())
	}
}

// exclusively accepts as nginx does: of all who wait so, the kernel wakes the first
// that is idle. It ends with the test.
func exclusively(t *testing.T, l Listener, took func(fd int)) {
	t.Helper()
	fd := duplicate(t, l, 0)
	must(t, unix.SetNonblock(fd, true))
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	must(t, err)
	must(t, unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: int32(fd)}))
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	must(t, err)
	must(t, unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, end, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(end)}))
	var done sync.WaitGroup
	done.Go(func() { // ends when end can be read
		events := make([]unix.EpollEvent, 1)
		for {
			n, err := unix.EpollWait(poll, events, -1)
			if n == 1 && events[0].Fd == int32(end) {
				return
			}
			if err != nil && err != unix.EINTR {
				t.Error(err)
				return
			}
			if c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC); err == nil {
				took(c)
			}
		}
	})
	t.Cleanup(func() {
		_, err := unix.Write(end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		must(t, err)
		done.Wait()
		for _, fd := range []int{fd, poll, end} {
			unix.Close(fd)
		}
	})
}

// The worker that the kernel prefers must not hide the other for ever.
func TestASharedSocketWhoseIdleWorkerTakesEverything(t *testing.T) {
	dir := unixDirectory(t)
	for _, address := range []string{"127.0.0.1:0", "unix://" + dir + "/s"} {
		t.Run(address, func(t *testing.T) {
			l := listenAt(t, address, Options{UID: -1, GID: -1, Shared: true})
			var preferred atomic.Int64
			exclusively(t, l, func(fd int) { preferred.Add(1); unix.Close(fd) })
			k := &kin{own: make(map[uint64]bool)}
			exclusively(t, l, func(fd int) {
				inode, err := inodeOf(fd)
				must(t, err)
				k.mu.Lock()
				k.own[inode] = true
				k.mu.Unlock()
				_, _ = unix.Write(fd, []byte("owner"))
				ends(fd)
			})
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			must(t, l.Probe(ctx, 0, k.owns))
			own, err := l.Dial(ctx, 0, k.owns)
			must(t, err)
			defer own.Close()
			b := make([]byte, 5)
			if _, err := io.ReadFull(own, b); string(b) != "owner" || err != nil {
				t.Errorf("%q answered, %v", b, err)
			}
			t.Logf("%d connections reached the other worker", preferred.Load())
		})
	}
}

// ends closes fd, in a goroutine, once the other end has closed.
func ends(fd int) {
	go func() { // ends then; the listener's Close waits no longer than that
		_, _ = unix.Read(fd, make([]byte, 1))
		unix.Close(fd)
	}()
}

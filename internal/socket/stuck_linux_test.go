package socket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestServeDescriptor3 is a worker process: it answers each connection to its
// socket with one line, until it is killed.
func TestServeDescriptor3(t *testing.T) {
	if os.Getenv("BATON_SERVE") == "" {
		t.Skip("run by tests of a worker that is stopped")
	}
	ln, err := net.FileListener(os.NewFile(3, "slot"))
	must(t, err)
	for {
		c, err := ln.Accept()
		must(t, err)
		fmt.Fprintln(c, "served")
		c.Close()
	}
}

// workerProcess starts a worker process on the slot, which ends with the test.
func workerProcess(t *testing.T, l Listener, slot int) *os.Process {
	t.Helper()
	f := os.NewFile(uintptr(duplicate(t, l, slot)), "slot")
	defer f.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestServeDescriptor3$")
	cmd.Env = append(os.Environ(), "BATON_SERVE=1")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed, as it says
	})
	return cmd.Process
}

// hold stops the process and returns when it is.
func hold(t *testing.T, p *os.Process) {
	t.Helper()
	must(t, p.Signal(syscall.SIGSTOP))
	eventually(t, "the worker is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		must(t, err)
		_, rest, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(rest, "T")
	})
}

// stuckCases are a listener of each kind with a queue of a few, and how a client of
// it connects.
func stuckCases(t *testing.T) map[string]string {
	return map[string]string{
		"v4":   "127.0.0.1:0",
		"v6":   "tcp6://[::1]:0",
		"unix": "unix://" + filepath.Join(unixDirectory(t), "s"),
	}
}

func join(l Listener) (net.Conn, error) {
	a := l.Address()
	if a.Network == "unix" {
		return net.DialTimeout("unix", a.Path, deadline)
	}
	return net.DialTimeout("tcp", target(l, a.Host), deadline)
}

// served reads the answer that a client was waiting for.
func served(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(deadline)))
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "served\n" {
		t.Errorf("a client that had waited got %q, %v", line, err)
	}
}

// A worker that is stopped is found out by a probe, again and again, whether its
// queue has room or not; when it wakes up, all who waited are answered, and it is
// none the worse for the probes.
func TestAStoppedWorkerIsStuckAndServesAllWhenItWakes(t *testing.T) {
	const backlog = 4
	for name, address := range stuckCases(t) {
		t.Run(name, func(t *testing.T) {
			l := listenAt(t, address, Options{Backlog: backlog, UID: -1, GID: -1, NonBlocking: true})
			worker := workerProcess(t, l, 0)
			probe(t, l, 0)
			hold(t, worker)

			var clients []net.Conn
			client := func() {
				t.Helper()
				c, err := join(l)
				must(t, err)
				t.Cleanup(func() { c.Close() })
				clients = append(clients, c)
			}
			client()
			queued(t, l, 0, 1)
			for range 3 {
				err := tryProbe(t, l, 0, nil)
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrQueueFull) {
					t.Errorf("a worker that is stopped, with room in its queue: %v", err)
				}
				queued(t, l, 0, 1) // the client; the probe is not counted
			}
			for range backlog - 1 { // with the probe and the first client these are one more than the backlog
				client()
			}
			for range 3 {
				err := tryProbe(t, l, 0, nil)
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrQueueFull) {
					t.Errorf("a worker that is stopped, with a full queue: %v", err)
				}
				queued(t, l, 0, backlog)
			}

			must(t, worker.Signal(syscall.SIGCONT))
			for _, c := range clients {
				served(t, c)
			}
			queued(t, l, 0, 0)
			probe(t, l, 0)
			must(t, l.Maintain())
			queued(t, l, 0, 0)
		})
	}
}

// Where the queue was full before the first probe came, nothing of any probe is left.
func TestAProbeOfAFullQueueLeavesNothing(t *testing.T) {
	const backlog = 4
	for name, address := range stuckCases(t) {
		t.Run(name, func(t *testing.T) {
			l := listenAt(t, address, Options{Backlog: backlog, UID: -1, GID: -1, NonBlocking: true})
			var clients []net.Conn
			for range backlog + 1 {
				c, err := join(l)
				must(t, err)
				t.Cleanup(func() { c.Close() })
				clients = append(clients, c)
			}
			for range 2 {
				if err := tryProbe(t, l, 0, nil); !errors.Is(err, ErrQueueFull) || !strings.Contains(err.Error(), "slot 0") {
					t.Errorf("a full queue: %v", err)
				}
				if err := tryDial(t, l, 0, nil); !errors.Is(err, ErrQueueFull) {
					t.Errorf("dial to a full queue: %v", err)
				}
			}
			queued(t, l, 0, backlog+1)
			workerProcess(t, l, 0)
			for _, c := range clients {
				served(t, c)
			}
			queued(t, l, 0, 0)
			probe(t, l, 0)
		})
	}
}

// A worker that hangs for long is asked each second: its queue must stay its
// clients'.
func TestProbesOfAHangingWorkerDoNotFillItsQueue(t *testing.T) {
	for name, address := range stuckCases(t) {
		t.Run(name, func(t *testing.T) {
			l := listenAt(t, address, Options{UID: -1, GID: -1, NonBlocking: true})
			for range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
				if err := l.Probe(ctx, 0, nil); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("nobody accepts: %v", err)
				}
				c, err := l.Dial(ctx, 0, nil)
				cancel()
				if err == nil {
					must(t, c.Close())
				}
			}
			fd, err := l.FD(0)
			must(t, err)
			n := 0
			for {
				c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if errors.Is(err, unix.EAGAIN) {
					break
				}
				must(t, err)
				must(t, unix.Close(c))
				n++
			}
			if n == 0 || n > mostDialed+2 {
				t.Errorf("60 probes that were given up left %d connections in the queue", n)
			}
		})
	}
}

// A probe of the socket that a slot had is no leftover of the one it has: the next
// probe does not wait for it.
func TestAProbeThatWentWithABrokenSocketIsForgotten(t *testing.T) {
	for name, address := range stuckCases(t) {
		t.Run(name, func(t *testing.T) {
			l := listenAt(t, address, Options{UID: -1, GID: -1})
			fd := duplicate(t, l, 0) // and never accepts
			defer unix.Close(fd)
			if err := tryProbe(t, l, 0, nil); err == nil {
				t.Fatal("proved, and nobody accepts")
			}
			must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
			finding(t, l, Broken)
			workerProcess(t, l, 0)
			probe(t, l, 0)
		})
	}
}

package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func anybody(_, _ netip.AddrPort) bool { return true }

// running runs commands as the engine would, with this process's variables.
func running(ctx context.Context, argv, env []string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = deadline
	return cmd.Run()
}

// visiting is the probe whose command asks for path; see visit.
func visiting(t *testing.T, path string) Probe {
	t.Helper()
	t.Setenv(visitor, path)
	self, err := os.Executable()
	must(t, err)
	return Probe{Kind: KindExec, Exec: []string{self}}
}

func TestACommandReachesTheWorkerThroughItsDoor(t *testing.T) {
	asked := make(chan string, 1)
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.RequestURI
		if r.RequestURI != "/healthz" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	target.Run, target.Allowed = running, anybody
	once(t, visiting(t, "/healthz"), target, "")
	if got := <-asked; got != "/healthz" {
		t.Errorf("asked for %s", got)
	}
	once(t, visiting(t, "/other"), target, "exec health.test: exit status 1")
	<-asked
	target.Allowed = nil
	once(t, visiting(t, "/healthz"), target, "exec health.test: exit status 2")
	target.Allowed = anybody
	target.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("dial slot 1 of tcp :80: it is full") }
	once(t, visiting(t, "/healthz"), target, "exec health.test: exit status 2 (dial slot 1 of tcp :80: it is full)")
	if len(asked) != 0 {
		t.Errorf("asked for %s by nobody who may", <-asked)
	}
}

func TestACommandThatNeedsNoDoor(t *testing.T) {
	given := []string{"x"}
	target := Target{Run: func(_ context.Context, argv, env []string) error {
		given = env
		if strings.Join(argv, " ") != "/bin/true -x" {
			t.Errorf("runs %q", argv)
		}
		return nil
	}}
	once(t, Probe{Kind: KindExec, Exec: []string{"/bin/true", "-x"}}, target, "")
	if given != nil {
		t.Errorf("with %q", given)
	}
}

func TestACommandThatHangsEndsWithTheTimeout(t *testing.T) {
	target := Target{Run: running, Dial: to("tcp", "127.0.0.1:1").Dial}
	once(t, Probe{Kind: KindExec, Exec: []string{"sleep", "1000"}, Timeout: 50 * time.Millisecond}, target, "exec sleep: no end within 50ms")
	once(t, Probe{Kind: KindExec, Exec: []string{"/nonexistent"}}, target, "exec nonexistent: fork/exec /nonexistent: no such file or directory")
}

// open opens a door that the test closes.
func open(t *testing.T, dial Dial, allowed func(local, remote netip.AddrPort) bool) *Door {
	t.Helper()
	d, err := OpenDoor(t.Context(), dial, allowed)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func knock(t *testing.T, d *Door) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", d.Address(), deadline)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(deadline)))
	return c.(*net.TCPConn)
}

func TestADoorIsForThoseWhoAreAllowed(t *testing.T) {
	var dials atomic.Int32
	worker := conduct(t, func(c *net.TCPConn) { io.Copy(c, c); c.Close() })
	dial := func(ctx context.Context) (net.Conn, error) { dials.Add(1); return worker.Dial(ctx) }
	var mu sync.Mutex
	friends := make(map[netip.AddrPort]bool)
	locals := make(map[string]bool)
	d := open(t, dial, func(local, remote netip.AddrPort) bool {
		mu.Lock()
		defer mu.Unlock()
		locals[local.String()] = true
		return friends[remote]
	})
	stranger := knock(t, d)
	if b, err := io.ReadAll(stranger); len(b) != 0 || err != nil {
		t.Errorf("a stranger read %q, %v", b, err)
	}
	// The friend's address is known before it connects.
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	from := reserved.Addr().(*net.TCPAddr)
	must(t, reserved.Close())
	mu.Lock()
	friends[from.AddrPort()] = true
	mu.Unlock()
	friend, err := (&net.Dialer{LocalAddr: from}).Dial("tcp", d.Address())
	must(t, err)
	defer friend.Close()
	fmt.Fprint(friend, "hello")
	must(t, friend.(*net.TCPConn).CloseWrite())
	if b, err := io.ReadAll(friend); string(b) != "hello" || err != nil {
		t.Errorf("a friend read %q, %v", b, err)
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("dialed %d times", n)
	}
	must(t, d.Close())
	if len(locals) != 1 || !locals[d.Address()] {
		t.Errorf("asked about %v, and the door is at %s", locals, d.Address())
	}
}

func TestADoorPassesOnMuchBothWaysAtOnce(t *testing.T) {
	worker := conduct(t, func(c *net.TCPConn) { io.Copy(c, c); c.Close() })
	d := open(t, worker.Dial, anybody)
	c := knock(t, d)
	sent := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	var writes sync.WaitGroup
	writes.Go(func() { // ends when all is written
		if _, err := c.Write(sent); err != nil {
			t.Error(err)
		}
		c.CloseWrite()
	})
	got, err := io.ReadAll(c)
	writes.Wait()
	if !bytes.Equal(got, sent) || err != nil {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(sent), err)
	}
}

func TestAWorkerThatBreaksOffIsSeenAtTheDoor(t *testing.T) {
	worker := conduct(t, func(c *net.TCPConn) { c.SetLinger(0); c.Close() })
	c := knock(t, open(t, worker.Dial, anybody))
	// An end or a reset: it does not hang.
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestADoorTakesManyGuestsAtOnce(t *testing.T) {
	target := serve(t, saying(200, "ok"))
	d := open(t, target.Dial, anybody)
	var guests sync.WaitGroup
	for range 2 * maxGuests {
		guests.Go(func() { // ends with its answer
			p := Probe{Kind: KindHTTP, Body: "ok", Timeout: deadline}
			if err := p.Once(t.Context(), to("tcp", d.Address())); err != nil {
				t.Error(err)
			}
		})
	}
	guests.Wait()
	must(t, d.Close())
}

// Whatever is under way, Close ends it; what leaks, TestMain and conduct find.
func TestNothingIsLeftOfADoorThatCloses(t *testing.T) {
	for _, how := range []string{"close", "context"} {
		t.Run(how, func(t *testing.T) {
			ended := make(chan struct{}, 1)
			worker := conduct(t, func(c *net.TCPConn) { io.ReadAll(c); c.Close(); ended <- struct{}{} })
			var dials atomic.Int32
			stuck := func(ctx context.Context) (net.Conn, error) {
				if dials.Add(1) == 1 {
					return worker.Dial(ctx)
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d, err := OpenDoor(ctx, stuck, anybody)
			must(t, err)
			var guests []net.Conn
			for i := range maxGuests + 3 { // of whom some wait outside
				guests = append(guests, knock(t, d))
				eventually(t, "it was let in", func() bool { return int(dials.Load()) == min(i+1, maxGuests) })
			}
			if how == "context" {
				cancel()
			}
			must(t, d.Close())
			<-ended
			for _, c := range guests {
				if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("a guest is still connected: %v", err)
				}
			}
			if c, err := net.Dial("tcp", d.Address()); err == nil {
				c.Close()
				t.Error("the door is still open")
			}
		})
	}
}

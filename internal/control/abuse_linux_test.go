package control

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/testkit"
)

// abuses are requests as nobody should send them, and what is left of the connection
// afterwards: some are closed, some half closed, some only abandoned.
var abuses = []struct {
	name string
	send func(c *net.UnixConn)
}{
	{"nothing", func(*net.UnixConn) {}},
	{"nothing, half closed", func(c *net.UnixConn) { _ = c.CloseWrite() }},
	{"nothing, closed", func(c *net.UnixConn) { _ = c.Close() }},
	{"a byte", say("G")},
	{"half a request", say("POST /v1/stop HTTP/1.1\r\nHost")},
	{"half a request, half closed", func(c *net.UnixConn) { say("POST /v1/stop HTTP/1.1\r\nHost")(c); _ = c.CloseWrite() }},
	{"noise", func(c *net.UnixConn) {
		b := make([]byte, 1000)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		_, _ = c.Write(b)
	}},
	{"TLS", say("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
	{"HTTP/2", say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")},
	{"HTTP/0.9", say("GET /v1/status\r\n")},
	{"no host", say("GET /v1/status HTTP/1.1\r\n\r\n")},
	{"a method with a blank", say("G ET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n")},
	{"a huge path", say("GET /" + strings.Repeat("x", 1<<17) + " HTTP/1.1\r\nHost: b\r\n\r\n")},
	{"a huge header", say("GET /v1/status HTTP/1.1\r\nHost: b\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n")},
	{"many headers", say("GET /v1/status HTTP/1.1\r\nHost: b\r\n" + strings.Repeat("X: y\r\n", 1<<16) + "\r\n")},
	{"a huge body", say("POST /v1/scale HTTP/1.1\r\nHost: b\r\nContent-Length: 1099511627776\r\n\r\n" + strings.Repeat("x", 1<<20))},
	{"chunks without end", say("POST /v1/scale HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 1<<15))},
	{"two lengths", say("POST /v1/scale HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")},
	{"a length and chunks", say("POST /v1/scale HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")},
	{"an expectation", say("POST /v1/scale HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")},
	{"an upgrade", say("GET /v1/status HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")},
	{"a pipeline that nobody reads", say(strings.Repeat("GET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n", 1000))},
	{"events that nobody reads", say("GET /v1/events?replay=256 HTTP/1.1\r\nHost: b\r\n\r\n")},
	{"events, half closed", func(c *net.UnixConn) { say("GET /v1/events HTTP/1.1\r\nHost: b\r\n\r\n")(c); _ = c.CloseWrite() }},
	{"a wait that nobody reads", say("POST /v1/rollback HTTP/1.1\r\nHost: b\r\n\r\n")},
	{"a wait, half closed", func(c *net.UnixConn) { say("POST /v1/rollback HTTP/1.1\r\nHost: b\r\n\r\n")(c); _ = c.CloseWrite() }},
	{"a wait, closed", func(c *net.UnixConn) { say("POST /v1/rollback HTTP/1.1\r\nHost: b\r\n\r\n")(c); _ = c.Close() }},
	{"descriptors", func(c *net.UnixConn) {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		defer null.Close()
		_, _, _ = c.WriteMsgUnix([]byte("GET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n"), unix.UnixRights(int(null.Fd())), nil)
	}},
}

func say(text string) func(*net.UnixConn) {
	return func(c *net.UnixConn) {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // what the server does not read is not waited for
		_, _ = io.WriteString(c, text)
	}
}

// A thousand of them, eight at a time, and slow ones besides: the status goes on
// being answered, nothing is asked of the engine that was not, and nothing is left.
func TestAbuseHoldsUpNobodyAndLeavesNothing(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	var mu sync.Mutex
	var kept []*net.UnixConn
	work := make(chan int)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { // ends with the rounds
			for i := range work {
				c, err := dial(s.path)
				if err != nil {
					t.Errorf("round %d: %v", i, err)
					continue
				}
				abuses[i%len(abuses)].send(c)
				mu.Lock()
				if kept = append(kept, c); len(kept) > 4*maxConns {
					_ = kept[0].Close() // it may be closed already
					kept = kept[1:]
				}
				mu.Unlock()
			}
		})
	}
	worst := time.Duration(0)
	for i := range rounds {
		work <- i
		if i%10 == 0 {
			begin := time.Now()
			if _, err := s.Client.Status(t.Context()); err != nil {
				t.Fatalf("after %d: %v", i, err)
			}
			worst = max(worst, time.Since(begin))
		}
	}
	close(work)
	all.Wait()
	t.Logf("the slowest status took %v", worst)
	if worst > headerTime { // a silent one would have been waited for
		t.Errorf("a status took %v", worst)
	}
	if got := strings.Trim(strings.ReplaceAll(s.engine.log(), "rollback", ""), " "); got != "" {
		t.Errorf("the engine was asked for %s", got)
	}
	for _, c := range kept {
		_ = c.Close() // likewise
	}
	testkit.Wait(t, func() bool { return s.open() == 0 && len(s.waits) == 0 }, "every connection to be gone")
}

// One that sends a byte now and then has its time, and no more.
func TestASlowRequestEndsInItsTime(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a request may take")
	}
	testkit.Leaks(t)
	s := serve(t)
	for _, begin := range []string{
		"GET /v1/status HTTP/1.1\r\nX: ",
		"POST /v1/scale HTTP/1.1\r\nHost: b\r\nContent-Length: 1000000\r\n\r\n",
	} {
		c := s.connect()
		start := time.Now()
		if _, err := io.WriteString(c, begin); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
		tick := time.NewTicker(100 * time.Millisecond)
		for range tick.C {
			if _, err := io.WriteString(c, "x"); err != nil {
				break
			}
			if time.Since(start) > 10*headerTime {
				t.Errorf("%q: still read after %v", begin, time.Since(start))
				break
			}
		}
		tick.Stop()
		t.Logf("%q ended after %v", begin, time.Since(start))
	}
	testkit.Wait(t, func() bool { return s.open() == 0 }, "every connection to be gone")
}

// self is this test binary where everybody may execute it.
func self(t *testing.T) string {
	t.Helper()
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir := short(t)
	path := filepath.Join(dir, "test")
	if err := os.WriteFile(path, own, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, path} {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestAnotherUserIsRefusedBeforeAByteIsRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	s := serve(t)
	// The directory keeps others out already; here it does not.
	for path, mode := range map[string]os.FileMode{filepath.Dir(filepath.Dir(s.path)): 0o755, filepath.Dir(s.path): 0o755, s.path: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(self(t), "connect", s.path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "uid 65534: ") || !strings.HasSuffix(string(out), "; 0 bytes: \n") {
		t.Errorf("the other user: %v, %s", err, out)
	}
	if status, _ := s.ask("GET /v1/status"); status != 200 {
		t.Errorf("this user is answered with %d", status)
	}
}

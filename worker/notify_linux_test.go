package worker

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/testkit"
)

// mailbox listens as a service manager does.
func mailbox(t *testing.T, address string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

func next(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestMessagesReachTheManagerByPathAndByAbstractName(t *testing.T) {
	dir, err := os.MkdirTemp("", "worker") // t.TempDir is too long for a unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, address := range []string{filepath.Join(dir, "notify"), fmt.Sprintf("@baton-worker-%d", os.Getpid())} {
		c := mailbox(t, address)
		child := process(t, "say", "NOTIFY_SOCKET="+address)
		for _, want := range []string{"READY=1", "STATUS=two lines in one", "STOPPING=1", "WATCHDOG=1\nSTATUS=x"} {
			if got := next(t, c); got != want {
				t.Errorf("%s: got %q, want %q", address, got, want)
			}
		}
		if got := child.said(); got != "NOTIFY_SOCKET is left: false\n" {
			t.Errorf("the process says %q", got)
		}
	}
}

func TestAManagerThatIsGoneIsAnErrorAndNoneIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	if got := process(t, "ready", "NOTIFY_SOCKET="+path).said(); !strings.Contains(got, path) || !strings.Contains(got, "no such file") {
		t.Errorf("with nobody there, Ready says %q", got)
	}
	if got := process(t, "ready").said(); got != "<nil>\n" {
		t.Errorf("without NOTIFY_SOCKET, Ready says %q", got)
	}
}

func TestServeSaysReadyAndThatItStops(t *testing.T) {
	manager := fmt.Sprintf("@baton-worker-serve-%d", os.Getpid())
	c := mailbox(t, manager)
	p := process(t, "serve", "NOTIFY_SOCKET="+manager, "WORKER_TEST_ADDRESS=127.0.0.1:0")
	ready := next(t, c)
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := ready + " " + next(t, c); got != "READY=1 STOPPING=1" {
		t.Errorf("it says %s", got)
	}
	if got := p.said(); got != "" {
		t.Errorf("the process ended with %q", got)
	}
}

// The process drains and ends as well without the launcher that started it, with no
// error: what waits for its exit status is then somebody else.
func TestADrainWhoseLauncherIsGoneEndsWithoutAnError(t *testing.T) {
	dir, err := os.MkdirTemp("", "worker") // t.TempDir is too long for a unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "notify")
	for name, goes := range map[string]func() error{
		"killed, its socket left": func() error { return nil }, // connection refused
		"removed":                 func() error { return os.Remove(path) },
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Leaks(t)
			manager := mailbox(t, path)
			port := testkit.FreePort(t)
			address := fmt.Sprintf("127.0.0.1:%d", port)
			p := process(t, "serve", "NOTIFY_SOCKET="+path, "WORKER_TEST_ADDRESS="+address)
			if got := next(t, manager); got != "READY=1" {
				t.Fatalf("the first message is %q", got)
			}
			manager.Close()
			if err := goes(); err != nil {
				t.Fatal(err)
			}
			c := (&app{t: t, address: address}).dial()
			c.pattern(false)
			if err := p.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			testkit.Wait(t, func() bool { return !testkit.Listening(t, port) }, "the process not to listen any more")
			c.pattern(true)
			c.end()
			if got := p.said(); got != "" {
				t.Errorf("the process ended with %q", got)
			}
			os.Remove(path) // for the next; it may be gone
		})
	}
}

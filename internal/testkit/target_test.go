package testkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/load"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// under is a target on sockets of the test's own, without any launcher.
type under struct {
	*Launcher
	address string // of the first socket
	network string
}

// run starts the target on TCP sockets, or on one unix socket if path is not
// empty. sh is what knows the pid before the program does.
func run(t *testing.T, sockets int, path string, behaviours ...string) under {
	t.Helper()
	u := under{network: "tcp"}
	// As a launcher's sockets are: plain TCP, in a group that takes a program.
	plain := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, set)
	}}
	plain.SetMultipathTCP(false)
	target := Target(behaviours...)
	u.Launcher = newLauncher(t, "/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, target...)...)
	u.Cmd.Env = append(u.Cmd.Env, "LISTEN_FDS="+strconv.Itoa(sockets), "SERVER_STARTER_GENERATION=7")
	for i := range sockets {
		var l net.Listener
		var err error
		if path != "" {
			u.network = "unix"
			l, err = (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
		} else {
			l, err = plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
		}
		if err != nil {
			t.Fatal(err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			u.address = l.Addr().String()
		}
		_ = l.Close() // f is the socket now
		t.Cleanup(func() { _ = f.Close() })
		u.Cmd.ExtraFiles = append(u.Cmd.ExtraFiles, f)
	}
	u.Start()
	return u
}

// get is one request on a connection of its own.
func (u under) get(t *testing.T, path string) (int, string, error) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, u.network, u.address)
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://target"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

func (u under) want(t *testing.T, path, body string) {
	t.Helper()
	code, got, err := u.get(t, path)
	if err != nil || code != 200 || got != body {
		t.Fatalf("%s: %d %q %v; printed was:\n%s", path, code, got, err, u.Log())
	}
}

func TestTargetServesEveryKindOfRequest(t *testing.T) {
	Leaks(t)
	u := run(t, 2, "")
	for _, kind := range []load.Kind{load.Fresh, load.Slow, load.Stream, load.Upload, load.KeepAlive} {
		r, err := load.Start(t.Context(), load.Options{Targets: []load.Target{{Network: "tcp", Address: u.address}},
			Clients: 4, Kind: kind, UploadTime: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		Wait(t, func() bool { return r.Result().Requests >= 8 }, "8 requests")
		got := r.Stop()
		if got.Lost != 0 || got.ByPID[strconv.Itoa(u.PID())] != got.Requests || got.ByGeneration["7"] != got.Requests {
			t.Errorf("%v: %v, by pid %v, by generation %v", kind, got, got.ByPID, got.ByGeneration)
		}
	}
	u.want(t, "/pid", strconv.Itoa(u.PID()))
	u.Stop()
}

func TestMinimalTargetHasNoShutdownCode(t *testing.T) {
	Leaks(t)
	u := run(t, 1, "", "server=minimal")
	u.want(t, "/pid", strconv.Itoa(u.PID()))
	u.want(t, "/", string(load.Pattern(0, bodySize)))
	u.Signal(syscall.SIGTERM)
	<-u.Exited()
	if s := u.Cmd.ProcessState.String(); s != "signal: terminated" {
		t.Errorf("ended with %s", s)
	}
}

func TestTargetEndsAsItIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		behave []string
		signal bool
		status string
		words  string
	}{
		"exits before ready":    {[]string{"exit=3", "words=no such database"}, false, "exit status 3", "no such database"},
		"crashes":               {[]string{"crash=1ms", "words=out of luck"}, false, "exit status 2", "out of luck"},
		"dies on TERM":          {[]string{"term=die"}, true, "signal: terminated", ""},
		"shuts down":            {nil, true, "exit status 0", ""},
		"shuts down late":       {[]string{"term=slow:50ms"}, true, "exit status 0", ""},
		"port is taken":         {[]string{"port=192.0.2.77:1"}, false, "exit status 1", "192.0.2.77:1"},
		"behaviour is unknown":  {[]string{"fly"}, false, "exit status 2", `"fly": unknown`},
		"behaviours in no file": {[]string{"@/nowhere"}, false, "exit status 2", "/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			Leaks(t)
			u := run(t, 1, "", c.behave...)
			if c.signal {
				u.want(t, "/pid", strconv.Itoa(u.PID()))
				u.Signal(syscall.SIGTERM)
			}
			u.Wait()
			if got := u.Cmd.ProcessState.String(); got != c.status {
				t.Errorf("ended with %s, not %s", got, c.status)
			}
			if c.words != "" {
				u.WaitLog(c.words)
			}
		})
	}
}

func TestTargetIgnoresTerm(t *testing.T) {
	Leaks(t)
	u := run(t, 1, "", "term=ignore")
	u.want(t, "/pid", strconv.Itoa(u.PID()))
	u.Signal(syscall.SIGTERM)
	u.want(t, "/pid", strconv.Itoa(u.PID()))
	u.Signal(syscall.SIGKILL)
	u.Wait()
}

func TestTargetThatIsNotMeantTakesNoSockets(t *testing.T) {
	l := newLauncher(t, Target()[0], Target()[1:]...)
	l.Cmd.Env = append(l.Cmd.Env, "LISTEN_FDS=1", "LISTEN_PID=1")
	l.Start()
	if code := l.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	l.WaitLog("no sockets")
}

func TestTargetThatHangsAcceptsNothing(t *testing.T) {
	Leaks(t)
	u := run(t, 1, "", "hang", "lines=1")
	u.WaitLog("stderr line 1 of 1")
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n") // the kernel takes it
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !os.IsTimeout(err) {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestTargetPrintsItsLinesOnBothStreams(t *testing.T) {
	u := run(t, 1, "", "lines=1000")
	u.WaitLog("stdout line 1000 of 1000")
	u.WaitLog("stderr line 1000 of 1000")
	if n := len(u.Lines()); n != 2000 {
		t.Errorf("%d lines", n)
	}
}

func TestTargetReadsItsBehavioursAtEachStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "behave")
	for i := range 2 {
		Behave(t, file, fmt.Sprintf("exit=%d", 10+i), "words=several words")
		u := run(t, 1, "", "@"+file)
		if code := u.Wait(); code != 10+i {
			t.Errorf("exit code %d", code)
		}
		u.WaitLog("^several words$")
	}
}

func TestTargetNotifies(t *testing.T) {
	for name, behave := range map[string][]string{
		"ready": {"ready=notify"}, "late": {"ready=late:20ms"}, "hostile": {"ready=notify", "notify=hostile"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "n")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			path := filepath.Join(dir, "n")
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			t.Setenv("NOTIFY_SOCKET", path)
			u := run(t, 1, "", behave...)
			count := 0
			for buffer := make([]byte, 64<<10); ; count++ {
				if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				n, _, err := c.ReadFrom(buffer)
				if err != nil {
					t.Fatal(err)
				}
				if string(buffer[:n]) == "READY=1" {
					break
				}
				if strings.Contains("\n"+string(buffer[:n])+"\n", "\nREADY=1\n") {
					t.Fatalf("hostile message is ready: %q", buffer[:n])
				}
			}
			if (count > 500) != (name == "hostile") {
				t.Errorf("%d messages before ready", count)
			}
			u.Stop()
		})
	}
}

func TestTargetLeavesItsUnixPathUnlessToldOtherwise(t *testing.T) {
	for _, unlink := range []bool{false, true} {
		dir, err := os.MkdirTemp("", "u")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "s")
		var behave []string
		if unlink {
			behave = []string{"unlink"}
		}
		u := run(t, 1, path, behave...)
		u.want(t, "/pid", strconv.Itoa(u.PID()))
		u.Stop()
		if _, err := os.Lstat(path); (err != nil) != unlink {
			t.Errorf("unlink %v: %v", unlink, err)
		}
	}
}

func TestTargetEchoesDatagrams(t *testing.T) {
	p, err := net.ListenPacket("udp", "127.0.0.1:0") //nolint:noctx // loopback, at once
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	address := p.LocalAddr().String()
	_ = p.Close() // f is the socket now
	defer f.Close()
	l := newLauncher(t, "/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, Target()...)...)
	l.Cmd.Env = append(l.Cmd.Env, "LISTEN_FDS=1")
	l.Cmd.ExtraFiles = []*os.File{f}
	l.Start()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "hello") // the socket is bound since before the target was started
	answer := make([]byte, 100)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(answer)
	if want := fmt.Sprintf("%d hello", l.PID()); err != nil || string(answer[:n]) != want {
		t.Errorf("%q %v, not %q", answer[:n], err, want)
	}
	l.Stop()
}

func TestTargetListensByItselfWhenItIsGivenNothing(t *testing.T) {
	port := FreePort(t)
	behave := Target("listen=127.0.0.1:" + strconv.Itoa(port))
	l := newLauncher(t, behave[0], behave[1:]...)
	l.Start()
	u := under{l, "127.0.0.1:" + strconv.Itoa(port), "tcp"}
	Wait(t, func() bool { _, _, err := u.get(t, "/"); return err == nil }, "an answer")
	if runtime.GOOS == "linux" && !Listening(t, port) {
		t.Error("not seen to listen")
	}
	l.Stop()
	if runtime.GOOS == "linux" && Listening(t, port) {
		t.Error("still seen to listen")
	}
}

package process

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/protocol"
)

// found is what an activated program makes of its environment.
type found struct {
	Names []string
	Addrs []string
	Error string
}

func init() {
	// Does what sd_listen_fds_with_names(3) and coreos/go-systemd's activation do,
	// then accepts one connection on each socket, and says READY=1 before that.
	targets["activated"] = func([]string) {
		f, listeners := activation()
		if err := json.NewEncoder(os.Stdout).Encode(f); err != nil {
			panic(err)
		}
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
		if err != nil {
			panic(err)
		}
		if _, err := c.Write([]byte("READY=1\nSTATUS=up")); err != nil {
			panic(err)
		}
		for i, l := range listeners {
			conn, err := l.Accept()
			if err != nil {
				panic(err)
			}
			fmt.Fprintf(conn, "%s\n", f.Names[i])
			conn.Close()
		}
	}
}

func activation() (f found, listeners []net.Listener) {
	if pid := os.Getenv("LISTEN_PID"); pid != strconv.Itoa(os.Getpid()) {
		f.Error = "LISTEN_PID=" + pid
		return f, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		f.Error = err.Error()
		return f, nil
	}
	f.Names = strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for fd := 3; fd < 3+n; fd++ {
		unix.CloseOnExec(fd)
		file := os.NewFile(uintptr(fd), f.Names[fd-3])
		l, err := net.FileListener(file)
		if err != nil {
			f.Error = err.Error()
			return f, nil
		}
		f.Addrs = append(f.Addrs, l.Addr().String())
		listeners = append(listeners, l)
	}
	return f, listeners
}

func TestAWorkerFindsItsSocketsAndIsHeard(t *testing.T) {
	t.Setenv("LISTEN_PID", "1") // what the launcher itself was told
	t.Setenv("LISTEN_FDNAMES", "stale")
	t.Setenv("LISTEN_PIDFDID", "77")
	c := target(t, "activated")
	c.Base = protocol.Scrub(os.Environ())
	r := resolve(t, c)

	a, _ := socket(t)
	b, _ := socket(t)
	started := make(chan talk, 1)
	said := make(chan protocol.Message, 8)
	var p talk
	n, err := protocol.OpenNotify(
		func(pid int) bool {
			if p.Process == nil {
				p = <-started // a message may come before Start has returned
			}
			return p.Contains(pid)
		},
		func(m protocol.Message) { said <- m }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	worker := start(t, r, func(s *Spec) {
		s.Files = []int{a, b}
		s.Env = append(s.Env, protocol.Systemd([]protocol.Socket{{Name: "web"}, {Name: "admin"}})...)
		s.Env = append(s.Env, n.Env())
	})
	started <- worker

	var f found
	if err := json.Unmarshal([]byte(worker.line(t)), &f); err != nil {
		t.Fatal(err)
	}
	if f.Error != "" || strings.Join(f.Names, ",") != "web,admin" {
		t.Errorf("found %+v", f)
	}
	select {
	case m := <-said:
		if want := (protocol.Message{Ready: true, Status: "up", PID: worker.PID()}); m != want {
			t.Errorf("it said %+v, want %+v", m, want)
		}
	case <-time.After(time.Minute):
		t.Fatal("it was not heard within a minute")
	}
	for i, fd := range []int{a, b} {
		if got, want := dial(t, fd), f.Names[i]+"\n"; got != want {
			t.Errorf("socket %d answers %q, want %q", i, got, want)
		}
	}
	if s := worker.ended(t); s.Code != 0 {
		t.Error(s)
	}
}

// dial connects to the listening socket fd and reads to the end.
func dial(t *testing.T, fd int) string {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 64)
	k, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:k])
}

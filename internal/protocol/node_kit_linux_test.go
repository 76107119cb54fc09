package protocol

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"baton/internal/testkit"
)

// needsNode skips where there is none. These tests were tried with Node 18.20.8, 20.20.2,
// 22.23.3 and 24.21.0.
func needsNode(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		testkit.Lack(t, "needs node: %v", err)
	}
	return path
}

// within waits for a channel to be closed or to give something.
func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatalf("not within a minute: %s", what)
	}
	return v
}

// stand is one application's: its hub, its listeners and its log.
type stand struct {
	t        *testing.T
	hub      *Hub
	log      *logbook
	sockets  []Socket
	settings Settings
	dir      string // where programs run; "": the test's own
	started  int
}

func newStand(t *testing.T, options HubOptions, sockets ...Socket) *stand {
	t.Helper()
	leak := goleak.IgnoreCurrent()
	log := &logbook{}
	options.Log = slog.New(slog.NewTextHandler(log, nil))
	s := &stand{t: t, hub: NewHub(options), log: log, sockets: sockets, settings: Settings{NodePreload: true}}
	t.Cleanup(func() {
		if err := s.hub.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, leak)
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	return s
}

// listening makes a listener's socket, without the help of package net, which would
// make it non-blocking.
func listening(t *testing.T, network, address string) Socket {
	t.Helper()
	kind, family := unix.SOCK_STREAM, unix.AF_INET
	var sa unix.Sockaddr
	if network == "unix" {
		family, sa = unix.AF_UNIX, &unix.SockaddrUnix{Name: address}
	} else {
		a, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(network, "udp") {
			kind = unix.SOCK_DGRAM
		}
		if v4 := a.IP.To4(); v4 != nil {
			sa = &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(v4)}
		} else {
			family = unix.AF_INET6
			v6 := &unix.SockaddrInet6{Port: a.Port}
			copy(v6.Addr[:], a.IP)
			sa = v6
		}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, sa); err != nil {
		t.Fatalf("bind %s: %v", address, err)
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, 128); err != nil {
			t.Fatal(err)
		}
	}
	k := nodeSocket{own: fd}
	if k.look(); k.bound.IsValid() {
		address = k.bound.String()
	}
	return Socket{Name: network, Network: network, Address: address, FD: fd}
}

func (s Socket) port(t *testing.T) int {
	t.Helper()
	_, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// program is one worker that runs.
type program struct {
	t      *testing.T
	link   *Link
	node   *node
	cmd    *exec.Cmd
	box    inbox
	out    *logbook
	exited chan struct{}

	choice *Choice
	worker *Worker
}

// start runs a command as a worker, with these variables; what it needs of a shell,
// a home or a path it gets from the environment of the test.
func (s *stand) start(env []string, command ...string) *program {
	s.t.Helper()
	base := append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "NODE_") || strings.HasPrefix(kv, "npm_")
	}), env...)
	p := &program{t: s.t, box: make(inbox, 64), out: &logbook{}, exited: make(chan struct{})}
	p.choice = &Choice{Settings: s.settings, Kinds: []Kind{KindSystemd, KindNode}}
	p.worker = &Worker{
		Generation: 1, Index: s.started, Sockets: s.sockets, Base: base,
		Member: func(pid int) bool { return p.cmd.Process != nil && pid == p.cmd.Process.Pid },
		On:     func(m Message) { p.box <- m },
		Log:    s.hub.options.Log.With("worker", s.started),
	}
	link, err := s.hub.Open(p.choice, p.worker)
	if err != nil {
		s.t.Fatal(err)
	}
	s.started++
	p.link = link
	p.node = link.channels[1].(*node)
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Env = append(base, link.Env()...)
	p.cmd.Dir = s.dir
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	for _, fd := range link.Files() {
		own, err := duplicate(fd)
		if err != nil {
			s.t.Fatal(err)
		}
		f := os.NewFile(uintptr(own), "inherited")
		defer f.Close()
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	link.Started()
	go func() { // ends with the process
		defer close(p.exited)
		_ = p.cmd.Wait() // how it ended is in ProcessState
	}()
	s.t.Cleanup(p.end)
	return p
}

// end leaves nothing of the program behind.
func (p *program) end() {
	_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) // gone already is as good
	<-p.exited
	if err := p.link.Close(); err != nil {
		p.t.Error(err)
	}
	if p.t.Failed() {
		p.t.Logf("output of %q:\n%s", p.cmd.Args, p.out)
	}
}

// ready waits until the program has said so.
func (p *program) ready() *program {
	p.t.Helper()
	if m := p.box.next(p.t); !m.Ready || m.Via != "process.send('ready')" {
		p.t.Fatalf("message %+v", m)
	}
	return p
}

// says waits for a line of output.
func (p *program) says(line string) {
	p.t.Helper()
	eventually(p.t, "output "+line, func() bool { return strings.Contains("\n"+p.out.String(), "\n"+line+"\n") })
}

// answer is what testdata/node/web.js says about itself.
type answer struct {
	PID      int    `json:"pid"`
	Instance string `json:"instance"`
	ID       int    `json:"id"`
	Options  string `json:"options"`
	URL      string `json:"url"`
}

// get asks a server of web.js over a connection of its own.
func get(t *testing.T, network, address, url string) (a answer) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	response, err := client.Get("http://server" + url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return a
}

func port(n int) string { return fmt.Sprintf("PORT=%d", n) }

// script writes a program for one test.
func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/testkit"
)

// TestMain makes this binary, under other words, a process that holds a name, or one
// that connects.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "hold":
			os.Exit(hold(os.Args[2], os.Args[3]))
		case "connect":
			os.Exit(connect(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// hold takes a name, serves it, and stays until it is killed or told to end.
func hold(dir, name string) int {
	c, err := Take(dir, name)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	l, err := c.Listen()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	e := newEngine()
	s := New(e, Options{Log: slog.New(slog.DiscardHandler)})
	go func() { _ = s.Serve(l) }() // ends with the process
	fmt.Println("holds")
	<-e.ended
	s.Leave()
	if err := c.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ends") // and does so when somebody has said that he has seen it
	_, _ = io.ReadAll(os.Stdin)
	return 0
}

// connect asks for the status and prints what comes.
func connect(path string) int {
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_, err = io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n")
	answer, _ := io.ReadAll(c) // an error is the end too
	fmt.Printf("%d uid %d: write: %v; %d bytes: %s\n", os.Getpid(), os.Getuid(), err, len(answer), answer)
	return 0
}

// engine is the other side of a Server under test: it answers as it is told to and
// writes down what it was asked.
type engine struct {
	mu      sync.Mutex
	calls   []string
	waiting []func(event.Verdict) // of reloads and rollbacks that have no verdict
	at      *event.Verdict        // the verdict that is given at once; nil: none is
	fails   error                 // what Promote, Abort and Scale return
	hang    chan struct{}         // Report waits for it
	ended   chan struct{}
}

func newEngine() *engine { return &engine{ended: make(chan struct{})} }

func (e *engine) called(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, fmt.Sprintf(format, args...))
}

func (e *engine) log() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.calls, " ")
}

func (e *engine) isEnded() bool { return isClosed(e.ended) }

func (e *engine) Report() *event.Report {
	if e.hang != nil {
		<-e.hang
	}
	if e.isEnded() {
		return nil
	}
	return &event.Report{Name: "web", PID: os.Getpid()}
}

func (e *engine) verdict(done func(event.Verdict)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.at != nil {
		done(*e.at)
		return
	}
	e.waiting = append(e.waiting, done)
}

func (e *engine) Reload(n int, done func(event.Verdict)) {
	e.called("reload:%d", n)
	e.verdict(done)
}

func (e *engine) Rollback(done func(event.Verdict)) {
	e.called("rollback")
	e.verdict(done)
}

func (e *engine) Promote(step bool) error {
	e.called("promote:%t", step)
	return e.fails
}

func (e *engine) Abort() error {
	e.called("abort")
	return e.fails
}

func (e *engine) Scale(n int, relative bool) (int, error) {
	e.called("scale:%d:%t", n, relative)
	return 3, e.fails
}

func (e *engine) Stop() { e.called("stop") }

func (e *engine) End() {
	e.called("end")
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.isEnded() {
		close(e.ended)
	}
}

func (e *engine) Ended() <-chan struct{} { return e.ended }

func (e *engine) waiters() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.waiting)
}

// give gives all that wait a verdict.
func (e *engine) give(v event.Verdict) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, done := range e.waiting {
		done(v)
	}
	e.waiting = nil
}

// served is a Server on a socket, in this process.
type served struct {
	*Server
	*Client
	t      *testing.T
	engine *engine
	path   string
	done   chan error
}

// short is a directory with a path that leaves room for a name.
func short(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func serve(t *testing.T, but ...func(*Server)) *served {
	t.Helper()
	dir := filepath.Join(short(t), "run")
	c, err := Take(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Listen()
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine()
	s := &served{
		Server: New(e, Options{Log: slog.New(slog.DiscardHandler)}), Client: In(dir, "web"),
		t: t, engine: e, path: filepath.Join(dir, "web.sock"), done: make(chan error, 1),
	}
	for _, change := range but {
		change(s.Server)
	}
	go func() { s.done <- s.Server.Serve(l) }() // ends with Close
	t.Cleanup(func() {
		s.Server.Close()
		if err := <-s.done; err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// connect is a bare connection.
func (s *served) connect() net.Conn {
	s.t.Helper()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() }) // the test may have done so
	return c
}

// ask sends one request, written out but for the version, and returns the status and
// the body.
func (s *served) ask(request string) (int, string) {
	s.t.Helper()
	c := s.connect()
	defer c.Close()
	if _, err := io.WriteString(c, request+" HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	return response(s.t, c)
}

func response(t *testing.T, c net.Conn) (int, string) {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, strings.TrimSpace(string(body))
}

// asked waits until the engine has been asked for this, after all that was before.
func (s *served) asked(want string) {
	s.t.Helper()
	testkit.Wait(s.t, func() bool { return s.engine.log() == want }, "the engine to be asked "+want)
}

var errNone = errors.New("there is no canary")

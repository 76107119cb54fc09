package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/testkit"
)

// manager is the other end of NOTIFY_SOCKET, as systemd has one.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T) (*manager, string) {
	t.Helper()
	path := filepath.Join(shortDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &manager{t: t, conn: conn}, path
}

// managed is an application whose launcher has that manager.
func managed(t *testing.T, path, socket string, env ...string) *app {
	t.Helper()
	a := &app{Launcher: testkit.NewBaton(t, "run", "--config", path, "--log", "json"), t: t}
	a.Cmd.Env = append(append(a.Cmd.Env, "NOTIFY_SOCKET="+socket), env...)
	a.Start()
	return a
}

func (m *manager) next(limit time.Duration) (string, error) {
	if err := m.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	text := make([]byte, 65536)
	n, err := m.conn.Read(text)
	return string(text[:n]), err
}

// wants waits for a message that matches. None of those before it is a state: what is said has an order.
func (m *manager) wants(pattern string) {
	m.t.Helper()
	match := regexp.MustCompile(pattern)
	var before []string
	for {
		text, err := m.next(time.Minute)
		if err != nil {
			m.t.Fatalf("no %s: %v; said was %q", pattern, err, before)
		}
		if match.MatchString(text) {
			return
		}
		if state.MatchString(text) {
			m.t.Fatalf("%q before %s", text, pattern)
		}
		before = append(before, text)
	}
}

var state = regexp.MustCompile(`(?m)^(READY|RELOADING|STOPPING)=`)

// asked sends a request that is answered so much later; what it returns is closed then.
func asked(t *testing.T, a *app, delay string) <-chan struct{} {
	t.Helper()
	client, answered := keep(t, a.address("web")), make(chan struct{})
	if _, err := fmt.Fprintf(client.conn, "GET /slow?delay=%s HTTP/1.1\r\nHost: x\r\n\r\n", delay); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the answer
		defer close(answered)
		if line, err := client.r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Errorf("%q: %v", line, err)
		}
	}()
	return answered
}

func TestAServiceManagerIsToldHowItGoes(t *testing.T) {
	testkit.Leaks(t)
	m, socket := newManager(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a := managed(t, path, socket, "WATCHDOG_USEC=1000000")
	m.wants(`(?m)^STATUS=generation 1 (is prepared|starts: 0 of 1 worker ready)$`)
	m.wants(`^READY=1\nSTATUS=generation 1 serves with 1 worker$`)
	m.wants(`(?m)^WATCHDOG=1$`)

	slow := asked(t, a, "4s") // what the old generation has left
	a.HUP()
	m.wants(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\nSTATUS=generation 1 serves with 1 worker; generation 2 is prepared$`)
	m.wants(`^READY=1\nSTATUS=generation 2 serves with 1 worker; generation 1 `)
	m.wants(`(?m)^STATUS=generation 2 serves with 1 worker; generation 1 drains: 1 connection left$`)
	<-slow
	m.wants(`(?m)^STATUS=generation 2 serves with 1 worker$`)

	rewrite(t, path, testkit.Target("exit=3"), quick, listen("web", "127.0.0.1:0"))
	a.HUP()
	m.wants(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n`)
	m.wants(`^READY=1\nSTATUS=generation 2 serves with 1 worker; .*the last reload was rolled back: exit status 3`)
	write(t, path, "[")
	a.HUP()
	m.wants(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n`)
	m.wants(`^READY=1\nSTATUS=generation 2 serves with 1 worker; (generation 3 drains; )?the last reload was refused: `)

	a.Signal(syscall.SIGTERM)
	m.wants(`^STOPPING=1\nSTATUS=stopping; `)
	if code := a.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A start and an end that take their time get it, as long as baton's own times run.
func TestAServiceManagerGivesMoreTime(t *testing.T) {
	testkit.Leaks(t)
	m, socket := newManager(t)
	gate := filepath.Join(t.TempDir(), "ready")
	a := managed(t, config(t, testkit.Target("ready=file:"+gate), "[handoff]\nready = \"notify\"\n", listen("web", "127.0.0.1:0")), socket)
	for range 2 { // again before it is over
		m.wants(`(?m)^EXTEND_TIMEOUT_USEC=10000000$`)
	}
	write(t, gate, "")
	m.wants(`^READY=1\n`)
	for { // what was on its way
		text, err := m.next(3 * time.Second)
		if err != nil {
			break
		}
		if strings.Contains(text, "EXTEND") {
			t.Errorf("%q while it serves", text)
		}
	}
	slow := asked(t, a, "4s")
	a.Signal(syscall.SIGTERM)
	m.wants(`^STOPPING=1\n`)
	m.wants(`(?m)^EXTEND_TIMEOUT_USEC=10000000$`)
	<-slow
	if code := a.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A manager that never reads costs nothing but what it would have been told.
func TestAServiceManagerThatDoesNotReadHoldsUpNothing(t *testing.T) {
	testkit.Leaks(t)
	_, socket := newManager(t)
	full, err := net.Dial("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		if err = full.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err == nil {
			_, err = full.Write([]byte("X=filled"))
		}
	}
	_ = full.Close()
	a := managed(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")), socket, "WATCHDOG_USEC=100000")
	a.serving(1)
	a.swap()
	a.WaitLog("does not read what it is told")
	a.Stop()
}

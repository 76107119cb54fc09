package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
)

// Every newcomer fails on the port that the old generation has bound by itself;
// the log names it and the two ways out, and with each of them the next one serves.
func TestATargetThatBindsASecondPortByItself(t *testing.T) {
	testkit.Leaks(t)
	own := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
	path := config(t, testkit.Target("port="+own), quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
	from := a.Next()
	a.HUP()
	message, _ := a.WaitEvent(from, "rolledback", "generation", 2).Event()["msg"].(string)
	for _, want := range []string{own, "generation 1 has bound", "[[listen]]", "port 0", "generation 1 serves on"} {
		if !strings.Contains(message, want) {
			t.Errorf("the log says %q, without %q", message, want)
		}
	}
	a.gone(2)
	rewrite(t, path, testkit.Target("port=127.0.0.1:0"), quick, listen("web", "127.0.0.1:0"))
	a.HUP()
	a.serving(3)
	a.gone(1)
	none(t, "fresh", fresh.Stop(), 100)
	a.Stop()
}

// A program that does not take its socket over, and binds the port that is baton's,
// is told so.
func TestATargetThatBindsBatonsOwnPort(t *testing.T) {
	testkit.Leaks(t)
	own := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
	a := begin(t, config(t, testkit.Target("port="+own), quick, listen("web", own)))
	message, _ := a.WaitEvent(0, "rolledback", "generation", 1).Event()["msg"].(string)
	for _, want := range []string{own + " is baton's", "take its socket over"} {
		if !strings.Contains(message, want) {
			t.Errorf("the log says %q, without %q", message, want)
		}
	}
	if code := a.Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

// A target whose standard input is the listening socket serves on it.
func TestAListenerCanBeTheStandardInput(t *testing.T) {
	testkit.Leaks(t)
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		testkit.Lack(t, "needs /usr/bin/python3: %v", err)
	}
	const program = `
import os, socket
s = socket.socket(fileno=0)
s.setblocking(True)
print("ports:", "fd 3" if os.path.exists("/proc/self/fd/3") else "none", flush=True)
while True:
    c, _ = s.accept()
    c.recv(4096)
    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX-Generation: "
              + os.environ["BATON_GENERATION"].encode() + b"\r\n\r\nok")
    c.close()
`
	path := config(t, []string{"/usr/bin/python3", "-c", program}, `stdin = "web"`, quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	for range 3 {
		a.swap()
		r := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 1})
		testkit.Wait(t, func() bool { return r.Result().Requests > 0 }, "an answer")
		if got := r.Stop(); got.Lost > 0 || len(got.ByGeneration) != 1 || got.ByGeneration[fmt.Sprint(a.last)] == 0 {
			t.Errorf("served by generations %v, want %d; lost: %v", got.ByGeneration, a.last, got.Reasons)
		}
	}
	from := a.Next()
	rewrite(t, path, []string{"/usr/bin/python3", "-c", program}, `stdin = "wep"`, quick, listen("web", "127.0.0.1:0"))
	a.HUP()
	if line := a.WaitEvent(from, "refused"); !strings.Contains(line.Text, "wep") {
		t.Errorf("the log says %s", line.Text)
	}
	a.Stop()
}

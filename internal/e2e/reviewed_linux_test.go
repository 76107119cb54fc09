package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
)

// A newcomer that says ready and has let go of its sockets must not get the users.
func TestANewcomerThatIsReadyElsewhereIsRolledBack(t *testing.T) {
	python := program(t, "python3")
	testkit.Leaks(t)
	script := filepath.Join(t.TempDir(), "elsewhere.py")
	write(t, script, `
import os, socket, time
os.close(3)
l = socket.create_server(("127.0.0.1", 0))
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b"READY=1", "\0" + os.environ["NOTIFY_SOCKET"][1:])
time.sleep(1000)
`)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
	rewrite(t, path, []string{python, script}, quick, listen("web", "127.0.0.1:0"))
	from := a.Next()
	a.HUP()
	message, _ := a.WaitEvent(from, "rolledback", "generation", 2).Event()["msg"].(string)
	if !strings.Contains(message, "holds none of its sockets") || !strings.Contains(message, "generation 1 serves on") {
		t.Errorf("the log says %q", message)
	}
	a.WaitEvent(from, "gone", "generation", 2)
	none(t, "fresh", fresh.Stop(), 20)
	a.Stop()
}

// What one program has said is not expected of another that takes its place.
func TestAnotherProgramNeedNotSayReady(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target("ready=notify"), quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	rewrite(t, path, testkit.Target("ready=none"), quick, listen("web", "127.0.0.1:0"))
	a.swap()
	a.Stop()
}

// A worker of Node's that cannot finish, because a connection of its own never ends,
// gets its signal in time to act on it.
func TestANodeWorkerThatCannotFinishGetsItsSignal(t *testing.T) {
	program(t, "node")
	testkit.Leaks(t)
	script := filepath.Join(t.TempDir(), "upgraded.cjs")
	write(t, script, `
const server = require('http').createServer((q, r) => r.end('hello'))
let kept
server.on('upgrade', (request, socket) => {
  kept = socket
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n')
})
process.on('SIGTERM', () => { console.log('closing by the signal'); kept.end(); setTimeout(() => process.exit(0), 50) })
server.listen(Number(process.env.PORT))
`)
	a := run(t, config(t, []string{"node", script}, `env = { PORT = '{{port "web"}}' }`, quick, `drain_timeout = "12s"`,
		listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))))
	c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", a.address("web").Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "101") {
		t.Fatalf("%q, %v", line, err)
	}
	from := a.Next()
	a.swap()
	a.WaitLogFrom(from, "closing by the signal")
	a.gone(1)
	for _, line := range a.Lines()[from:] {
		if strings.Contains(line.Text, `"event":"killed"`) {
			t.Errorf("it was killed all the same: %s", line.Text)
		}
	}
	a.Stop()
}

// A program that runs as another user gets no privileged port and no path through
// baton, which could open them.
func TestAProgramOfAnotherUserGetsNoRightsThroughBaton(t *testing.T) {
	program(t, "node")
	if os.Getuid() != 0 {
		t.Skip("needs root, to run a program as another user")
	}
	testkit.Leaks(t)
	dir, err := os.MkdirTemp("", "bu") // which the other user can enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	chmod(t, dir, 0o755)
	script, path := filepath.Join(dir, "greedy.cjs"), filepath.Join(dir, "s")
	write(t, script, fmt.Sprintf(`
const http = require('http')
for (const at of [81, %q]) {
  http.createServer().on('error', (e) => console.log('refused:', at, e.code)).listen(at, () => console.log('got', at))
}
http.createServer((q, r) => { r.setHeader('X-Generation', process.env.BATON_GENERATION); r.end('x') }).listen(Number(process.env.PORT))
`, path))
	a := run(t, config(t, []string{"node", script}, "user = \"nobody\"\nenv = { PORT = '{{port \"web\"}}' }", quick,
		listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))))
	a.WaitLog("refused: 81 EACCES")
	a.WaitLog("refused: " + path + " EACCES")
	a.Stop()
}

// A command that probes is no operator: its signal does not end baton.
func TestACommandThatProbesCannotStopBaton(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, `ready = "exec"`, listen("web", "127.0.0.1:0"),
		"[health.ready]\nexec = [\"sh\", \"-c\", \"kill -TERM $PPID; kill -QUIT $PPID; sleep 0.2\"]\ntimeout = \"5s\""))
	a.swap()
	a.swap()
	a.Stop()
}

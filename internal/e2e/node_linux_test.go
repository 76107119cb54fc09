package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"baton/internal/load"
	"baton/internal/testkit"
)

// nodeDir is a directory with the program and a package.json whose scripts these are.
func nodeDir(t testing.TB, scripts string) string {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(testdata(t, "server.cjs"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "server.cjs"), string(text))
	write(t, filepath.Join(dir, "package.json"), fmt.Sprintf(`{"name": "web", "version": "1.2.3", "scripts": %s}`, scripts))
	return dir
}

// An unmodified program gets its worker's slot from listen(PORT), whatever starts it,
// and neither those who connect anew nor those who keep their connection lose
// anything, though the program has no code for its end.
func TestANodeProgramSwaps(t *testing.T) {
	testkit.Together(t)
	program(t, "node")
	for _, c := range []struct {
		name, scripts string
		exec          []string
		env           string
		more          string
		prints        string
	}{
		{"plain", `{}`, []string{"node", "server.cjs"}, `PORT = '{{port "web"}}', KEEP = "1"`, "", "instance 0 of nobody"},
		{"npm", `{"start": "node server.cjs"}`, []string{"npm", "start"}, `PORT = '{{port "web"}}', SAYS = "ready"`, "", "instance 0 of start"},
		{"shell", `{"start": "echo begins && node server.cjs"}`, []string{"npm", "start"}, `PORT = '{{port "web"}}'`, "", "instance 0 of start"},
		{"any-port", `{}`, []string{"node", "server.cjs"}, `SAYS = "ready"`, "[node]\nany_port = true", "listening on 3000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.exec[0] == "npm" {
				program(t, "npm")
			}
			testkit.Leaks(t)
			dir := nodeDir(t, c.scripts)
			a := run(t, config(t, c.exec, fmt.Sprintf("directory = %q\nenv = { %s }", dir, c.env), quick,
				listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))), c.more))
			a.WaitLog(c.prints)
			to := []load.Target{a.address("web")}
			fresh := begun(t, load.Options{Targets: to, Clients: 3})
			kept := begun(t, load.Options{Targets: to, Clients: 3, Kind: load.KeepAlive})
			met := func() {
				t.Helper()
				testkit.Wait(t, func() bool { return kept.Result().ByGeneration[fmt.Sprint(a.last)] > 0 },
					fmt.Sprintf("generation %d to answer on a kept connection", a.last))
			}
			for range 20 {
				met()
				a.swap()
			}
			met()
			none(t, "fresh", fresh.Stop(), 50)
			k := kept.Stop()
			none(t, "keep-alive", k, 50)
			if k.IdleClosed > 0 {
				t.Errorf("%d kept connections were closed without a word", k.IdleClosed)
			}
			a.Stop()
		})
	}
}

// A program that asks for another port than the listener's is opened that one, and the
// log says why it is not ready and what to do.
func TestANodeProgramOnAnotherPortIsToldOf(t *testing.T) {
	program(t, "node")
	testkit.Leaks(t)
	other := testkit.FreePort(t)
	a := begin(t, config(t, []string{"node", "server.cjs"},
		fmt.Sprintf("directory = %q\nenv = { PORT = \"%d\" }", nodeDir(t, `{}`), other),
		quick, `ready_timeout = "10s"`, listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))))
	message, _ := a.WaitEvent(0, "rolledback").Event()["msg"].(string)
	for _, want := range []string{fmt.Sprint(other), "any_port"} {
		if !strings.Contains(message, want) {
			t.Errorf("the log says %q, without %q", message, want)
		}
	}
	if code := a.Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

// A second port that is nobody's listener is opened for the program once, and is the
// same for all generations.
func TestANodeProgramsSecondPortIsShared(t *testing.T) {
	program(t, "node")
	testkit.Leaks(t)
	second := testkit.FreePort(t)
	dir := nodeDir(t, `{}`)
	write(t, filepath.Join(dir, "two.cjs"), `
require('./server.cjs')
require('http').createServer((q, r) => { r.setHeader('X-Generation', process.env.BATON_GENERATION); r.end('two') }).listen(Number(process.env.SECOND), '127.0.0.1')
`)
	a := run(t, config(t, []string{"node", "two.cjs"},
		fmt.Sprintf("directory = %q\nenv = { PORT = '{{port \"web\"}}', SECOND = \"%d\" }", dir, second),
		quick, listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))))
	a.WaitLog(fmt.Sprintf(`"level":"WARN".*%d`, second))
	to := load.Target{Network: "tcp", Address: fmt.Sprintf("127.0.0.1:%d", second)}
	for range 4 {
		a.swap()
		r := begun(t, load.Options{Targets: []load.Target{to}, Clients: 1})
		testkit.Wait(t, func() bool { return r.Result().Requests > 5 }, "answers on the second port")
		if got := r.Stop(); got.Reasons[load.Refused] > 0 {
			t.Errorf("refused on the second port: %v", got.Reasons)
		}
	}
	a.Stop()
}

// A worker whose signals are confined cannot end baton, not even by KILL.
func TestAConfinedWorkerCannotKillBaton(t *testing.T) {
	python := program(t, "python3")
	// landlock_create_ruleset(2): with this flag it returns the ABI's version.
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || abi < 6 {
		t.Skipf("needs Landlock's signal scope, of ABI 6 and Linux 6.12; this is ABI %d, %v", abi, errno)
	}
	testkit.Leaks(t)
	script := filepath.Join(t.TempDir(), "killer.py")
	write(t, script, `
import os, signal, socket
for s in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
    try:
        os.kill(os.getppid(), s)
        print("sent", s.name, flush=True)
    except PermissionError:
        print("may not send", s.name, flush=True)
l = socket.socket(fileno=3)
l.setblocking(True)
while True:
    l.accept()[0].close()
`)
	a := run(t, config(t, []string{python, script}, "confine_signals = true", quick, listen("web", "127.0.0.1:0")))
	for _, s := range []string{"KILL", "STOP", "TERM"} {
		a.WaitLog("may not send SIG" + s)
	}
	a.swap()
	a.Stop()
}

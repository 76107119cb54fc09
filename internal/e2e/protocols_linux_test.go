package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
)

// program is the absolute path of one that the test needs.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		testkit.Lack(t, "needs %s: %v", name, err)
	}
	return path
}

func testdata(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A program of any language takes its socket over by whichever protocol it speaks,
// says that it is ready where the protocol can, and loses nothing in a swap.
func TestEachProtocolSwaps(t *testing.T) {
	testkit.Together(t)
	python, py := program(t, "python3"), testdata(t, "server.py")
	perl, pl := program(t, "perl"), testdata(t, "server.pl")
	for _, c := range []struct {
		name string
		exec []string
		more string // keys of [handoff]
		says string // what made it ready
	}{
		{"systemd", []string{python, py, "systemd"}, "", "it sent READY=1"},
		{"einhorn", []string{python, py, "einhorn"}, `protocols = ["einhorn"]`, "worker:ack"},
		{"socketmaster", []string{python, py, "socketmaster"}, `protocols = ["socketmaster"]`, "it accepts"},
		{"server-starter", []string{perl, pl}, "", "it accepts"},
		{"s6", []string{python, py, "s6", `{{fd "web"}}`, `{{ready}}`}, "ready = \"newline\"\nready_fd = 7", "newline"},
		{"template", []string{python, py, "template", `{{ fd "web" }}`, `{{address "web"}}`, "{{.Names}}"}, "", "it accepts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.name == "server-starter" && exec.Command(perl, "-MServer::Starter", "-e1").Run() != nil {
				testkit.Lack(t, "needs Perl's Server::Starter")
			}
			a := run(t, config(t, c.exec, quick, c.more, listen("web", "127.0.0.1:0")))
			if line := a.WaitEvent(0, "ready", "generation", 1); !strings.Contains(line.Text, c.says) {
				t.Errorf("ready: %s, want %q", line.Text, c.says)
			}
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
			for range 5 {
				a.swap()
			}
			none(t, c.name, fresh.Stop(), 100)
			a.Stop()
		})
	}
}

// Whatever a newcomer says on the channel of its protocol, it is not ready by that,
// the log says what was wrong, and the old generation serves on.
func TestAHostileNewcomerIsNotReady(t *testing.T) {
	testkit.Together(t)
	python, py := program(t, "python3"), testdata(t, "server.py")
	for kind, says := range map[string]string{
		"systemd": "notify message", "einhorn": "einhorn", "s6": "newline", "tableflip": "tableflip", "node": "node",
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			handoff := "ready = \"notify\"\nready_timeout = \"60s\"\n"
			path := config(t, testkit.Target("ready=notify"), quick, handoff, listen("web", "127.0.0.1:0"))
			a := run(t, path)
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 2})
			hostile := []string{python, py, kind, "hostile"}
			switch kind {
			case "s6":
				hostile = []string{python, py, kind, `{{fd "web"}}`, "{{ready}}", "hostile"}
				handoff = "ready = \"newline\"\nready_fd = 5\nready_timeout = \"60s\"\n"
			case "systemd":
			default:
				handoff += fmt.Sprintf("protocols = [%q]\n", kind)
			}
			rewrite(t, path, hostile, quick, handoff, listen("web", "127.0.0.1:0"))
			from := a.Next()
			a.HUP()
			// When it has said all it wants to say, it says so on its output and dies, by
			// which the rest of the log is known to have been written.
			started := a.WaitEvent(from, "started", "generation", 2)
			a.WaitLogFrom(from, "\"level\":\"WARN\".*"+says)
			a.WaitLogFrom(from, "^hostile: all said$")
			kill(t, number(t, started, "pid"))
			line := a.WaitEvent(from, "rolledback", "generation", 2)
			if message, _ := line.Event()["msg"].(string); !strings.Contains(message, "generation 1 serves on") {
				t.Errorf("the log says %q", message)
			}
			a.WaitEvent(from, "gone", "generation", 2)
			for _, line := range a.Lines()[from:] {
				if e := line.Event(); e["event"] == "ready" && fmt.Sprint(e["generation"]) == "2" {
					t.Errorf("it was taken for ready: %s", line.Text)
				}
			}
			rewrite(t, path, testkit.Target("ready=notify"), quick, listen("web", "127.0.0.1:0"))
			a.HUP()
			a.serving(3)
			none(t, "fresh", fresh.Stop(), 20)
			a.Stop()
		})
	}
}

// The verdict on one that never gets ready says what its channel said.
func TestAHostileNewcomersVerdictSaysWhatWasWrong(t *testing.T) {
	python, py := program(t, "python3"), testdata(t, "server.py")
	testkit.Leaks(t)
	handoff := "ready = \"newline\"\nready_fd = 5\nready_timeout = \"10s\"\n" // in which Python starts
	a := begin(t, config(t, []string{python, py, "s6", `{{fd "web"}}`, "{{ready}}", "hostile"}, quick, handoff, listen("web", "127.0.0.1:0")))
	message, _ := a.WaitEvent(0, "rolledback", "generation", 1).Event()["msg"].(string)
	for _, want := range []string{"not ready within 10s", "newline", "nothing serves"} {
		if !strings.Contains(message, want) {
			t.Errorf("the log says %q, without %q", message, want)
		}
	}
	if code := a.Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

// number is a field of an event that is one.
func number(t testing.TB, line testkit.Line, field string) int {
	t.Helper()
	n, err := strconv.Atoi(fmt.Sprint(line.Event()[field]))
	if err != nil {
		t.Fatalf("%s of %s: %v", field, line.Text, err)
	}
	return n
}

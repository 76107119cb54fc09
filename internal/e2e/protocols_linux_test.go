package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
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
		t.Skipf("needs %s: %v", name, err)
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
				t.Skip("needs Perl's Server::Starter")
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
	python, py := program(t, "python3"), testdata(t, "server.py")
	for kind, says := range map[string]string{
		"systemd": "notify message", "einhorn": "einhorn", "s6": "newline", "tableflip": "tableflip", "node": "node",
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			handoff := "ready = \"notify\"\nready_timeout = \"1500ms\"\n"
			path := config(t, testkit.Target("ready=notify"), quick, handoff, listen("web", "127.0.0.1:0"))
			a := run(t, path)
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 2})
			hostile := []string{python, py, kind, "hostile"}
			switch kind {
			case "s6":
				hostile = []string{python, py, kind, `{{fd "web"}}`, "{{ready}}", "hostile"}
				handoff = "ready = \"newline\"\nready_fd = 5\nready_timeout = \"1500ms\"\n"
			case "systemd":
			default:
				handoff += fmt.Sprintf("protocols = [%q]\n", kind)
			}
			rewrite(t, path, hostile, quick, handoff, listen("web", "127.0.0.1:0"))
			from := a.Next()
			a.HUP()
			line := a.WaitEvent(from, "rolledback", "generation", 2)
			if message, _ := line.Event()["msg"].(string); !strings.Contains(message, "generation 1 serves on") {
				t.Errorf("the log says %q", message)
			}
			a.WaitLogFrom(from, "(?i)(\"level\":\"WARN\"|rolledback).*"+says)
			a.WaitEvent(from, "gone", "generation", 2)
			rewrite(t, path, testkit.Target("ready=notify"), quick, listen("web", "127.0.0.1:0"))
			a.HUP()
			a.serving(3)
			none(t, "fresh", fresh.Stop(), 20)
			a.Stop()
		})
	}
}

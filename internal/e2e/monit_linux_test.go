package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/testkit"
)

// screen is a terminal that runs baton monit, and can be looked at and typed on: a
// window of a tmux that nobody else uses.
type screen struct {
	t      testing.TB
	socket string // of the tmux
}

// monit opens one of that size. Variables are set for baton alone.
func monit(t testing.TB, home string, width, height int, variables ...string) *screen {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		testkit.Lack(t, "a terminal to look at takes tmux: %v", err)
	}
	s := &screen{t, filepath.Join(home, fmt.Sprintf("tmux%d", time.Now().UnixNano()))}
	words := append([]string{"env", "BATON_HOME=" + home, "LC_ALL=C.UTF-8", "GORACE=atexit_sleep_ms=10"}, variables...)
	// The shell stays, for its words to be looked at: tmux 3.3 now and then loses the exit
	// code of what it runs itself.
	words = append(words, "sh", "-c", `"$@"; echo "left with $?."; read line`, "sh", testkit.Binary(t), "monit")
	// -f keeps the user's own configuration out.
	s.tmux(append([]string{"-f", "/dev/null", "set", "-g", "status", "off", ";",
		"new-session", "-d", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height)}, words...)...)
	t.Cleanup(func() { s.tmux("kill-server") })
	return s
}

func (s *screen) tmux(args ...string) string {
	s.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-u", "-S", s.socket}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// look is what stands on it.
func (s *screen) look() string { return s.tmux("capture-pane", "-p") }

// press types keys, as tmux calls them.
func (s *screen) press(keys ...string) { s.tmux(append([]string{"send-keys"}, keys...)...) }

func (s *screen) resize(width, height int) {
	s.tmux("resize-window", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height))
}

// shows waits until all of the texts stand on it.
func (s *screen) shows(texts ...string) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		last, missing := s.look(), ""
		for _, text := range texts {
			if !strings.Contains(last, text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no %q on the screen:\n%s", missing, last)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// watched starts an application in a place that several share.
func watched(t testing.TB, home, name string, more ...string) *app {
	t.Helper()
	path := config(t, testkit.Target("ready"), append([]string{listen("http", "127.0.0.1:"+strconv.Itoa(testkit.FreePort(t)))}, more...)...)
	l := testkit.NewBaton(t, "run", "--config", path, "--name", name, "--log", "json")
	if home != "" {
		l.Cmd.Env = append(l.Cmd.Env, "BATON_HOME="+home)
	}
	l.Start()
	a := &app{Launcher: l, t: t}
	a.serving(1)
	return a
}

func TestMonitShowsAndOperatesWhatRuns(t *testing.T) {
	web := watched(t, "", "web", `
[handoff]
workers = 2
drain_idle = "60s"
canary = [{weight = 25, pause = true}, {weight = 50, pause = true}]`)
	api := watched(t, web.Home, "api")
	s := monit(t, web.Home, 80, 24)
	s.shows("2 applications", "▸ api  serving", "web  serving       1     2/2", "── api ", "r reload")

	s.press("j")
	s.shows("▸ web  serving", "── web ", fmt.Sprintf("%d ready", web.Children()[0]))

	// A client that stays is what the drain will wait for.
	c, err := net.Dial("tcp", web.address("http").Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /pid HTTP/1.1\r\nHost: baton.test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1024)); err != nil {
		t.Fatal(err)
	}

	s.press("r")
	s.shows("reload web? y/n")
	s.press("y")
	s.shows("▸ web  canary", "canary      2 ████░░░░░░░░░░░░ 25% of new connections, step 1 of 2, paused", "p promote")
	s.press("p")
	s.shows("end the canary, generation 2 gets everything? y/n, s: only the next step")
	s.press("s")
	s.shows("████████░░░░░░░░ 50% of new connections, step 2 of 2, paused")
	s.press("p", "y")
	s.shows("web: swapped, generation 2 serves", "▸ web  draining", "drain       1 ████████████████ 1 connection left in 1 worker")
	c.Close()
	s.shows("▸ web  serving       2     2/2", "generation 1 is gone")

	s.press("+", "y")
	s.shows("web: 3 workers", "3/3")
	s.press("-", "n")
	s.shows("3/3")

	s.resize(160, 50)
	s.shows("LISTENS ON", "tcp://"+web.address("http").Address, "IN ITS OWN WORDS", "R", "memory", "up to")
	s.resize(70, 24)
	s.shows("baton monit needs 80 columns and 16 rows;", "this terminal has 70 and 24.")
	s.resize(80, 24)
	s.shows("── web ", "? help  q quit")

	s.press("g")
	s.shows("▸ api  serving")
	s.press("s")
	s.shows("stop api: finish what there is, and end? y/n")
	s.press("y")
	s.shows("api: stopped", "▸ api  ended")
	if code := api.Wait(); code != 0 {
		t.Errorf("api ended with %d", code)
	}

	s.press("q")
	s.shows("left with 0.")
	if left := s.look(); strings.Contains(left, "LAST VERDICT") {
		t.Errorf("the screen is not given back:\n%s", left)
	}
}

// The screens in docs/monit.md are made by a script; anybody may run it.
func TestTheScreensOfThePageCanBeMadeAnew(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds baton and watches it for a while")
	}
	for _, need := range []string{"tmux", "curl"} {
		if _, err := exec.LookPath(need); err != nil {
			testkit.Lack(t, "docs/screens.sh takes %s: %v", need, err)
		}
	}
	page := filepath.Join(t.TempDir(), "page.md")
	const marks = "before\n<!-- screen 80x24 -->\nold\n<!-- end -->\nbetween\n<!-- screen 160x50 -->\n<!-- end -->\nafter\n"
	if err := os.WriteFile(page, []byte(marks), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("../../docs/screens.sh", page).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	// What is around them, the marks, fences, and 24 and 50 lines.
	if want := 3 + 4 + 4 + 24 + 50 + 1; len(lines) != want || strings.Contains(string(text), "old") {
		t.Errorf("%d lines, want %d:\n%s", len(lines), want, text)
	}
	for _, want := range []string{"before\n<!-- screen 80x24 -->\n```text\nbaton  3 applications", "▸ web  canary", "LISTENS ON", "```\n<!-- end -->\nafter\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestMonitIsDrawnOnEveryTerminal(t *testing.T) {
	web := watched(t, "", "web")
	for _, term := range []string{"xterm-256color", "screen", "tmux", "linux", "vt100"} {
		for _, colours := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s %v", term, colours), func(t *testing.T) {
				variables := []string{"TERM=" + term, "NO_COLOR="}
				if !colours {
					variables[1] += "1"
				}
				s := monit(t, web.Home, 80, 24, variables...)
				s.shows("web  serving       1     1/1", "── web ", "? help  q quit")
				if got := s.tmux("capture-pane", "-p", "-e"); strings.Contains(got, "\x1b[32m") != colours {
					t.Errorf("%q", got)
				}
				s.press("?")
				s.shows("search the log")
				s.press("C-c")
				s.shows("left with 0.")
			})
		}
	}
	s := monit(t, web.Home, 80, 24, "TERM=dumb")
	s.shows("baton: monit needs a terminal", "left with 2.")
}

// R is baton restart: another launcher, which outlives the screen.
func TestMonitRestartsWhatWasStarted(t *testing.T) {
	h := newHouse(t)
	h.must(words("web", testkit.Target("ready")...)...)
	before := h.report("web").PID
	s := monit(t, h.home, 80, 24)
	s.shows("▸ web  serving", "started pid") // its log
	s.press("R")
	s.shows("stop web and start it again?")
	s.press("y")
	s.shows("web: restarted", "▸ web  serving")
	s.press("q")
	s.shows("left with 0.")
	if now := h.report("web"); now.PID == before || now.State != event.StateServing {
		t.Errorf("pid %d before, then %d, %s", before, now.PID, now.State)
	}
}

// What was started and does not run is on the screen as status has it, and R starts it.
func TestMonitShowsWhatDoesNotRunAndStartsIt(t *testing.T) {
	h := newHouse(t)
	h.must(words("api", testkit.Target("ready")...)...)
	h.must(words("web", testkit.Target("ready")...)...)
	h.must("stop", "api")
	s := monit(t, h.home, 80, 24)
	s.shows("  api  stopped", "▸ web  serving")
	s.press("k", "r")
	s.shows("▸ api  stopped", "api is not running; R starts it")
	s.press("R")
	s.shows("start api as it was started before?")
	s.press("y")
	s.shows("api: started", "▸ api  serving")
	s.press("q")
	s.shows("left with 0.")
	if now := h.report("api"); now.State != event.StateServing {
		t.Errorf("api is %s", now.State)
	}
}

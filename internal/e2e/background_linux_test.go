package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"

	"golang.org/x/sys/unix"
)

// house is a BATON_HOME of the test's own, with what runs in the background there.
type house struct {
	t    testing.TB
	home string
}

// newHouse ends everything that was started in it when the test is over.
func newHouse(t testing.TB) *house {
	h := &house{t: t, home: shortDir(t)}
	t.Cleanup(func() {
		code, out, errs := h.baton("stop", "all", "--now")
		if code != 0 && code != 4 {
			t.Errorf("stop all: exit code %d, %s%s", code, out, errs)
		}
	})
	return h
}

func (h *house) command(args ...string) *exec.Cmd {
	cmd := exec.Command(testkit.Binary(h.t), args...)
	cmd.Env = append(os.Environ(), "BATON_HOME="+h.home, "GORACE=atexit_sleep_ms=10")
	return cmd
}

func (h *house) baton(args ...string) (code int, stdout, stderr string) {
	h.t.Helper()
	var out, errs bytes.Buffer
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// must is baton where it has to succeed.
func (h *house) must(args ...string) string {
	h.t.Helper()
	code, out, errs := h.baton(args...)
	if code != 0 {
		h.t.Fatalf("%v: exit code %d, %s%s", args, code, out, errs)
	}
	return out
}

// report of an application, also when it does not run.
func (h *house) report(name string) event.Report {
	h.t.Helper()
	_, out, errs := h.baton("status", name, "--json")
	var r event.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		h.t.Fatalf("status %s: %v in %q%s", name, err, out, errs)
	}
	return r
}

// target of the first listener.
func (h *house) target(name string) load.Target {
	h.t.Helper()
	network, address, _ := strings.Cut(h.report(name).Listeners[0].Address, "://")
	return load.Target{Network: network, Address: address}
}

func (h *house) log(name string) string {
	h.t.Helper()
	return contents(h.t, filepath.Join(h.home, "log", name, "baton.log"))
}

// words start a target on a port of its own.
func words(name string, target ...string) []string {
	return append([]string{"start", "--name", name, "--listen", "127.0.0.1:0", "--drain-delay", "0s", "--log", "json", "--"}, target...)
}

// terminal is a shell at the other end of a terminal that the test closes.
type terminal struct {
	*os.File
	shell *exec.Cmd
	mu    sync.Mutex
	seen  strings.Builder
}

func newTerminal(t *testing.T, h *house) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal to be had: %v", err)
	}
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var failed error
	if err := raw.Control(func(fd uintptr) {
		n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		failed = errors.Join(failed, unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0))
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close() // the shell has its own
	sh := exec.Command("sh")
	sh.Env = append(os.Environ(), "BATON_HOME="+h.home, "GORACE=atexit_sleep_ms=10", "TERM=xterm", "PS1=", "NO_COLOR=1")
	sh.Stdin, sh.Stdout, sh.Stderr = slave, slave, slave
	sh.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	term := &terminal{File: master, shell: sh}
	go func() { // ends with the terminal
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			term.mu.Lock()
			term.seen.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return term
}

func (s *terminal) screen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

// The terminal's end is a HUP for everything in its session: the launcher is in none of
// it, and takes it for no reload.
func TestALauncherInTheBackgroundOutlivesItsTerminal(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	term := newTerminal(t, h)
	line := testkit.Binary(t) + " " + strings.Join(words("web", testkit.Target("delay=1s")...), " ")
	if _, err := io.WriteString(term, line+"\n"); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { return strings.Contains(term.screen(), "web: serving, with pid ") }, "the start at the terminal")
	if seen := term.screen(); !strings.Contains(seen, "\r\x1b[Kweb: starting, 0/1 ready") || !strings.Contains(seen, "\r\x1b[Kweb: serving") {
		t.Errorf("no progress in one line that goes away: %q", seen)
	}
	if _, err := io.WriteString(term, testkit.Binary(t)+" reload web\n"); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { return strings.Contains(term.screen(), "web: swapped, generation 2 serves") }, "the reload at the terminal")
	if seen := term.screen(); !strings.Contains(seen, "\r\x1b[Kweb: swapping, generation 2: 0/1 ready") {
		t.Errorf("no progress: %q", seen)
	}
	testkit.Wait(t, func() bool { return len(h.report("web").Generations) == 1 }, "the old generation to be gone")
	requested := reloadsAsked(h, "web")
	before := h.report("web")
	if err := term.Close(); err != nil {
		t.Fatal(err)
	}
	_ = term.shell.Wait() // the HUP ended it
	if state := term.shell.ProcessState; state.ExitCode() == 0 {
		t.Errorf("the shell got no HUP (%v): nothing was shown", state)
	}
	if got := served(t, h.target("web")); got != "2" {
		t.Errorf("generation %s serves", got)
	}
	if after := h.report("web"); after.PID != before.PID || len(after.Generations) != 1 || after.Generations[0].Number != 2 {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if n := reloadsAsked(h, "web"); n != requested {
		t.Errorf("it was taken for a reload: %d, then %d", requested, n)
	}
	h.must("stop", "web")
}

// Whoever waits for the start may leave: ^C, a connection that breaks.
func TestAStartGoesOnWithoutWhoAskedForIt(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	cmd := h.command(words("web", testkit.Target("delay=1s")...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(h.home, "run", "web.lock")
	testkit.Wait(t, func() bool { _, err := os.Stat(lock); return err == nil }, "the launcher")
	kill(t, cmd.Process.Pid)
	_ = cmd.Wait() // it was killed
	testkit.Wait(t, func() bool {
		code, out, _ := h.baton("status", "web")
		return code == 0 && strings.Contains(out, "serving")
	}, "it to serve")
	h.must("stop", "web")
	h.must("start", "web") // it is known
}

// A killed launcher is nobody's business but its own application's; its workers live on
// until the next of the name takes them over.
func TestAKilledLauncher(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	h.must(words("api", testkit.Target()...)...)
	h.must(append([]string{"start", "--name", "web", "--listen", "127.0.0.1:0", "--drain-timeout", "1s", "--log", "json", "--"}, testkit.Target("child=pipes")...)...)
	api := h.target("api")
	steady := begun(t, load.Options{Targets: []load.Target{api}, Clients: 4})
	web := h.report("web")
	worker := web.Generations[0].Workers[0].PID
	kill(t, web.PID)
	testkit.Wait(t, func() bool { return ended(t, web.PID) }, "the launcher to be gone")

	died := h.report("web")
	if died.State != event.StateDied || died.PID != 0 || len(died.Survivors) < 2 || died.Survivors[0] != worker {
		t.Errorf("killed: %+v; its worker is %d", died, worker)
	}
	code, out, _ := h.baton("status")
	if code != 0 || !strings.Contains(out, "web   died ") || !strings.Contains(out, strconv.Itoa(worker)) || !strings.Contains(out, "api   serving ") {
		t.Errorf("status: exit code %d\n%s", code, out)
	}
	if code, _, _ := h.baton("reload", "web"); code != 4 {
		t.Errorf("reload of the killed one: exit code %d", code)
	}
	h.must("start", "web")
	if got := served(t, h.target("web")); got != "1" {
		t.Errorf("generation %s serves", got)
	}
	if r := h.report("web"); r.Resumed != 1 || r.State != event.StateServing {
		t.Errorf("after the start %+v", r)
	}
	// Nobody reads what it writes any more: its successor is heard.
	testkit.Wait(t, func() bool { return ended(t, worker) }, "it to be followed")

	// stop ends what is left as well, and nothing of it stays.
	again := h.report("web")
	kill(t, again.PID)
	testkit.Wait(t, func() bool { return h.report("web").State == event.StateDied }, "it to be known")
	left := h.report("web").Survivors
	if code, _, errs := h.baton("stop", "web", "--now"); code != 0 || len(left) == 0 {
		t.Errorf("stop: exit code %d, %s; left were %v", code, errs, left)
	}
	for _, pid := range left {
		if !ended(t, pid) {
			t.Errorf("process %d lives on after stop", pid)
		}
	}
	if r := h.report("web"); r.State != event.StateStopped {
		t.Errorf("after stop: %+v", r)
	}
	if files, _ := filepath.Glob(filepath.Join(h.home, "run", "web.*")); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
	none(t, "the other application meanwhile", steady.Stop(), 100)
	if r := h.report("api"); r.Restarts != 0 || len(r.Generations) != 1 {
		t.Errorf("the other one: %+v", r)
	}
}

// A number in the list that is another process's by now, or of before a boot, is nobody's
// to end.
func TestAStartEndsNoStranger(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	h.must(words("web", testkit.Target()...)...)
	r := h.report("web")
	kill(t, r.PID)
	testkit.Wait(t, func() bool { return ended(t, r.PID) }, "the launcher to be gone")
	stranger := exec.Command("sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	list := filepath.Join(h.home, "run", "web.workers")
	worker := strconv.Itoa(r.Generations[0].Workers[0].PID)
	text := contents(t, list)
	if !strings.Contains(text, worker) {
		t.Fatalf("%s is not in %s", worker, text)
	}
	write(t, list, strings.ReplaceAll(text, worker, strconv.Itoa(stranger.Process.Pid)))
	h.must("start", "web")
	if ended(t, stranger.Process.Pid) {
		t.Error("a stranger was ended")
	}
	kill(t, r.Generations[0].Workers[0].PID) // the one that was not listed
}

// A launcher that hangs is left to itself, and it is said how to look.
func TestAStartThatHangsIsSaid(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a launcher may be quiet")
	}
	testkit.Leaks(t)
	h := newHouse(t)
	args := append([]string{"start", "--name", "web", "--listen", "127.0.0.1:0", "--ready-timeout", "1s", "--drain-timeout", "1s", "--"}, testkit.Target("delay=500ms")...)
	cmd := h.command(args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	testkit.Wait(t, func() bool {
		_, err := os.Stat(filepath.Join(h.home, "run", "web.workers")) // generation 1 starts
		lock, _ := os.ReadFile(filepath.Join(h.home, "run", "web.lock"))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(lock)))
		return pid > 0 && err == nil
	}, "the launcher")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its code follows
	if ended(t, pid) {
		t.Error("it was ended")
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(errs.String(), "web: still starting, with pid "+strconv.Itoa(pid)) || !strings.Contains(errs.String(), "baton status web") {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
}

// A launcher that panics, or is killed before it has said a word, is told from its log.
func TestAStartWhoseLauncherIsKilled(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	cmd := h.command(words("web", testkit.Target("delay=5s")...)...)
	said, err := os.Create(filepath.Join(h.home, "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close() // read by its name
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(h.home, "run", "web.workers")
	testkit.Wait(t, func() bool { _, err := os.Stat(list); return err == nil }, "its worker to be listed")
	testkit.Wait(t, func() bool { return strings.Contains(contents(t, said.Name()), "web: starting, 0/1 ready") }, "what was told before")
	pid, err := strconv.Atoi(strings.TrimSpace(contents(t, filepath.Join(h.home, "run", "web.lock"))))
	if err != nil {
		t.Fatal(err)
	}
	kill(t, pid)
	_ = cmd.Wait() // its code follows
	errs := contents(t, said.Name())
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(errs, "the launcher ended with 137 before anything served") ||
		!strings.Contains(errs, "  | started pid ") || !strings.Contains(errs, "baton.log") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if code, out, errs := h.baton("stop", "web", "--now"); code != 0 {
		t.Errorf("stop of what it left: exit code %d, %s%s", code, out, errs)
	}
}

// restart waits for what the old launcher has to finish, and the new one is another.
func TestRestartFinishesWhatThereIs(t *testing.T) {
	testkit.Leaks(t)
	h := newHouse(t)
	h.must(words("web", testkit.Target()...)...)
	before, to := h.report("web"), h.target("web")
	answer := make(chan error, 1)
	go func() { // ends with the answer
		r, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + to.Address + "/stream?chunks=5&every=100ms")
		answer <- nil // it has begun
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close() // read to the end
		}
		answer <- err
	}()
	<-answer
	out := h.must("restart", "web")
	if err := <-answer; err != nil {
		t.Errorf("the answer that was under way: %v", err)
	}
	after := h.report("web")
	if after.PID == before.PID || !strings.Contains(out, fmt.Sprintf("web: serving, with pid %d", after.PID)) || !ended(t, before.PID) {
		t.Errorf("%s: pid %d, then %d", out, before.PID, after.PID)
	}
}

// reloadsAsked counts the requests in an application's log.
func reloadsAsked(h *house, name string) int {
	h.t.Helper()
	return strings.Count(h.must("logs", name, "--lines", "all"), "a reload was requested")
}

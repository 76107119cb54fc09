package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"baton/internal/testkit"
)

// baton runs a verb as the user of a launcher would, and returns its exit code.
func (a *app) baton(args ...string) (code int, stdout, stderr string) {
	a.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(testkit.Binary(a.t), args...)
	cmd.Env = append(os.Environ(), "BATON_HOME="+a.Home, "GORACE=atexit_sleep_ms=10")
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		a.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// ended reports whether a process has; one that nobody has waited for yet has, too.
func ended(t *testing.T, pid int) bool {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

func TestStopReturnsWhenTheLauncherHasEnded(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), "[handoff]\ndrain_delay = \"0s\"", listen("web", "127.0.0.1:0"))
	for _, args := range [][]string{{"stop", "test"}, {"stop"}, {"stop", "test", "--now"}} {
		a := run(t, path)
		if code, out, errs := a.baton(args...); code != 0 || out != "test: stopped\n" {
			t.Errorf("%v: exit code %d, %q, %q", args, code, out, errs)
		}
		if !ended(t, a.PID()) {
			t.Errorf("%v returned before the end", args)
		}
		if code := a.Wait(); code != 0 {
			t.Errorf("%v: baton's exit code is %d", args, code)
		}
		if left, err := os.ReadDir(filepath.Join(a.Home, "run")); err != nil || len(left) > 0 {
			t.Errorf("%v left %v, %v", args, left, err)
		}
	}
}

// The second of two is refused; the first is killed, its worker lives on, and the name
// is free at once: the next one takes what is left over, and has it followed.
func TestANameIsFreeWhenItsLauncherWasKilled(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	first := run(t, path)
	second := testkit.NewBaton(t, "run", "--config", path)
	second.Cmd.Env = append(second.Cmd.Env, "BATON_HOME="+first.Home)
	second.Start()
	if code := second.Wait(); code != 6 {
		t.Errorf("the second one's exit code is %d", code)
	}
	second.WaitLog(fmt.Sprintf("^baton: test is already running, with pid %d$", first.PID()))
	if got := served(t, first.address("web")); got != "1" {
		t.Errorf("generation %s serves", got)
	}

	first.Signal(syscall.SIGKILL)
	first.Wait()
	if code, out, _ := first.baton("status", "test"); code != 4 || !strings.Contains(out, "test  died ") {
		t.Errorf("status of the killed one: exit code %d, %s", code, out)
	}
	left := first.Processes()
	if len(left) == 0 {
		t.Error("the killed one's worker has not outlived it: nothing is shown")
	}
	third := testkit.NewBaton(t, "run", "--config", path, "--log", "json")
	third.Cmd.Env = append(third.Cmd.Env, "BATON_HOME="+first.Home)
	third.Start()
	third.WaitEvent(0, "resumed", "generation", 1)
	for pid := range left {
		testkit.Wait(t, func() bool { return ended(t, pid) }, "what was left of the killed one to be followed")
	}
	if code, out, _ := first.baton("status", "test", "--json"); code != 0 || !strings.Contains(out, fmt.Sprintf(`"pid": %d,`, third.PID())) {
		t.Errorf("status: exit code %d, %s", code, out)
	}
	third.Stop()
}

func TestWithoutAPlaceForItsSocketBatonRuns(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	l := testkit.NewBaton(t, "run", "--config", path, "--log", "json")
	l.Cmd.Env = append(l.Cmd.Env, "BATON_HOME=/proc/baton") // root cannot make it either
	l.Start()
	a := &app{Launcher: l, t: t}
	a.serving(1)
	a.swap()
	if got := served(t, a.address("web")); got != "2" {
		t.Errorf("generation %s serves", got)
	}
	a.Stop()
	if n := strings.Count(a.Log(), "no control socket"); n != 1 {
		t.Errorf("it was said %d times:\n%s", n, a.Log())
	}
}

// A deploy as a script does it, and everything that goes wrong with one.
func TestReloadTellsWhatCameOfIt(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	if code, out, errs := a.baton("reload", "test"); code != 0 || out != "test: swapped, generation 2 serves\n" {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if got := served(t, a.address("web")); got != "2" {
		t.Errorf("reload has returned, and generation %s serves", got)
	}
	rewrite(t, path, testkit.Target("exit=7", "words=no_licence"), quick, listen("web", "127.0.0.1:0"))
	if code, _, errs := a.baton("reload", "test"); code != 3 || !strings.Contains(errs, "rolled back: exit status 7\n") || !strings.Contains(errs, "no_licence") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	busy, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	rewrite(t, path, testkit.Target(), quick, listen("web", "127.0.0.1:0"), listen("more", busy.Addr().String()))
	if code, _, errs := a.baton("reload", "test"); code != 5 || !strings.Contains(errs, "refused: ") || !strings.Contains(errs, "address already in use") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	// Of two that wait while a third is under way, the first gives way.
	rewrite(t, path, testkit.Target("delay=1s"), quick, listen("web", "127.0.0.1:0"))
	codes := make(chan int, 3)
	for i := range 3 {
		from := a.Next()
		go func() { // ends with the verdict
			code, _, _ := a.baton("reload", "test")
			codes <- code
		}()
		a.WaitEvent(from, map[int]string{0: "starting", 1: "reload-requested", 2: "superseded"}[i])
	}
	if got := []int{<-codes, <-codes, <-codes}; got[0] != 6 || got[1] != 0 || got[2] != 0 {
		t.Errorf("exit codes %v", got)
	}
	a.Stop()
}

// Whoever looks every second for a year leaves no trace.
func TestAskingLeavesNothingBehind(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, []string{built(t, "baton/bench/server")}, quick, listen("web", "127.0.0.1:0"))
	a := &app{t: t, Launcher: testkit.StartBaton(t, built(t, "baton"), "run", "--config", path, "--log", "json")}
	a.serving(1)
	idle := memory(t, a.PID(), "VmRSS")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(a.Home, "run", "test.sock"))
	}}}
	ask := func(n int) {
		for range n {
			r, err := client.Get("http://baton/v1/status")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			_ = r.Body.Close() // read to the end
			if err != nil || !strings.Contains(string(body), `"phase":"serving"`) {
				t.Fatalf("%s, %v", body, err)
			}
		}
	}
	ask(500)
	descriptors, anonymous := testkit.Descriptors(a.PID()), memory(t, a.PID(), "RssAnon")
	ask(2000)
	testkit.Wait(t, func() bool { return testkit.Descriptors(a.PID()) <= descriptors }, "descriptors to be as many as before")
	after := memory(t, a.PID(), "RssAnon")
	t.Logf("idle %d kB resident; anonymous %d kB after 500, %d kB after 2,500; %d kB resident", idle, anonymous, after, memory(t, a.PID(), "VmRSS"))
	if after > anonymous+1<<10 {
		t.Errorf("memory grew from %d to %d kB", anonymous, after)
	}
	a.Stop()
}

// The socket's end of a connection is nobody's but the launcher's: workers have
// neither it nor the lock.
func TestWorkersDoNotHaveTheControlSocket(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
	ours := map[string]bool{}
	table, err := os.Open("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) == 8 && strings.HasPrefix(f[7], a.Home) {
			ours["socket:["+f[6]+"]"] = true
		}
	}
	if len(ours) == 0 {
		t.Fatal("no control socket found: nothing would be shown")
	}
	ours[filepath.Join(a.Home, "run", "test.lock")] = true
	for _, pid := range a.Children() {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(links) == 0 {
			t.Fatalf("worker %d: %v", pid, err)
		}
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && ours[to] {
				t.Errorf("worker %d has %s", pid, to)
			}
		}
	}
	a.Stop()
}

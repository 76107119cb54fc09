package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"baton/internal/testkit"

	"golang.org/x/sys/unix"
)

// captured is [logs] with small files.
const captured = "[logs]\noutput = \"capture\"\nmax_size = \"1M\"\nkeep = 4"

// logs runs baton logs on what a launcher has captured.
func (a *app) logs(args ...string) (string, error) {
	cmd := exec.Command(testkit.Binary(a.t), append([]string{"logs", "test"}, args...)...)
	cmd.Env = append(os.Environ(), "BATON_HOME="+a.Home)
	out, err := cmd.Output()
	return string(out), err
}

// A worker's lines are in the log in their order, by stream, with who wrote them; baton's
// own stand between them, and none is on baton's standard output.
func TestCapturedLinesAreAllThere(t *testing.T) {
	testkit.Leaks(t)
	const lines = 20_000
	a := run(t, config(t, testkit.Target(fmt.Sprintf("lines=%d", lines)), quick, strings.Replace(captured, "1M", "64M", 1), listen("web", "127.0.0.1:0")))
	pid := a.pid(1)
	a.HUP()
	a.serving(2)
	a.gone(1)
	a.Stop()
	out, err := a.logs("--json", "--lines", "all")
	if err != nil {
		t.Fatal(err)
	}
	next := map[string]int{}
	own := map[string]bool{}
	for line := range strings.Lines(out) {
		var r struct {
			App, T, S, L string
			G, PID       int
			W            *int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.App != "test" {
			t.Fatalf("%v: %s", err, line)
		}
		stream, n, ok := strings.Cut(r.L, " line ")
		if r.S == "baton" {
			own[r.L] = true
			continue
		}
		key := r.S + strconv.Itoa(r.G)
		next[key]++
		if want := fmt.Sprintf("%d of %d", next[key], lines); !ok || n != want || stream != "std"+r.S || *r.W != 0 || r.G == 1 && r.PID != pid {
			t.Fatalf("%s, want line %s", line, want)
		}
	}
	for _, key := range []string{"out1", "err1", "out2", "err2"} {
		if next[key] != lines {
			t.Errorf("%s: %d lines", key, next[key])
		}
	}
	for _, want := range []string{"generation 1 serves", "generation 2 serves", "generation 1 is gone", "stopped"} {
		if !own[want] {
			t.Errorf("baton's %q is not among %v", want, own)
		}
	}
	for _, l := range a.Lines() {
		if l.Stdout || l.Event() == nil {
			t.Errorf("printed: %s", l.Text)
		}
	}
}

// What a killed launcher had written can be read, and the next one goes on with it.
func TestAKilledLauncherLeavesAReadableLog(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target("lines=200000"), quick, captured, listen("web", "127.0.0.1:0"))
	a := begin(t, path)
	dir := filepath.Join(a.Home, "log", "test")
	testkit.Wait(t, func() bool {
		names, err := filepath.Glob(filepath.Join(dir, "log-*"))
		return err == nil && len(names) >= 2
	}, "files to be rotated")
	a.Signal(syscall.SIGKILL)
	a.Wait()
	a.KillLeftovers()
	out, err := a.logs("--lines", "all")
	if err != nil {
		t.Fatal(err)
	}
	next := map[string]int{}
	for line := range strings.Lines(out) {
		_, words, ok := strings.Cut(line, " | ")
		stream, of, ok2 := strings.Cut(words, " line ")
		if !ok || !ok2 {
			continue
		}
		n, err := strconv.Atoi(strings.Fields(of)[0])
		if err != nil || next[stream] != 0 && n != next[stream] {
			t.Fatalf("%q, want line %d", line, next[stream])
		}
		next[stream] = n + 1
	}
	if next["stdout"] == 0 {
		t.Fatalf("no line of a worker in\n%s", out)
	}
	again := testkit.NewBaton(t, "run", "--config", config(t, testkit.Target(), quick, captured, listen("web", "127.0.0.1:0")), "--log", "json")
	again.Cmd.Env = append(again.Cmd.Env, "BATON_HOME="+a.Home)
	again.Start()
	again.WaitEvent(0, "serving")
	again.Stop()
	if out, err = a.logs("--lines", "3"); err != nil || !strings.HasSuffix(out, " test baton | stopped\n") {
		t.Errorf("%v: %q", err, out)
	}
}

// A disk that is full costs lines, not connections; how many is in the log.
func TestAFullDiskCostsNoConnection(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	testkit.Leaks(t)
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	l := testkit.NewBaton(t, "run", "--config", config(t, testkit.Target("lines=20000"), quick,
		"[logs]\noutput = \"capture\"", listen("web", "127.0.0.1:0")), "--log", "json")
	if err := os.Symlink(disk, filepath.Join(l.Home, "log")); err != nil {
		t.Fatal(err)
	}
	l.Start()
	a := &app{Launcher: l, t: t}
	a.serving(1)
	l.WaitLog(`"level":"WARN","msg":"the workers' output is not kept as it should be: write .*: no space left on device"`)
	for g := 2; g < 5; g++ {
		from := l.Next()
		l.HUP()
		l.WaitEvent(from, "serving", "generation", g)
	}
	if out, err := exec.Command("sh", "-c", "rm "+disk+"/test/log.jsonl").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	testkit.Wait(t, func() bool {
		out, err := a.logs("--lines", "all")
		return err == nil && strings.Contains(out, " lines dropped: write ")
	}, "what was dropped to be said")
	a.Stop()
	out, err := a.logs("--lines", "all", "--json", "--grep", " dropped: ")
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ Drop int }
	if err := json.Unmarshal([]byte(strings.SplitAfter(out, "\n")[0]), &r); err != nil || r.Drop < 100_000 {
		t.Errorf("%v: %s", err, out)
	}
}

// A log that cannot be written is said, and the output passes through.
func TestALogWithoutAPlaceIsSaid(t *testing.T) {
	testkit.Leaks(t)
	l := testkit.NewBaton(t, "run", "--config", config(t, testkit.Target("lines=3"), quick, captured, listen("web", "127.0.0.1:0")), "--log", "json")
	if err := os.WriteFile(filepath.Join(l.Home, "log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.Start()
	l.WaitEvent(0, "serving")
	l.WaitLog(`"level":"WARN","msg":"the workers' output is not captured, and passes through: mkdir .*: not a directory"`)
	l.WaitLog("^stdout line 3 of 3$")
	l.Stop()
}

// numbered holds what is printed by baton logs --json to its promise: the lines 1, 2, 3
// and so on come in order, each once, and where some are missing it says how many.
type numbered struct{ next, shown, missing int64 }

func (n *numbered) take(line string) error {
	if _, drop, ok := strings.Cut(line, `,"drop":`); ok {
		drop, _, _ = strings.Cut(drop, ",")
		v, err := strconv.ParseInt(drop, 10, 64)
		n.next, n.missing = n.next+v, n.missing+v
		return err
	}
	_, text, ok := strings.Cut(line, `"l":"`)
	if !ok || !strings.Contains(line, `"s":"out"`) {
		return nil
	}
	text, _, _ = strings.Cut(text, `"`)
	if text != strconv.FormatInt(n.next, 10) {
		return fmt.Errorf("%s, where line %d was due", strings.TrimSpace(line), n.next)
	}
	n.next++
	n.shown++
	return nil
}

// A worker that prints a million lines, ten million with BATON_LONG, while they are
// followed, rotated and flushed, and baton is asked to reopen its files.
func TestAMillionLinesAreFollowedOrCounted(t *testing.T) {
	testkit.Leaks(t)
	lines := int64(1_000_000)
	switch {
	case os.Getenv("BATON_LONG") != "":
		lines = 10_000_000
	case testing.Short():
		lines = 100_000
	}
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("read go <%s; seq 1 %d; read go <%s; echo %d; exec %s", gate, lines-1, gate, lines, strings.Join(testkit.Target(), " "))
	a := begin(t, config(t, []string{"sh", "-c", script}, quick, strings.Replace(captured, "1M", "8M", 1), listen("web", "127.0.0.1:0")))
	a.WaitEvent(0, "started")
	open := func() { // the worker's next step
		t.Helper()
		if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	follow := exec.Command(testkit.Binary(t), "logs", "test", "--follow", "--json", "--lines", "all", "--worker", "0")
	follow.Env = append(os.Environ(), "BATON_HOME="+a.Home)
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	seen, follows := make(chan error, 1), make(chan struct{})
	n := numbered{next: 1}
	var once sync.Once
	go func() { // ends with the last line, or with the one that follows
		for r := bufio.NewReaderSize(out, 1<<20); n.next <= lines; {
			line, err := r.ReadString('\n')
			if err == nil {
				err = n.take(line)
			}
			if err != nil {
				seen <- err
				return
			}
			once.Do(func() { close(follows) })
		}
		seen <- nil
	}()
	began := time.Now()
	open()
	select { // what is removed before anybody follows is missed by nobody
	case <-follows:
	case err := <-seen:
		t.Fatalf("before the first line was removed: %v", err)
	}
	flushed := 0
	for written := false; !written; flushed++ {
		cmd := exec.Command(testkit.Binary(t), "flush", "test")
		cmd.Env = follow.Env
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		a.Signal(syscall.SIGUSR1)
		// The worker opens the gate again when it has printed all but the last.
		fd, err := unix.Open(gate, unix.O_WRONLY|unix.O_NONBLOCK, 0)
		if written = err == nil; written {
			if _, err := unix.Write(fd, []byte("go\n")); err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(fd) // the worker has what it needs
		}
	}
	took := time.Since(began)
	err = <-seen
	if kerr := follow.Process.Kill(); kerr != nil {
		t.Error(kerr)
	}
	_ = follow.Wait() // it was killed
	if err != nil || n.next != lines+1 {
		t.Errorf("%v; the next would be %d", err, n.next)
	}
	t.Logf("%d lines in %v, %d times flushed: %d were shown, %d counted as missing", lines, took.Round(time.Millisecond), flushed, n.shown, n.missing)
	a.WaitEvent(0, "serving")
	a.Stop()
}

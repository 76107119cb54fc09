package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/load"
	"baton/internal/testkit"
)

// pipe has room for a page. Both ends are closed with the test.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() }) // one may be closed already
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	return r, w
}

// fullPipe returns the write end of a pipe that is full and that nobody reads.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	_, w := pipe(t)
	fd := int(w.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for size := 4096; size > 0; {
		if _, err := unix.Write(fd, make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil { // as a log collector's is
		t.Fatal(err)
	}
	return w
}

// with starts baton with these as its output and error; nil is the usual.
func with(t *testing.T, stdout, stderr *os.File, path string) *app {
	t.Helper()
	l := testkit.NewBaton(t, "run", "--config", path, "--log", "json")
	l.StartBy = func(c *exec.Cmd) error {
		if stdout != nil {
			c.Stdout = stdout
		}
		if stderr != nil {
			c.Stderr = stderr
		}
		return c.Start()
	}
	l.Start()
	return &app{Launcher: l, t: t}
}

func TestALauncherWhoseLogNobodyReadsWorksOn(t *testing.T) {
	testkit.Leaks(t)
	port := testkit.FreePort(t)
	target := load.Target{Network: "tcp", Address: fmt.Sprintf("127.0.0.1:%d", port)}
	// The worker's own line waits for the same reader.
	a := with(t, nil, fullPipe(t), config(t, testkit.Target("lines=1"), quick, listen("web", target.Address)))
	testkit.Wait(t, func() bool { return testkit.Listening(t, port) }, "the listener")
	for generation := 1; generation <= 4; generation++ {
		testkit.Wait(t, func() bool { return served(t, target) == fmt.Sprint(generation) },
			fmt.Sprintf("generation %d to serve", generation))
		if generation < 4 {
			a.HUP()
		}
	}
	a.Signal(syscall.SIGUSR1)
	a.Stop()
}

// The exit code tells what standard error cannot.
func TestALauncherThatCannotStartEndsThoughNobodyReadsWhy(t *testing.T) {
	testkit.Together(t)
	path := config(t, testkit.Target("exit=7"), quick, listen("web", "127.0.0.1:0"))
	t.Run("nobody reads", func(t *testing.T) {
		testkit.Leaks(t)
		if code := with(t, nil, fullPipe(t), path).Wait(); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
	})
	t.Run("the reader is gone", func(t *testing.T) {
		testkit.Leaks(t)
		r, w := pipe(t)
		_ = r.Close() // never used
		if code := with(t, nil, w, path).Wait(); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
	})
}

// However few descriptors there are, baton serves or says what it lacks.
func TestALauncherWithTooFewDescriptorsSaysSo(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	refused, served := 0, false
	for limit := 10; limit < 64 && !served; limit++ {
		l := testkit.NewBaton(t, "run", "--config", path, "--log", "json")
		l.StartBy = func(c *exec.Cmd) error {
			c.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, limit), "sh", c.Path}, c.Args[1:]...)
			c.Path = "/bin/sh"
			return c.Start()
		}
		l.Start()
		end := l.WaitLine(0, "the end, or to serve", func(line testkit.Line) bool {
			return strings.HasPrefix(line.Text, "baton: ") || strings.Contains(line.Text, `"event":"serving"`)
		})
		if served = !strings.HasPrefix(end.Text, "baton: "); served {
			l.Stop()
			continue
		}
		if code := l.Wait(); code != 1 || !strings.Contains(end.Text, "too many open files") {
			t.Errorf("with %d descriptors: exit code %d: %s", limit, code, end.Text)
		}
		refused++
	}
	if !served || refused == 0 {
		t.Errorf("refused %d times, served at last: %v", refused, served)
	}
}

// What a worker that has ended left behind reaches a reader who comes late and
// reads slowly; one who never comes does not keep baton from ending.
func TestTheLastOutputWaitsForItsReader(t *testing.T) {
	testkit.Together(t)
	const lines = 2000 // more than the page of the reader's pipe, less than a worker's pipe holds
	start := func(t *testing.T) (*app, *os.File, *os.File) {
		t.Helper()
		r, w := pipe(t)
		path := config(t, testkit.Target(fmt.Sprintf("lines=%d", lines)), quick, listen("web", "127.0.0.1:0"))
		a := with(t, w, nil, path)
		a.serving(1)
		a.Signal(syscall.SIGTERM)
		testkit.Wait(t, func() bool { return len(a.Children()) == 0 }, "the worker to be gone")
		return a, r, w
	}
	t.Run("slow", func(t *testing.T) {
		testkit.Leaks(t)
		a, r, w := start(t)
		_ = w.Close() // baton has its own
		got := bufio.NewScanner(slowly{r})
		n := 0
		for ; got.Scan(); n++ {
			if want := fmt.Sprintf("stdout line %d of %d", n+1, lines); got.Text() != want {
				t.Fatalf("%q, want %q", got.Text(), want)
			}
		}
		if n != lines || got.Err() != nil {
			t.Errorf("%d lines, want %d (%v)", n, lines, got.Err())
		}
		if code := a.Wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("never", func(t *testing.T) {
		testkit.Leaks(t)
		a, _, _ := start(t)
		if code := a.Wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// slowly reads a page every 20 ms.
type slowly struct{ r io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	<-time.After(20 * time.Millisecond)
	return s.r.Read(p[:min(len(p), 4096)])
}

// storm sends HUPs as fast as it can until it is stopped or baton has ended.
func storm(a *app) (stop func()) {
	var wg sync.WaitGroup
	quit := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				case <-a.Exited():
					return
				default:
					_ = a.Cmd.Process.Signal(syscall.SIGHUP) // it may just have ended
				}
			}
		})
	}
	return func() { close(quit); wg.Wait() }
}

func TestAStormOfHUPsHidesNoOtherSignal(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	stop := storm(a)
	defer stop()
	a.serving(2)
	a.Signal(syscall.SIGTERM)
	a.WaitEvent(0, "stopping")
	if code := a.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// The last of many HUPs counts: what was written before it is read.
func TestTheLastHUPOfAStormIsObeyed(t *testing.T) {
	testkit.Leaks(t)
	fresh := func(name string) string { return listen(name, fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))) }
	web := fresh("web")
	path := config(t, testkit.Target(), quick, web)
	a := run(t, path)
	for n := range 5 {
		stop := storm(a)
		a.WaitEvent(a.Next(), "serving")
		stop()
		name := fmt.Sprintf("late%d", n)
		web += fresh(name)
		rewrite(t, path, testkit.Target(), quick, web)
		a.HUP()
		a.address(name)
	}
	a.Stop()
}

func TestALogLevelThatNeverServedIsNotTaken(t *testing.T) {
	testkit.Leaks(t)
	quiet := "[log]\nlevel = \"error\""
	web := listen("web", "127.0.0.1:0")
	path := config(t, testkit.Target(), quick, web)
	a := run(t, path)
	rewrite(t, path, []string{"/nowhere/server"}, quick, quiet, web)
	a.HUP()
	a.WaitEvent(a.from, "refused")
	from := a.Next()
	kill(t, a.pid(1))
	a.WaitEvent(from, "ready", "generation", 1)

	rewrite(t, path, testkit.Target(), quick, quiet, web)
	a.HUP()
	a.serving(3)              // the second was refused
	a.Signal(syscall.SIGUSR2) // a warning, if it were said
	a.Stop()
	for _, l := range a.Lines()[a.from:] {
		if e := l.Event(); e != nil && e["level"] != "ERROR" {
			t.Errorf("at level error it said %s", l.Text)
		}
	}
}

func TestAChangeThatNeedsARestartIsSaidOnce(t *testing.T) {
	testkit.Leaks(t)
	web := listen("web", "127.0.0.1:0")
	path := config(t, testkit.Target(), quick, web)
	a := run(t, path)
	rewrite(t, path, testkit.Target(), quick, "[logs]\noutput = \"inherit\"", web)
	a.HUP()
	a.serving(2)
	a.gone(1)
	a.Stop()
	var said []string
	for _, l := range a.Lines() {
		if strings.Contains(l.Text, "logs.output is taken at the start") {
			said = append(said, l.Text)
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], `"level":"WARN"`) {
		t.Errorf("said %q", said)
	}
}

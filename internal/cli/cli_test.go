package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/process"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The scripts run the real command line in processes of its own: this binary, under
// the name baton. It is the shim too, and under the name target the server.
func TestMain(m *testing.M) {
	process.Main()
	testscript.Main(m, map[string]func(){
		"baton":  func() { os.Exit(Main(os.Args, os.Stdout, os.Stderr)) },
		"target": target,
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"get":    get,
			"code":   code,
			"await":  await,
			"signal": sendSignal,
			"until":  until,
			"there":  there,
		},
		RequireExplicitExec: true,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "systemd":
				return booted(), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(e *testscript.Env) error {
			// A process under the race detector lingers for a second at its exit; there
			// are a hundred of them here.
			e.Setenv("GORACE", "atexit_sleep_ms=10")
			self, err := exec.LookPath("baton") // testscript has put it there
			if err != nil {
				return err
			}
			e.Setenv("BATON", self) // for a script whose PATH is another
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("BATON_HOME", home) // no launcher but its own
			e.Defer(func() { endAll(home) })
			return nil
		},
	})
}

// endAll ends the launchers in the background that a script has left, as it does when it
// fails.
func endAll(home string) {
	locks, _ := filepath.Glob(filepath.Join(home, "run", "*.lock"))
	for _, lock := range locks {
		text, _ := os.ReadFile(lock)
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid < 2 {
			continue
		}
		_ = syscall.Kill(pid, syscall.SIGQUIT) // it may have ended
		within(func() bool { _, err := os.Lstat(lock); return err != nil || syscall.Kill(pid, 0) != nil })
	}
}

// target is a stock net/http server on the first socket it is given. It answers
// with its first argument and the names of its sockets, and ends in peace on TERM.
func target() {
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "target:", err)
		os.Exit(1)
	}
	word := strings.Join(append(os.Args[1:], os.Getenv("WORD")), " ")
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, strings.TrimSpace(word), os.Getenv("LISTEN_FDNAMES"))
	})}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	ended := make(chan struct{})
	go func() { // ends with the process, or once the server is shut down
		<-ctx.Done()
		_ = s.Shutdown(context.Background()) // no deadline, so only a listener's close could fail
		close(ended)
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "target:", err)
		os.Exit(1)
	}
	<-ended
	stop()
}

// within calls f until it says that it is done; ten seconds at most.
func within(f func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if f() {
			return true
		}
	}
	return false
}

// get SOCKET WANT asks over a unix socket, each time on a fresh connection, until
// the answer is WANT.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: get SOCKET WANT")
	}
	path := ts.MkAbs(args[0])
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	last := ""
	if !within(func() bool {
		response, err := client.Get("http://target/")
		if err != nil {
			last = err.Error()
			return false
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // read to the end or given up
		last = strings.TrimSpace(string(body))
		return err == nil && last == args[1]
	}) {
		ts.Fatalf("get %s: last answer %q, want %q", args[0], last, args[1])
	}
}

// await FILE TEXT waits until the file holds the text.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE TEXT")
	}
	var text []byte
	if !within(func() bool {
		text, _ = os.ReadFile(ts.MkAbs(args[0])) // not there yet is not yet
		return strings.Contains(string(text), args[1])
	}) {
		ts.Fatalf("await %s: no %q in\n%s", args[0], args[1], text)
	}
}

// there FILE waits until there is such a file.
func there(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: there FILE")
	}
	if !within(func() bool {
		_, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil
	}) {
		ts.Fatalf("there is no %s", args[0])
	}
}

// until TEXT COMMAND... runs a command until its standard output holds the text.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until TEXT COMMAND [ARG...]")
	}
	if !within(func() bool {
		err := ts.Exec(args[1], args[2:]...)
		return err == nil && strings.Contains(ts.ReadFile("stdout"), args[0])
	}) {
		ts.Fatalf("until: no %q", args[0])
	}
}

// sendSignal NAME sends a signal, without SIG in its name, to the command started
// last in the background. The kill that testscript has knows but two signals.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	running := ts.BackgroundCmds()
	if neg || len(args) != 1 || len(running) == 0 {
		ts.Fatalf("usage: signal NAME, with a command in the background")
	}
	sig := unix.SignalNum("SIG" + args[0])
	if sig == 0 {
		ts.Fatalf("no signal %s", args[0])
	}
	ts.Check(running[len(running)-1].Process.Signal(sig))
}

// code N COMMAND... runs a command and wants exactly this exit code.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

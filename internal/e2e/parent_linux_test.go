package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"baton/internal/load"
	"baton/internal/testkit"
)

// foreign builds a server of testdata/programs, a module of its own.
func foreign(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join("..", "..", "testdata", "programs", name)
	if out, err := exec.CommandContext(t.Context(), "go", "-C", dir, "mod", "download").CombinedOutput(); err != nil {
		testkit.Lack(t, "needs the modules of %s: %v: %s", dir, err, out)
	}
	path := filepath.Join(t.TempDir(), name)
	if out, err := exec.CommandContext(t.Context(), "go", "-C", dir, "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", dir, err, out)
	}
	return path
}

// Programs that take their parent for the generation before, and tell it by TERM to
// end, say in this way that they are ready: baton lives, and they are swapped.
func TestAProgramThatEndsItsParentIsReadyByThat(t *testing.T) {
	testkit.Together(t)
	for name, more := range map[string]string{
		"grace":   quick,
		"endless": quick + "\nprotocols = [\"endless\"]",
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Leaks(t)
			address := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
			a := begin(t, config(t, []string{foreign(t, name), address}, more, listen("web", address)))
			a.readyByTERM(1, false)
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 8})
			by := false
			for range 5 {
				fresh.Mark()
				a.HUP()
				by = a.readyByTERM(a.last+1, by)
				fresh.Settle()
			}
			if !by {
				t.Error("no generation was ready by its TERM")
			}
			r := fresh.Stop()
			none(t, name, r, 50)
			if len(r.ByGeneration) < 5 {
				t.Errorf("%d generations answered", len(r.ByGeneration))
			}
			a.Stop()
		})
	}
}

// readyByTERM waits until the generation serves, and says whether that is because its worker
// sent TERM. It need not be as long as none has been (before): what comes first counts then,
// that or the proof that it accepts.
func (a *app) readyByTERM(generation int, before bool) bool {
	a.t.Helper()
	ready := a.WaitEvent(a.from, "ready", "generation", generation)
	reason := ready.Event()["reason"]
	by := reason == "it sent TERM to its parent"
	if before && !by {
		a.t.Errorf("generation %d is ready because %v", generation, reason)
	}
	a.WaitLogFrom(a.from, fmt.Sprintf("worker pid %v sent TERM to baton: not obeyed", ready.Event()["pid"]))
	a.serving(generation)
	return by
}

// sending is a target that is sent signals to its parent by processes of the worker,
// by each of these again and again, before and while it serves.
func sending(pause string, signals ...string) []string {
	script := ""
	for _, sig := range signals {
		script += fmt.Sprintf("kill -%s $PPID\n(while kill -%s $PPID; do %s; done) &\n", sig, sig, pause)
	}
	return append([]string{"/bin/sh", "-c", script + `exec "$@"`, "sh"}, testkit.Target()...)
}

// A worker cannot stop baton, whatever it sends that can be caught, at any time, and
// slowly or as fast as it can; an operator can. The kernel keeps one of two equal
// signals that wait, so the operator sends one that the worker does not.
func TestAWorkerThatSignalsItsParentCannotStopBaton(t *testing.T) {
	testkit.Together(t)
	for _, c := range []struct {
		name, pause string
		signals     string
		operator    syscall.Signal
	}{
		{"again and again", "sleep 0.02", "TERM QUIT USR1 USR2 TTIN TTOU", syscall.SIGINT},
		{"interrupts", "sleep 0.02", "INT QUIT", syscall.SIGTERM},
		{"without end", ":", "QUIT", syscall.SIGTERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			a := run(t, config(t, sending(c.pause, strings.Fields(c.signals)...), quick, listen("web", "127.0.0.1:0")))
			fresh := begun(t, load.Options{Targets: []load.Target{a.address("web")}, Clients: 4})
			for range 5 {
				fresh.Mark()
				a.swap()
				fresh.Settle()
			}
			none(t, c.name, fresh.Stop(), 50)
			for sig := range strings.FieldsSeq(c.signals) {
				a.WaitLog(`worker pid \d+ sent ` + sig + " to baton: not obeyed")
			}
			a.Signal(c.operator)
			if code := a.Wait(); code != 0 {
				t.Errorf("exit code %d after %v", code, c.operator)
			}
		})
	}
}

// Neither can one that is gone by the time that anybody looks.
func TestAWorkerThatSignalsItsParentAndEndsCannotStopBaton(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a := run(t, path)
	rewrite(t, path, []string{"/bin/sh", "-c", "kill -QUIT $PPID; kill -INT $PPID; exit 3"}, quick, listen("web", "127.0.0.1:0"))
	for n := 2; n <= 20; n++ {
		a.HUP()
		a.WaitEvent(0, "rolledback", "generation", n)
	}
	rewrite(t, path, testkit.Target(), quick, listen("web", "127.0.0.1:0"))
	a.HUP()
	a.serving(21)
	a.Stop()
}

// A worker may ask for its own replacement.
func TestAHUPOfAWorkerIsAReload(t *testing.T) {
	testkit.Leaks(t)
	once := filepath.Join(t.TempDir(), "once")
	write(t, once, "")
	target := append([]string{"/bin/sh", "-c", `rm "$0" 2>/dev/null && kill -HUP $PPID; exec "$@"`, once}, testkit.Target()...)
	a := run(t, config(t, target, quick, listen("web", "127.0.0.1:0")))
	a.serving(2)
	a.WaitLog(`worker pid \d+ sent HUP to baton: a reload`)
	a.swap()
	a.Stop()
}

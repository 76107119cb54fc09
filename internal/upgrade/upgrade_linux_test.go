package upgrade

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/testkit"
)

func self() string { return must1(os.Executable()) }

func TestTheNewProgramIsTheSameProcess(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.want(fmt.Sprintf("up 0 %d ", r.pid()))
	before, limit := r.asks("look"), r.asks("limit")
	comm := must1(os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.pid())))
	for n := range 3 {
		if got, want := r.asks("upgrade", self()), fmt.Sprintf("up %d %d ", n+1, r.pid()); got != want {
			t.Fatalf("%q, want %q: %s", got, want, r.words())
		}
		r.looks(before)
		if got := r.asks("limit"); got != limit {
			t.Errorf("limit of descriptors %s, before %s", got, limit)
		}
		if got := must1(os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.pid()))); string(got) != string(comm) {
			t.Errorf("called %q, before %q", got, comm)
		}
	}
	if got := r.words(); got != "" {
		t.Error(got)
	}
	testkit.Wait(t, func() bool { return len(r.processes()) == 1 }, "the provers' end")
}

func TestAChildThatEndsInTheExecIsStillToBeWaitedFor(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	r.asks("child")
	r.asks("upgrade", self())
	if got := r.asks("wait"); got != "true 7" {
		t.Error(got)
	}
}

// Each signal is sent when the one before it has been told, so that a single one that
// is lost shows.
func TestEverySignalIsToldAcrossManyExecs(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	r.says("loop", self(), 30)
	told := 0
	for sig, over := syscall.SIGHUP, false; !over; told++ {
		r.signal(sig)
		want := "HUP " + fmt.Sprint(os.Getpid())
		if sig == syscall.SIGTERM {
			want = "TERM " + fmt.Sprint(os.Getpid())
		}
		for {
			line := r.line()
			over = over || line == "over"
			if line == want {
				break
			}
			if !strings.HasPrefix(line, "up ") && line != "over" {
				t.Fatalf("%q, want %q", line, want)
			}
		}
		sig = syscall.SIGHUP + syscall.SIGTERM - sig
	}
	t.Logf("%d signals", told)
	r.asks("limit") // it still serves
	if got := r.words(); got != "" {
		t.Error(got)
	}
}

// storm sends signals until stop is called.
func (r *running) storm(sigs ...syscall.Signal) (stop func()) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	for _, sig := range sigs {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = r.cmd.Process.Signal(sig) // it shows when it has ended
				}
			}
		})
	}
	return func() { close(done); wg.Wait() }
}

func (r *running) until(want string) {
	r.t.Helper()
	for r.line() != want {
		continue
	}
}

func TestNoStormOfSignalsIsDeadly(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	stop := r.storm(syscall.SIGHUP, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGUSR2)
	r.says("loop", self(), 20)
	r.until("over")
	stop()
	if got := r.words(); got != "" {
		t.Error(got)
	}
}

func TestWithoutPtraceAHangupIsLostAndNotDeadly(t *testing.T) {
	for behaviour, why := range map[string]string{
		"no ptrace":     "operation not permitted",
		"deadly ptrace": "has ended",
	} {
		t.Run(behaviour, func(t *testing.T) {
			testkit.Leaks(t)
			r := launch(t)
			r.line()
			stop := r.storm(syscall.SIGHUP, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGTTIN)
			r.says("loop", self(), 10, behaviour)
			r.until("over")
			stop()
			if got := r.words(); strings.Count(got, "are not kept: ") != 10 || !strings.Contains(got, why) {
				t.Error(got)
			}
		})
	}
}

func TestWhatCannotTakeOverIsRefusedAndTheOldOneGoesOn(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	file := func(name, text string, mode os.FileMode) string {
		path := r.dir + "/" + name
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	half := string(must1(os.ReadFile(self()))[:100])
	before := r.asks("look")
	for _, c := range []struct{ path, behaviour, want string }{
		{r.dir + "/none", "", "no such file"},
		{r.dir, "", "not a file"},
		{file("plain", "x", 0o644), "", "may not be executed"},
		{file("script", "#!/bin/sh\nexit 0\n", 0o755), "", "not a program in the ELF format"},
		{file("half", half, 0o755), "", "error"},
		{"/bin/true", "", "exited"},
		{"/bin/cat", "", "__prove"}, // its own words
		{self(), "crash", "panic: as it was told"},
		{self(), "hang", "timed out"},
	} {
		if c.behaviour == "" {
			c.behaviour = "none"
		}
		got := r.asks("upgrade", c.path, c.behaviour)
		if !strings.HasPrefix(got, "refused: prove "+c.path+": ") || !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %s", c.path, c.behaviour, got)
		}
		if n := r.processes(); len(n) != 1 {
			t.Errorf("%s %s: processes %v are left", c.path, c.behaviour, n)
		}
		t.Log(got)
	}
	r.asks("version", 2)
	if got := r.asks("upgrade", self(), "none"); !strings.Contains(got, "state: version 2 is too new for this program") {
		t.Error(got)
	}
	r.looks(before)
	r.asks("version", 1)
	if got := r.asks("upgrade", self()); !strings.HasPrefix(got, "up 1 ") {
		t.Error(got)
	}
}

func TestAnExecThatFailsIsUndone(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	limit := r.asks("limit")
	var version string
	var prover int
	if _, err := fmt.Sscan(r.asks("prove", self()), &version, &prover); err != nil || version != "v2" {
		t.Fatal(version, err)
	}
	before := r.asks("look")
	for range 3 {
		if got := r.asks("exec-too-big"); !strings.HasPrefix(got, "not replaced: exec ") || !strings.Contains(got, "argument list too long") {
			t.Fatal(got)
		}
		r.looks(before)
		if got := r.asks("limit"); got != limit {
			t.Errorf("limit of descriptors %s, before %s", got, limit)
		}
		r.signal(syscall.SIGHUP)
		r.want(fmt.Sprint("HUP ", os.Getpid()))
	}
	// The proof holds.
	if got := r.asks("exec"); !strings.HasPrefix(got, "up 1 ") {
		t.Error(got)
	}
}

func TestAProverThatHangsIsKilledAndTheOldOneGoesOn(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the answer that does not come")
	}
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	var version string
	var prover int
	if _, err := fmt.Sscan(r.asks("prove", self()), &version, &prover); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(prover, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if got := r.asks("exec"); !strings.Contains(got, "did not answer") {
		t.Error(got)
	}
	testkit.Wait(t, func() bool { return len(r.processes()) == 1 }, "the prover's end")
	r.signal(syscall.SIGHUP)
	r.want(fmt.Sprint("HUP ", os.Getpid()))
}

func TestWithoutItsProverNothingIsReplaced(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	var version string
	var prover int
	if _, err := fmt.Sscan(r.asks("prove", self()), &version, &prover); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(prover, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { return len(r.processes()) == 1 }, "the prover's end")
	if got := r.asks("exec"); !strings.HasSuffix(got, "its prover has ended") {
		t.Error(got)
	}
}

func TestAProverSaysWhenTheNewProgramDoesNotAnswer(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	if got := r.asks("upgrade", self(), "deaf"); !strings.HasPrefix(got, "up 1 ") {
		t.Fatal(got)
	}
	testkit.Wait(t, func() bool { return len(r.processes()) == 1 }, "the prover's end")
	if got := r.words(); !strings.Contains(got, fmt.Sprintf("baton: upgrade: the new program, process %d, does not answer after 1s", r.pid())) {
		t.Error(got)
	}
}

func TestAsPIDOneItIsReplacedAndGetsTheProver(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a pid namespace")
	}
	testkit.Leaks(t)
	r := launch(t, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
	r.want("up 0 1 ")
	for n := range 3 {
		if got, want := r.asks("upgrade", self()), fmt.Sprintf("up %d 1 ", n+1); got != want {
			t.Fatalf("%q, want %q: %s", got, want, r.words())
		}
		if got := r.asks("reap"); got != "0 <nil>" {
			t.Error(got)
		}
	}
}

func TestTheHiddenCommandsRefuseAnybodyElse(t *testing.T) {
	for _, command := range []string{helperCommand, proverCommand, watchCommand} {
		out, err := runSelf(command)
		if err == nil || !strings.Contains(out, command+" is for baton's own use") {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
}

// A launcher that is killed during a proof takes what it has started along: that has
// copies of its sockets.
func TestAProofEndsWithItsLauncher(t *testing.T) {
	testkit.Leaks(t)
	r := launch(t)
	r.line()
	r.says("upgrade", self(), "hang")
	testkit.Wait(t, func() bool { return len(r.processes()) == 3 }, "helper and prover")
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { return len(r.processes()) == 0 }, "their end")
	r.killed = true
}

// A launcher that is killed at any moment of an exec, with its signals held or being let
// go, is gone for its parent at once: whoever starts the next one waits for that.
func TestAKillAtAnyMomentOfAnExecIsSeenAtOnce(t *testing.T) {
	testkit.Leaks(t)
	for i := range 60 {
		r := launch(t)
		r.line()
		r.says("upgrade", self())
		// Half of them once the new program runs: its signals are let go just then.
		if i%2 == 0 {
			r.line()
		}
		<-time.After(rand.N(time.Duration(1+i%20) * time.Millisecond))
		r.killed = true
		if err := r.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		testkit.WaitFor(t, 10*time.Second, func() bool { return waitable(t, r.pid()) }, "the launcher's end to be told")
		testkit.WaitFor(t, 10*time.Second, func() bool { return len(r.processes()) == 0 }, "the prover's end")
	}
}

// waitable says whether a child has ended, for its parent too.
func waitable(t *testing.T, pid int) bool {
	t.Helper()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err != nil {
		t.Fatal(err)
	}
	return info.Signo != 0
}

package launcher

import (
	"log/slog"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"baton/internal/process"
)

// crewOf is an engine whose workers' processes are these, as long as they are there.
type crewOf struct {
	supervisor // nothing else is asked of it
	pids       []int
}

func (e crewOf) Signalled(pid int, _ syscall.Signal) bool {
	return slices.Contains(e.pids, pid) && !process.Ended(pid)
}

// asleep starts a process of whose end nobody learns but the test.
func asleep(t *testing.T) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = cmd.Process.Kill() // the test may have ended it
		_ = cmd.Wait()         // it was killed
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

// The last signal of one that sends without end is read when its sender is gone: it is a
// worker's still. Of one that was never heard while it lived nobody can say whose it was.
func TestALastSignalIsOfWhoSentTheOnesBefore(t *testing.T) {
	loud, endLoud := asleep(t)
	quiet, endQuiet := asleep(t)
	s := &senders{engine: crewOf{pids: []int{loud, quiet}}, started: func(int) bool { return false },
		log: slog.New(slog.DiscardHandler), done: make(chan struct{})}
	sent := func(pid int, sig syscall.Signal) bool { return s.worker(process.Caught{Signal: sig, PID: pid}) }
	if !sent(loud, syscall.SIGTERM) {
		t.Error("a process of a worker is not taken for one")
	}
	endLoud()
	endQuiet()
	if !sent(loud, syscall.SIGQUIT) {
		t.Error("the last signal of a process that was heard counts as an operator's")
	}
	if sent(quiet, syscall.SIGQUIT) {
		t.Error("a process that was never heard is taken for a worker's")
	}
	s.known[loud] = s.known[loud].Add(-2 * recently)
	if sent(loud, syscall.SIGTERM) {
		t.Error("long after its end a number is still a worker's")
	}
}

// Who sends by ever new processes makes baton remember no more than it may.
func TestWhoWasHeardIsForgotten(t *testing.T) {
	s := &senders{}
	for pid := range 3 * rememberMax {
		s.know(pid)
	}
	if n := len(s.known); n == 0 || n > rememberMax {
		t.Errorf("%d are remembered, at most %d may be", n, rememberMax)
	}
}

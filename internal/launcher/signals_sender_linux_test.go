package launcher

import (
	"log/slog"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"

	"baton/internal/process"
	"baton/internal/testkit"
)

// crewOf is an engine whose workers' processes are these, as long as they are there.
type crewOf struct {
	supervisor // nothing else is asked of it
	pids       []int
}

func (e crewOf) Signalled(pid int, _ syscall.Signal) bool {
	return slices.Contains(e.pids, pid) && !process.Ended(pid)
}

// asleep starts a process of whose end nobody learns but the test. killed ends it, and
// leaves a zombie until the test ends, or reaped is called.
func asleep(t *testing.T) (pid int, killed, reaped func()) {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed = func() {
		_ = cmd.Process.Kill() // the test may have ended it
		testkit.Wait(t, func() bool { return process.Ended(cmd.Process.Pid) }, "its end")
	}
	reaped = sync.OnceFunc(func() {
		killed()
		_ = cmd.Wait() // it was killed
	})
	t.Cleanup(reaped)
	return cmd.Process.Pid, killed, reaped
}

// The last signal of one that sends without end is read when its sender is gone, or as
// good as gone: it is a worker's still. Of one that was never heard while it lived nobody
// can say whose it was, but by its group.
func TestALastSignalIsOfWhoSentTheOnesBefore(t *testing.T) {
	for _, c := range []struct {
		name          string
		heard, reaped bool
		recent        bool // its group is that of a worker that has just ended
		want          bool
	}{
		{"heard, and nobody has waited for it", true, false, false, true},
		{"heard, and gone", true, true, false, true},
		{"of a group that is known, and nobody has waited for it", false, false, true, true},
		{"never heard, and nobody has waited for it", false, false, false, false},
		{"never heard, and gone", false, true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pid, killed, reaped := asleep(t)
			s := &senders{engine: crewOf{pids: []int{pid}}, recent: func(of int) bool { return c.recent && of == pid },
				log: slog.New(slog.DiscardHandler), done: make(chan struct{})}
			if c.heard && !s.worker(process.Caught{Signal: syscall.SIGTERM, PID: pid}) {
				t.Fatal("a process of a worker is not taken for one")
			}
			if killed(); c.reaped {
				reaped()
			}
			if got := s.worker(process.Caught{Signal: syscall.SIGQUIT, PID: pid}); got != c.want {
				t.Errorf("its last signal is a worker's: %v, want %v", got, c.want)
			}
			if c.heard {
				k := s.known[pid]
				k.at = k.at.Add(-2 * recently)
				s.known[pid] = k
				if s.ask(process.Caught{Signal: syscall.SIGQUIT, PID: pid}) {
					t.Error("long after its end its number is still a worker's")
				}
			}
		})
	}
}

// One that outlives its worker is known from another of its number.
func TestAnotherOfAKnownNumberIsNotTakenForIt(t *testing.T) {
	pid, _, _ := asleep(t)
	s := &senders{engine: crewOf{}, recent: func(int) bool { return false }}
	s.know(pid)
	if !s.was(process.Caught{PID: pid}) {
		t.Error("who was heard, and lives, is forgotten")
	}
	k := s.known[pid]
	k.start--
	s.known[pid] = k
	if s.was(process.Caught{PID: pid}) {
		t.Error("another process is taken for it")
	}
}

// Who sends by ever new processes makes baton remember no more than it may.
func TestWhoWasHeardIsForgotten(t *testing.T) {
	s := &senders{}
	for i := range 3 * rememberMax {
		s.know(-1 - i) // no process has such a number
	}
	if n := len(s.known); n == 0 || n > rememberMax {
		t.Errorf("%d are remembered, at most %d may be", n, rememberMax)
	}
}

package launcher

import (
	"slices"
	"syscall"
	"testing"

	"baton/internal/process"
	"baton/internal/testkit"
)

// left is what waits, taken out.
func (s *signals) left() []process.Caught {
	var all []process.Caught
	for c, ok := s.next(); ok; c, ok = s.next() {
		all = append(all, c)
	}
	return all
}

// Signals that come while nobody takes them, because the engine is busy, are not
// lost: one HUP, and a request to end after any number of HUPs.
func TestSignalsWaitForABusyEngine(t *testing.T) {
	testkit.Leaks(t)
	s := newSignals()
	stop := s.notify()
	defer stop()
	send := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(syscall.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
	}
	waits := func(want syscall.Signal) func() bool {
		return func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return slices.ContainsFunc(s.waiting, func(c process.Caught) bool { return c.Signal == want })
		}
	}
	for range 1000 {
		send(syscall.SIGHUP)
		send(syscall.SIGUSR1)
	}
	send(syscall.SIGTERM)
	testkit.Wait(t, waits(syscall.SIGTERM), "the TERM")
	testkit.Wait(t, waits(syscall.SIGHUP), "the HUP")
	count := map[syscall.Signal]int{}
	for _, c := range s.left() {
		count[c.Signal]++
	}
	if count[syscall.SIGTERM] != 1 || count[syscall.SIGHUP] > 2 || count[syscall.SIGUSR1] > 2*equalRest {
		t.Errorf("waiting: %v", count)
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		send(sig)
		testkit.Wait(t, waits(sig), sig.String())
	}
}

func TestEqualSignalsWaitOnceOrTwice(t *testing.T) {
	s := newSignals()
	for range 100 {
		for _, c := range []process.Caught{
			{Signal: syscall.SIGHUP, PID: 7}, {Signal: syscall.SIGHUP, PID: 8},
			{Signal: syscall.SIGTERM, PID: 7}, {Signal: syscall.SIGUSR1, PID: 7},
		} {
			s.take(c)
		}
	}
	// What one sender sent so often does not keep out another's.
	s.take(process.Caught{Signal: syscall.SIGTERM, PID: 9})
	s.take(process.Caught{Signal: syscall.SIGTERM})
	got := s.left()
	count := map[process.Caught]int{}
	for _, c := range got {
		count[c]++
	}
	for c, want := range map[process.Caught]int{
		{Signal: syscall.SIGHUP, PID: 7}: 1, {Signal: syscall.SIGHUP, PID: 8}: 0,
		{Signal: syscall.SIGTERM, PID: 7}: 2, {Signal: syscall.SIGUSR1, PID: 7}: equalRest,
		{Signal: syscall.SIGTERM, PID: 9}: 1, {Signal: syscall.SIGTERM}: 1,
	} {
		if count[c] != want {
			t.Errorf("%v waits %d times, want %d", c, count[c], want)
		}
	}
	if got[0].Signal != syscall.SIGHUP || got[len(got)-1].PID != 0 {
		t.Errorf("not in the order in which they came: %v", got)
	}
}

func TestACrowdOfSendersIsBounded(t *testing.T) {
	s := newSignals()
	for pid := range 10 * crowd {
		s.take(process.Caught{Signal: syscall.SIGUSR2, PID: pid})
	}
	s.take(process.Caught{Signal: syscall.SIGTERM})
	if got := s.left(); len(got) != crowd+1 || got[crowd].Signal != syscall.SIGTERM {
		t.Errorf("%d wait, the last is %v", len(got), got[len(got)-1])
	}
}

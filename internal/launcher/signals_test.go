package launcher

import (
	"os/signal"
	"syscall"
	"testing"

	"baton/internal/testkit"
)

// Signals that come while nobody takes them, because the engine is busy, are not
// lost: one HUP, and a request to end after any number of HUPs.
func TestSignalsWaitForABusyEngine(t *testing.T) {
	s := catch()
	defer func() {
		signal.Stop(s.end)
		signal.Stop(s.reload)
		signal.Stop(s.rest)
		signal.Stop(broken)
	}()
	send := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(syscall.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		send(syscall.SIGHUP)
		send(syscall.SIGUSR1)
	}
	send(syscall.SIGTERM)
	testkit.Wait(t, func() bool { return len(s.reload) == 1 && len(s.end) == 1 }, "a HUP and a TERM")
	if sig := <-s.end; sig != syscall.SIGTERM {
		t.Errorf("the request to end is %v", sig)
	}
	<-s.reload
	send(syscall.SIGHUP) // while the one before is handed over
	testkit.Wait(t, func() bool { return len(s.reload) == 1 }, "the later HUP")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
		send(sig)
		if got := <-s.end; got != sig {
			t.Errorf("got %v, want %v", got, sig)
		}
	}
}

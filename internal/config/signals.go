package config

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalByName accepts TERM and SIGTERM, in any case. Signals that no process
// can catch are not found: they would end a worker without a drain.
func signalByName(name string) (syscall.Signal, bool) {
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	return sig, sig != 0 && sig != unix.SIGKILL && sig != unix.SIGSTOP
}

// DrainSignal returns the signal that Handoff.DrainSignals names; SIGTERM when
// the list is empty or names nothing that can be sent (Parse refuses both).
func (h Handoff) DrainSignal() syscall.Signal {
	if len(h.DrainSignals) > 0 {
		if sig, ok := signalByName(h.DrainSignals[0]); ok {
			return sig
		}
	}
	return syscall.SIGTERM
}

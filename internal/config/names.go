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

// UserGroup splits Owner; either may be "" (left as it is). Both may be names or
// numbers.
func (l Listener) UserGroup() (user, group string) {
	user, group, _ = strings.Cut(l.Owner, ":")
	return user, group
}

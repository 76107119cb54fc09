package process

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Caught is a signal that came to this process.
type Caught struct {
	Signal syscall.Signal
	// PID is the process that sent it with kill(2), sigqueue(3) or the like; 0: the
	// kernel (a terminal's ^C), a process outside this pid namespace, or unknown.
	// The number may be another's by now. Of sigqueue(3) it is what the sender says
	// (rt_sigqueueinfo(2)).
	PID int
	// Child is the child of this process that PID is or descends from; 0: of none, or
	// it had ended and been waited for when the signal was read, some microseconds
	// after it was sent.
	Child int
}

// SignalName is "TERM" for SIGTERM; the number where it has no name.
func SignalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return sig.String()
}

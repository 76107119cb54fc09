package process

import (
	"errors"
	"syscall"
)

// Image is the program that Become makes of this process.
type Image struct {
	Exe  int // a descriptor of it; O_PATH is enough
	Args []string
	Env  []string
	// Files stay open in it, under the same numbers; every other descriptor is as
	// close-on-exec has it. Have CaughtFD among them for the signals that nobody has
	// read yet.
	Files []int
	// Ask and Say lead to and from the process that runs HoldSignals meanwhile, which is
	// Holder, and killed if it does not answer.
	Ask, Say int
	Holder   *Other
	// Unheld is told when nobody will hold signals, and why.
	Unheld func(error)
}

// gap are the signals that would end or stop a program which does not catch them yet,
// and are meant for one that does.
var gap = []syscall.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU,
}

// errHolder is why an exec was not tried: whoever was to hold signals did not answer.
var errHolder = errors.New("the process that was to hold signals did not answer")

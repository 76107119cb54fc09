package process

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Other is a process that need not be a child of this one, held by a pidfd: nobody who
// gets its number later is taken for it.
type Other struct {
	pid, fd int
}

// OtherOf holds the process of that number.
func OtherOf(pid int) (*Other, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: pidfd: %w", pid, err)
	}
	return &Other{pid: pid, fd: fd}, nil
}

// PID is its number.
func (o *Other) PID() int { return o.pid }

// Kill kills it.
func (o *Other) Kill() error { return unix.PidfdSendSignal(o.fd, unix.SIGKILL, nil, 0) }

// Ended waits that long for its end, reaped or not.
func (o *Other) Ended(within time.Duration) bool {
	until := time.Now().Add(within)
	for {
		left := max(time.Until(until), 0)
		fds := []unix.PollFd{{Fd: int32(o.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond))
		if err != unix.EINTR || left == 0 {
			return n == 1
		}
	}
}

// Close lets go of it.
func (o *Other) Close() { unix.Close(o.fd) }

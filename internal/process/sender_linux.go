package process

import (
	"errors"
	"os"
	"syscall"
)

// Child is the child of this process that pid is or descends from now; 0 when it is
// of none. One that has ended is only while it has not been waited for. A child that the
// kernel gave to this process (see Reap) is none: as PID 1 of a container it would have
// whatever an operator left behind there.
func Child(pid int) int {
	self := os.Getpid()
	// The depth only bounds the walk: a pid given again meanwhile could lead in a ring.
	for range 1000 {
		if pid <= 1 || pid == self {
			return 0
		}
		s, ok, _ := readStat(pid) // who cannot be seen is not taken for one of ours
		if !ok {
			return 0
		}
		if s.parent == self {
			if !kin.has(pid) && Adopts() {
				return 0
			}
			return pid
		}
		pid = s.parent
	}
	return 0
}

// Ended says that no process of this number runs any more: one that is on its way out, or
// that nobody has waited for yet, does not.
func Ended(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	s, ok, _ := readStat(pid) // who cannot be seen is there
	return ok && (s.dead() || s.exiting)
}

package process

import "os"

// Descends tells whether pid is a child of this process, or of one of those, now. One
// that has ended is only while it has not been waited for.
func Descends(pid int) bool {
	self := os.Getpid()
	// The depth only bounds the walk: a pid given again meanwhile could lead in a ring.
	for range 1000 {
		if pid <= 1 || pid == self {
			return false
		}
		s, ok, _ := readStat(pid) // who cannot be seen is not taken for one of ours
		if !ok {
			return false
		}
		if s.parent == self {
			return true
		}
		pid = s.parent
	}
	return false
}

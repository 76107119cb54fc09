package protocol

import "sync"

// lent is the worker's end of something: open here until the worker has it, so that
// its own end is the only one, and closing it is seen.
type lent struct {
	mu sync.Mutex
	fd int // -1: closed here
}

func (l *lent) number() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fd
}

// letGo closes it here. Doing so again does nothing.
func (l *lent) letGo() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd >= 0 {
		closeFD(l.fd)
		l.fd = -1
	}
}

// story is what a channel remembers for its hint, as a clause.
type story struct {
	mu    sync.Mutex
	words string
}

func (s *story) tell(words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.words = words
}

func (s *story) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.words
}

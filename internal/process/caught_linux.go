//go:build amd64 || arm64

package process

import (
	"os"
	"sync"
	"time"
)

// reader is whoever reads the pipe that Catch's handler writes to.
var reader = pipeReader{parked: make(chan struct{}), goOn: make(chan struct{}), drained: make(chan struct{})}

type pipeReader struct {
	mu     sync.Mutex // between those who pause it
	pauses int
	parked chan struct{}
	goOn   chan struct{}

	from      *os.File // set by Catch
	before    *os.File // the pipe of the program that became this one; nil: none
	drained   chan struct{}
	installed func()
}

// PauseCaught returns once nobody reads caught signals any more, so that those that
// have been told are all that ever will be; others wait in the pipe, until goOn, or for
// the program that this one becomes (Become). Pauses nest. Not to be called by what
// Catch tells.
func PauseCaught() (goOn func()) {
	r := &reader
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.from == nil {
		return func() {}
	}
	if r.pauses++; r.pauses == 1 {
		<-r.drained
		_ = r.from.SetReadDeadline(time.Unix(1, 0)) // a pipe that does not block has one
		<-r.parked
	}
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pauses--; r.pauses == 0 {
			_ = r.from.SetReadDeadline(time.Time{}) // likewise
			r.goOn <- struct{}{}
		}
	})
}

// begin is called once, by Catch.
func (r *pipeReader) begin(from *os.File) (before *os.File, installed func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from = from
	return r.before, r.installed
}

// InheritCaught gives Catch, before it is called, the read end of the pipe of the
// program that became this one (CaughtFD), -1 for none, and what to do once signals are
// caught.
func InheritCaught(fd int, installed func()) {
	r := &reader
	r.mu.Lock()
	defer r.mu.Unlock()
	if fd >= 0 {
		r.before = os.NewFile(uintptr(fd), "signals before")
	}
	r.installed = installed
}

// CaughtFD is the read end of the pipe of caught signals, which stays Catch's; -1
// before Catch.
func CaughtFD() int {
	r := &reader
	r.mu.Lock()
	defer r.mu.Unlock()
	fd := -1
	if r.from == nil {
		return fd
	}
	// Not Fd, which would make the pipe block.
	if raw, err := r.from.SyscallConn(); err == nil {
		_ = raw.Control(func(n uintptr) { fd = int(n) }) // open for ever
	}
	return fd
}

// Package keep holds what outlives a launcher: its descriptors, by names that the state
// which lies beside them uses.
//
// A launcher that replaces itself hands both to the program that it becomes; one that
// is killed leaves them with systemd. Either way descriptors come back under numbers
// that mean nothing, so a state never holds a number, only names.
//
// The invariant: each descriptor has one owner. Put leaves it with whoever had it, Take
// gives it away. The package never duplicates a descriptor, and never looks at what one
// leads to.
package keep

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
)

// MaxName is the longest name that systemd keeps (FDNAME of sd_pid_notify_with_fds(3)).
const MaxName = 255

// Files are descriptors by name. The zero value has none. It is not safe for concurrent
// use.
type Files struct {
	fds map[string]int
}

// Put names a descriptor, which stays its owner's. A name that is there already gets the
// new one.
func (f *Files) Put(name string, fd int) {
	if f.fds == nil {
		f.fds = make(map[string]int)
	}
	f.fds[name] = fd
}

// Take gives the descriptor away, made close-on-exec. Nobody gets it twice.
func (f *Files) Take(name string) (int, error) {
	fd, ok := f.fds[name]
	if !ok {
		return -1, fmt.Errorf("descriptor %q: %w", name, ErrMissing)
	}
	delete(f.fds, name)
	syscall.CloseOnExec(fd)
	return fd, nil
}

// ErrMissing is in the error of Take for a name that nothing has.
var ErrMissing = errors.New("it was not kept")

// Has says whether there is a descriptor of that name.
func (f *Files) Has(name string) bool {
	_, ok := f.fds[name]
	return ok
}

// Len is how many there are.
func (f *Files) Len() int { return len(f.fds) }

// Each calls do with each, in the order of their names.
func (f *Files) Each(do func(name string, fd int)) {
	for _, name := range slices.Sorted(maps.Keys(f.fds)) {
		do(name, f.fds[name])
	}
}

// Dup returns the same names with descriptors of their own (dup(2)), which are
// close-on-exec. After an error there is none.
func (f *Files) Dup() (*Files, error) {
	dups := &Files{}
	for name, fd := range f.fds {
		own, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
		if errno != 0 {
			dups.Close()
			return nil, fmt.Errorf("descriptor %q: %w", name, errno)
		}
		dups.Put(name, int(own))
	}
	return dups, nil
}

// Close closes those that nobody took.
func (f *Files) Close() {
	for _, fd := range f.fds {
		_ = syscall.Close(fd) // a duplicate of what its owner wrote to, if anybody did
	}
	f.fds = nil
}

// Valid says whether a name is one that everybody keeps: of at most MaxName bytes, lower
// case letters, digits, and ".", "_" and "-".
func Valid(name string) bool {
	return name != "" && len(name) <= MaxName && !slices.ContainsFunc([]byte(name), func(c byte) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	})
}

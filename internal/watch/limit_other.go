//go:build !linux

package watch

import (
	"errors"
	"syscall"
)

// full tells whether an error of adding a watch means that there is none left: where a
// watch is a descriptor, as with kqueue(2), there is none of those.
func full(err error) bool { return errors.Is(err, syscall.EMFILE) }

// hint says what to do about a limit.
func hint(err error) string {
	if full(err) {
		return " (each file that is watched is an open one: raise the limit of open files)"
	}
	return ""
}

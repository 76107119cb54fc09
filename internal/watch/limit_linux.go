package watch

import (
	"errors"
	"syscall"
)

// full tells whether an error of adding a watch means that there is none left
// (inotify_add_watch(2)).
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) }

// hint says what to do about a limit (inotify(7)): the errors alone speak of disks
// and files.
func hint(err error) string {
	switch {
	case full(err):
		return " (no inotify watch is left: raise the sysctl fs.inotify.max_user_watches)"
	case errors.Is(err, syscall.EMFILE):
		return " (no inotify instance is left: raise the sysctl fs.inotify.max_user_instances, or the limit of open files)"
	}
	return ""
}

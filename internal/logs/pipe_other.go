//go:build !linux

package logs

import (
	"errors"
	"io/fs"
	"syscall"
)

var errLinux = errors.New("workers are started on Linux only")

func pipe() (r, w int, err error) { return -1, -1, errLinux }

func unread(int) (int, error) { return 0, errLinux }

func enlarge(int, int) int { return 0 }

const nonblock = syscall.O_NONBLOCK

// removed reports whether a file has no name any more.
func removed(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Nlink == 0
}

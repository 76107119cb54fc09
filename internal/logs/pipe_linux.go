package logs

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipe returns the read and the write end; the read end does not block, the
// write end, another open file description, does (pipe2(2)).
func pipe() (r, w int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		_, _ = unix.Close(fds[0]), unix.Close(fds[1]) // never used
		return -1, -1, err
	}
	return fds[0], fds[1], nil
}

// unread is how many bytes wait in the pipe (ioctl_pipe: FIONREAD).
func unread(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }

// enlarge gives a pipe room for size bytes, where that is allowed (pipe(7)), and returns
// what it has.
func enlarge(fd, size int) int {
	if n, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size); err == nil {
		return n
	}
	n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return unix.Getpagesize()
	}
	return n
}

const nonblock = unix.O_NONBLOCK

// removed reports whether a file has no name any more.
func removed(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Nlink == 0
}

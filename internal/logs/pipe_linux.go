package logs

import "golang.org/x/sys/unix"

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

package process

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Fetch duplicates sockets that processes have open into this one (pidfd_getfd(2)), by
// their inodes: those of a launcher that was killed are still in its workers. It takes
// what ptrace(2) would: root, or the same user where that is not restricted
// (kernel.yama.ptrace_scope). The descriptors are close-on-exec. An error says what
// kept it from some of them.
func Fetch(from []Mark, inodes map[uint64]bool) (fds map[uint64]int, err error) {
	fds = make(map[uint64]int)
	var errs []error
	for _, m := range from {
		if len(fds) == len(inodes) {
			break
		}
		if err := m.fetch(inodes, fds); err != nil {
			errs = append(errs, fmt.Errorf("process %d: %w", m.PID, err))
		}
	}
	return fds, errors.Join(errs...)
}

func (m Mark) fetch(inodes map[uint64]bool, fds map[uint64]int) error {
	pidfd, err := unix.PidfdOpen(m.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(pidfd) // nothing is buffered in it
	// Looked at behind the pidfd: it names whoever has the number now.
	if now, ok, err := MarkOf(m.PID); err != nil || !ok || !now.same(m) {
		return err
	}
	var failed error
	err = eachSocket(m.PID, func(inode uint64, where place) bool {
		if _, have := fds[inode]; have || !inodes[inode] {
			return true
		}
		fd, err := unix.PidfdGetfd(pidfd, where.fd, 0)
		if errors.Is(err, unix.EBADF) {
			return true // it has closed it meanwhile; another of its descriptors may lead there
		}
		if err != nil {
			failed = err
			return false
		}
		if st := (unix.Stat_t{}); unix.Fstat(fd, &st) != nil || st.Ino != inode {
			unix.Close(fd) // another file has that number by now
			return true
		}
		fds[inode] = fd
		return true
	})
	return errors.Join(failed, err)
}

package socket

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watch tells at once when a listening socket stops listening. The sockets are
// in an epoll set with EPOLLET alone, which leaves EPOLLHUP and EPOLLERR: a
// connection that arrives wakes nobody. The set is itself waited on by the Go
// runtime, so that waiting holds no thread.
type watch struct {
	set   int
	file  *os.File // owns set
	ended chan struct{}
}

// newWatch calls alarm, in a goroutine that ends with close, after each hang-up
// of a socket that was added.
func newWatch(alarm func()) (*watch, error) {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	// os.NewFile hands only a non-blocking descriptor to the runtime's poller.
	if err := unix.SetNonblock(set, true); err != nil {
		unix.Close(set) // empty, nothing to lose
		return nil, fmt.Errorf("epoll set: %w", err)
	}
	w := &watch{set: set, file: os.NewFile(uintptr(set), "watch"), ended: make(chan struct{})}
	conn, err := w.file.SyscallConn()
	if err != nil {
		w.file.Close() // empty, nothing to lose
		return nil, fmt.Errorf("epoll set: %w", err)
	}
	go func() {
		defer close(w.ended)
		var events [16]unix.EpollEvent
		for {
			err := conn.Read(func(set uintptr) bool {
				n, err := unix.EpollWait(int(set), events[:], 0)
				return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
			})
			if err != nil {
				return // closed
			}
			alarm()
		}
	}()
	return w, nil
}

func (w *watch) add(fd int) error {
	err := unix.EpollCtl(w.set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLET, Fd: int32(fd)})
	if err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

// remove must precede the close or replacement of fd: a worker's duplicate
// would keep the old socket in the set.
func (w *watch) remove(fd int) error {
	err := unix.EpollCtl(w.set, unix.EPOLL_CTL_DEL, fd, nil)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unwatch socket: %w", err)
	}
	return nil
}

// close returns when alarm runs no more. It must not be called from alarm.
func (w *watch) close() {
	w.file.Close() // an epoll set has nothing to lose
	<-w.ended
}

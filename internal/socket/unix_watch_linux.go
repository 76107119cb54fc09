package socket

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A unixWatch wakes a Unix listener when one of its sockets was shut down or
// one of its files got a name or lost one. Connections do not wake it: of a
// socket only EPOLLRDHUP is asked for, on its edge (EPOLLHUP would miss a
// SHUT_RD, which already refuses everybody); and not the directory is watched,
// where others may be busy, but the files themselves, whose change of names
// inotify(7) reports as IN_ATTRIB and IN_MOVE_SELF.
type unixWatch struct {
	*watch
	inotify int // -1 where the kernel gave none
}

// newUnixWatch calls woken after each change, in a goroutine that ends with
// close. lame says why names are not watched; nil if they are.
func newUnixWatch(woken func()) (w *unixWatch, lame, err error) {
	w = &unixWatch{}
	w.inotify, lame = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if lame != nil {
		w.inotify, lame = -1, fmt.Errorf("inotify_init: %w", lame)
	}
	w.watch, err = newWatch(func() { w.drain(); woken() })
	if err == nil && lame == nil {
		if err = w.include(w.inotify, unix.EPOLLIN); err != nil {
			w.watch.close()
		}
	}
	if err != nil {
		if w.inotify >= 0 {
			unix.Close(w.inotify) // new and unused
		}
		return nil, nil, err
	}
	return w, lame, nil
}

// drain empties inotify's queue. What is in it does not matter: whoever is
// woken looks for himself.
func (w *unixWatch) drain() {
	var b [4096]byte
	for w.inotify >= 0 {
		if n, err := unix.Read(w.inotify, b[:]); n <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// socket watches a listening socket for shutdown(2); remove ends it.
func (w *unixWatch) socket(fd int) error {
	return w.include(fd, unix.EPOLLRDHUP|unix.EPOLLET)
}

func (w *unixWatch) include(fd int, events uint32) error {
	err := unix.EpollCtl(w.set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	if err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

// names watches the names of the file that has this one, and returns what
// unname needs.
func (w *unixWatch) names(file string) (int, error) {
	if w.inotify < 0 {
		return -1, nil
	}
	n, err := unix.InotifyAddWatch(w.inotify, file, unix.IN_ATTRIB|unix.IN_MOVE_SELF)
	if err != nil {
		return -1, fmt.Errorf("watch names: %w", err)
	}
	return n, nil
}

// unname ends what names began. It may have ended with the file, which is as
// good.
func (w *unixWatch) unname(n int) {
	if n >= 0 {
		_, _ = unix.InotifyRmWatch(w.inotify, uint32(n))
	}
}

// close returns when woken runs no more. No other method may follow. It takes
// some 20 ms, the kernel's grace period for the watches of names.
func (w *unixWatch) close() {
	w.watch.close()
	if w.inotify >= 0 {
		unix.Close(w.inotify) // nothing was written to it
	}
}

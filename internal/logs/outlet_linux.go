package logs

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// newOutlet finds out how to write without being kept: to a pipe or a terminal by an
// open file description of our own that does not block, to a socket by a flag of the
// call. The descriptor itself is others' as well, so its O_NONBLOCK is left alone. A
// regular file does not block.
func newOutlet(w io.Writer) outlet {
	f, ok := w.(*os.File)
	if !ok {
		return direct{w}
	}
	c, err := f.SyscallConn()
	if err != nil {
		return direct{w}
	}
	out := outlet(direct{w})
	_ = c.Control(func(fd uintptr) { // closed: its writes say so
		var st unix.Stat_t
		if unix.Fstat(int(fd), &st) != nil {
			return
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
			out = &stoppable{f: f, fd: int(fd), socket: true}
		case unix.S_IFIFO, unix.S_IFCHR:
			own, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(fd)), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
			if err == nil { // somebody else's may not be opened again
				out = &stoppable{f: os.NewFile(uintptr(own), f.Name()), fd: own, own: true}
			}
		}
	})
	return out
}

// stoppable writes by a descriptor, which stays f's.
type stoppable struct {
	f      *os.File // held, so that it is not closed
	fd     int
	socket bool
	own    bool // f is the outlet's
}

func (o *stoppable) close() {
	if o.own {
		_ = o.f.Close() // what was written is the kernel's by then
	}
}

// glance is how often one who waits for a reader looks whether it is to stop, in
// milliseconds.
const glance = 20

func (o *stoppable) put(p []byte, stopped func() bool) (n int, err error) {
	for n < len(p) {
		m, err := o.write(p[n:])
		if m > 0 {
			n += m
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if stopped() {
				return n, nil
			}
			list := []unix.PollFd{{Fd: int32(o.fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(list, glance) // the next write tells
		case err != nil:
			return n, err
		}
	}
	return n, nil
}

func (o *stoppable) write(p []byte) (int, error) {
	if o.socket {
		return unix.SendmsgN(o.fd, p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
	return unix.Write(o.fd, p)
}

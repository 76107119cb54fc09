package protocol

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pipe makes one whose ends are close-on-exec. Ours waits without a thread; the
// worker's is blocking, as programs expect, which is its own affair: the two ends
// are two open file descriptions.
func pipe(name string, oursReads bool) (ours *os.File, workers int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("%s: pipe: %w", name, err)
	}
	if !oursReads {
		ends[0], ends[1] = ends[1], ends[0]
	}
	if err := unix.SetNonblock(ends[0], true); err != nil {
		unix.Close(ends[0]) // nobody has seen it yet
		unix.Close(ends[1])
		return nil, -1, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(ends[0]), name), ends[1], nil
}

// unread is how many bytes lie in the pipe that f is an end of; 0 too when that
// cannot be told.
func unread(f *os.File) (n int) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // closed: nothing is told
		if got, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
			n = got
		}
	})
	return n
}

// closeFD closes a descriptor of a worker's.
func closeFD(fd int) { unix.Close(fd) } // its other holders do not notice, and nothing is buffered

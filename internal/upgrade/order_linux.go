package upgrade

import (
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func exit(code int) { syscall.Exit(code) }

// proof is what helper and prover are told, in a memfd.
type proof struct {
	Names   []string // of the files, in their order
	State   []byte
	Timeout time.Duration
	Path    string // for words
}

// hello is what the prover says first, in a line.
type hello struct {
	PID     int
	Version string
}

// estate is what the new program is told, in a memfd.
type estate struct {
	PID    int // whose it is: a child that got the variable is somebody else
	State  []byte
	Files  map[string]int
	Caught int // process.CaughtFD
	Ask    int // to the prover
}

// memfd is a file that nobody else has and that holds v.
func memfd(name string, v any) (int, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return -1, err
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("memfd: %w", err)
	}
	for at := 0; at < len(b); {
		n, err := unix.Pwrite(fd, b[at:], int64(at))
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("memfd: %w", err)
		}
		at += n
	}
	return fd, nil
}

// readMemfd reads what memfd wrote.
func readMemfd(fd int, v any) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("memfd %d: %w", fd, err)
	}
	b := make([]byte, st.Size)
	for n := 0; n < len(b); {
		m, err := unix.Pread(fd, b[n:], int64(n))
		if err != nil {
			return fmt.Errorf("memfd %d: %w", fd, err)
		}
		if m == 0 {
			return fmt.Errorf("memfd %d: it ends early", fd)
		}
		n += m
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("memfd %d: %w", fd, err)
	}
	return nil
}

// duplicate is a copy of a descriptor, close-on-exec, with a number of at least min.
func duplicate(fd, min int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, min)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d: dup: %w", fd, err)
	}
	return n, nil
}

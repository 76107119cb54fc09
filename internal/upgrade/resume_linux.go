package upgrade

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"baton/internal/keep"
	"baton/internal/process"

	"golang.org/x/sys/unix"
)

// resume takes up what the program before this one left. Until Catch is called the
// prover holds signals, and learns then that it need not any more.
func resume(value string) ([]byte, *keep.Files, error) {
	memory, err := strconv.Atoi(value)
	if err != nil || memory < 3 {
		return nil, nil, fmt.Errorf("upgrade: $%s %q: not a descriptor", variable, value)
	}
	var e estate
	if err := readMemfd(memory, &e); err != nil {
		return nil, nil, fmt.Errorf("upgrade: %w", err)
	}
	if e.PID != os.Getpid() {
		return nil, nil, fmt.Errorf("upgrade: $%s is for process %d", variable, e.PID)
	}
	unix.Close(memory)
	files := &keep.Files{}
	for name, fd := range e.Files {
		unix.CloseOnExec(fd)
		files.Put(name, fd)
	}
	unix.CloseOnExec(e.Ask)
	if e.Caught >= 0 {
		unix.CloseOnExec(e.Caught)
	}
	process.InheritCaught(e.Caught, func() {
		_, _ = unix.Write(e.Ask, []byte(process.OrderCaught+"\n")) // the prover has ended: it held nothing
		unix.Close(e.Ask)
	})
	return e.State, files, rename()
}

// rename gives this process the name of its program: one that was exec'ed by a
// descriptor is called by that one's number.
func rename() error {
	exe, err := os.Executable()
	if err != nil {
		return nil //nolint:nilerr // a name for people to read
	}
	err = os.WriteFile("/proc/self/comm", []byte(filepath.Base(exe)), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

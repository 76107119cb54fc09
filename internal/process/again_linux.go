package process

import (
	"fmt"
	"os"
	"syscall"
)

// Again starts this program itself once more (/proc/self/exe, also when another lies at
// its path by now), with these arguments behind its name, in a process group of its own.
// files become its descriptors 0, 1, 2..., without close-on-exec; they stay the
// caller's, and the open file descriptions are not changed.
func Again(args, env []string, files ...int) (*Process, error) {
	fds := make([]uintptr, len(files))
	for i, fd := range files {
		fds[i] = uintptr(fd)
	}
	pidfd := -1
	pid, err := kin.fork("/proc/self/exe", append([]string{os.Args[0]}, args...), &syscall.ProcAttr{
		Files: fds,
		Env:   env,
		Sys:   &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	})
	if err != nil {
		return nil, fmt.Errorf("fork for %s: %w", args[0], err)
	}
	return newProcess(pid, pidfd), nil
}

// Forget lets go of one that is Done, whose group may go on: nobody signals it any more.
func (p *Process) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	p.fd.close()
}

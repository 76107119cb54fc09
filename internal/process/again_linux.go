package process

import (
	"fmt"
	"maps"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
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
	ourselves.add(pid)
	return newProcess(pid, pidfd), nil
}

// ourselves are the groups of what Again has started: this program, and whatever that
// started. What they hold is held by this process.
var ourselves groups

type groups struct {
	mu  sync.Mutex
	all map[int]bool
}

func (g *groups) add(group int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all == nil {
		g.all = make(map[int]bool)
	}
	g.all[group] = true
}

// among are those of whom some process is left; others are forgotten, since their
// numbers may come again. One that was added behind the look at all is not.
func (g *groups) among(look func() (map[int]stat, error)) (all map[int]stat, ours map[int]bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	all, err = look()
	ours = make(map[int]bool)
	for _, s := range all {
		if g.all[s.group] {
			ours[s.group] = true
		}
	}
	if err == nil {
		g.all = maps.Clone(ours)
	}
	return all, ours, err
}

// Afresh makes this process run its own program from the beginning, with other arguments
// and these descriptors, under the same numbers. It returns only when that failed. What
// is caught and not read is lost: it is for processes that do not call Catch.
func Afresh(args []string, files ...int) error {
	undo, err := inheritable(files)
	defer undo()
	if err == nil {
		err = syscall.Exec("/proc/self/exe", append([]string{os.Args[0]}, args...), os.Environ())
	}
	return fmt.Errorf("exec of itself: %w", err)
}

// inheritable makes descriptors stay open over an exec; undo makes those that would not
// have so again.
func inheritable(fds []int) (undo func(), err error) {
	var changed []int
	undo = func() {
		for _, fd := range changed {
			unix.CloseOnExec(fd)
		}
	}
	for _, fd := range fds {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC != 0 {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags&^unix.FD_CLOEXEC)
			changed = append(changed, fd)
		}
		if err != nil {
			return undo, fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	return undo, nil
}

// Forget lets go of one that is Done, whose group may go on: nobody signals it any more.
func (p *Process) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	p.fd.close()
}

// EndWith ends this process, which Again has started, and with it its group, when nobody
// has the other end of a pipe any more: whoever started it has ended.
func EndWith(pipe int) {
	hangup := []unix.PollFd{{Fd: int32(pipe)}} // is always told
	for {
		if n, err := unix.Poll(hangup, -1); n == 1 && err == nil && hangup[0].Revents&unix.POLLHUP != 0 {
			_ = unix.Kill(0, unix.SIGKILL) // the group is theirs alone
		}
	}
}

package process

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a running worker: the main process that Start exec'ed, and the process
// group it leads. A restarted worker is another Process. Safe for concurrent use.
type Process struct {
	pid  int
	fd   *pidFD
	done chan struct{}
	// foreign: it is not our child, so somebody else reaps it, and its number may be
	// another's before we know.
	foreign bool

	mu     sync.Mutex // between reaping and signalling
	reaped bool
	gone   bool // reaped, and the group was seen empty: it can never fill again
	status Status
	spent  time.Duration // the most CPU time that was seen
	start  uint64        // as in Mark; 0: nobody has asked yet

	seen places
}

// pidFD is a pidfd(2), or -1 where the kernel gives none.
type pidFD struct{ n atomic.Int64 }

func (f *pidFD) close() {
	if n := f.n.Swap(-1); n >= 0 {
		unix.Close(int(n)) // nothing is buffered in it
	}
}

// newProcess begins to wait for pid. The goroutine ends when pid has been reaped.
func newProcess(pid, pidfd int) *Process {
	p := &Process{pid: pid, fd: &pidFD{}, done: make(chan struct{})}
	p.fd.n.Store(int64(pidfd))
	// A worker's orphans may outlive it and its holder's interest in them.
	runtime.AddCleanup(p, (*pidFD).close, p.fd)
	go p.wait()
	return p
}

// PID is the main process's pid, and the id of its group. Its number belongs to
// this process until Done; don't use it afterwards.
func (p *Process) PID() int { return p.pid }

// Done is closed when the main process has been reaped; of one that another launcher
// started (ResumeProcess), when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status is how it ended; valid after Done.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// wait reaps pid, and no other child: the launcher has several, and as PID 1
// strangers too, which are Reap's.
func (p *Process) wait() {
	defer close(p.done)
	// First look without reaping: until the number is given back under the lock,
	// Signal may use it.
	err := kin.await(p.pid)
	p.mu.Lock()
	defer p.mu.Unlock()
	var ws unix.WaitStatus
	var ru unix.Rusage
	if err == nil {
		ws, ru, err = kin.reap(p.pid)
	}
	p.reaped = true
	p.status = statusOf(ws, ru, err)
	_ = p.kill(0) // only to learn whether the group is gone
}

func statusOf(ws unix.WaitStatus, ru unix.Rusage, err error) Status {
	if err != nil {
		return Status{Code: -1, lost: err}
	}
	s := Status{
		Code:       ws.ExitStatus(),
		UserTime:   time.Duration(ru.Utime.Nano()),
		SystemTime: time.Duration(ru.Stime.Nano()),
		MaxRSS:     int64(ru.Maxrss) << 10, // KiB on Linux, getrusage(2)
	}
	if ws.Signaled() {
		s.Code, s.Signal, s.CoreDumped = -1, ws.Signal(), ws.CoreDump()
	}
	return s
}

// Signal sends sig to the whole process group; nil when nobody is left to get it.
//
// It never hits a stranger that was given a number again. While the main process is
// not reaped, its number is its own, and reaping happens under the same lock.
// Afterwards the group's number stays taken as long as the group has a member, and
// the signal goes through the pidfd, which names the group itself and not its
// number (PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9). Where the kernel cannot do that,
// a group is signalled after the reaping only while it has never been seen empty
// and no process bears its number: if one does, the group was empty in between.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.kill(sig); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// Kill sends SIGKILL to the whole process group.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// kill is Signal with the lock held, and with ESRCH told.
func (p *Process) kill(sig syscall.Signal) error {
	if p.gone {
		return syscall.ESRCH
	}
	err := p.killGroup(sig)
	if errors.Is(err, syscall.ESRCH) && p.reaped {
		p.gone = true
		p.fd.close()
	}
	return err
}

func (p *Process) killGroup(sig syscall.Signal) error {
	if fd := int(p.fd.n.Load()); fd >= 0 {
		err := unix.PidfdSendSignal(fd, sig, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
		switch {
		case errors.Is(err, syscall.EINVAL): // before Linux 6.9; or no such signal
		case errors.Is(err, syscall.ENOSYS): // before Linux 5.1
		case errors.Is(err, syscall.EPERM): // a seccomp filter; or really not allowed
		default:
			return err
		}
	}
	if p.lapsed() && syscall.Kill(p.pid, 0) != syscall.ESRCH {
		return syscall.ESRCH // the number is another's by now
	}
	return syscall.Kill(-p.pid, sig)
}

// lapsed: the main process's number may be another's. Call it with the lock held. Of
// one that is not our child this can be outdated as soon as it was said, by as long as
// it takes to give a number to 32,768 others.
func (p *Process) lapsed() bool {
	return p.reaped || p.foreign && polled(int(p.fd.n.Load()), unix.POLLIN)
}

// Group tells whether any process of the group still runs. After Done these are
// the ones the main process left behind; zombies don't count.
func (p *Process) Group() bool {
	p.mu.Lock()
	err, reaped := p.kill(0), p.reaped
	p.mu.Unlock()
	if errors.Is(err, syscall.ESRCH) {
		return false
	}
	if !reaped {
		return true
	}
	all, err := scanProcesses()
	for _, s := range all {
		if s.group == p.pid && !s.dead() {
			return true
		}
	}
	return err != nil // somebody is there, and may be alive
}

func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// Keep says what ResumeProcess needs. The pidfd stays the Process's.
func (p *Process) Keep(prefix string, f *keep.Files) ProcessState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := ProcessState{PID: p.pid, Gone: p.gone, Spent: int64(p.spent)}
	if p.reaped {
		s.Ended = p.status.keep()
	} else if p.start == 0 {
		p.start, _ = startOf(p.pid) // without it the pidfd must do
	}
	s.Start = p.start
	if fd := int(p.fd.n.Load()); fd >= 0 {
		f.Put(prefix+".pid", fd)
	}
	return s
}

func (s Status) keep() *EndState {
	e := &EndState{Status: s}
	if s.lost != nil {
		e.Lost = s.lost.Error()
	}
	return e
}

func (e *EndState) status() Status {
	s := e.Status
	if e.Lost != "" {
		s.lost = errors.New(e.Lost)
	}
	return s
}

// startOf is a process's Mark.Start, also when it is a zombie that nobody has waited
// for; 0 where it cannot be told.
func startOf(pid int) (uint64, error) {
	var buf [1024]byte
	b, err := slurp(pid, "stat", buf[:])
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("stat of process %d: %w", pid, errGarbled)
	}
	return strconv.ParseUint(string(f[19]), 10, 64) // see MarkOf
}

// ResumeProcess makes a Process again. One that is this process's child is as it was:
// a launcher that has exec'ed another program keeps its children. Of any other the end
// is seen and, before Linux 6.15, not how it ended. One that has ended meanwhile is done
// at once; that nothing but its end is left of it is no error.
func ResumeProcess(s ProcessState, prefix string, f *keep.Files) (*Process, error) {
	if s.PID <= 1 {
		return nil, fmt.Errorf("process %d: no process of a worker has that number", s.PID)
	}
	p := &Process{pid: s.PID, start: s.Start, fd: &pidFD{}, done: make(chan struct{}), spent: time.Duration(s.Spent)}
	p.fd.n.Store(-1)
	if err := p.takePidfd(s, prefix, f); err != nil {
		return nil, err
	}
	runtime.AddCleanup(p, (*pidFD).close, p.fd)
	switch {
	case s.Ended != nil:
		p.ended(s.Ended.status(), s.Gone)
	case p.fd.n.Load() < 0 && !p.own():
		p.ended(Status{Code: -1, lost: errEndedBefore}, false)
	case p.own():
		kin.own.Store(p.pid, true)
		go p.wait() // ends when pid has been reaped
	default:
		if err := p.watch(); err != nil {
			p.fd.close()
			return nil, err
		}
	}
	return p, nil
}

var (
	errNotChild    = errors.New("it was not this process's child")
	errEndedBefore = errors.New("it ended before this process could see it")
)

// takePidfd takes what was kept, or opens it by the number of a process that began at
// the same time. Without an error and without a pidfd the process has ended, or the
// kernel has none to give.
func (p *Process) takePidfd(s ProcessState, prefix string, f *keep.Files) error {
	if f.Has(prefix + ".pid") {
		fd, err := f.Take(prefix + ".pid")
		if err != nil {
			return err
		}
		if err := leadsTo(fd, s.PID); err != nil {
			unix.Close(fd) // nothing is buffered in it
			return fmt.Errorf("descriptor %q: %w", prefix+".pid", err)
		}
		p.fd.n.Store(int64(fd))
		return nil
	}
	switch {
	case s.Ended != nil && s.Gone:
		return nil
	case s.Start == 0:
		return fmt.Errorf("process %d: neither a descriptor nor the time of its start was kept", s.PID)
	}
	fd, err := unix.PidfdOpen(s.PID, 0)
	if errors.Is(err, unix.ENOSYS) && p.own() {
		return nil // before Linux 5.3: our own child can be waited for without
	}
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: it is a thread's number
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of process %d: %w", s.PID, err)
	}
	// Looked at behind the pidfd: whoever has the number now is whom it names.
	start, err := startOf(s.PID)
	if err == nil && start == s.Start {
		p.fd.n.Store(int64(fd))
		return nil
	}
	unix.Close(fd) // nothing is buffered in it
	if ended(err) {
		err = nil
	}
	return err
}

// leadsTo says whether fd is a pidfd of that process, or of one that has been reaped.
func leadsTo(fd, pid int) error {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		value, ok := bytes.CutPrefix(line, []byte("Pid:"))
		if !ok {
			continue
		}
		// -1: it was reaped; 0: of another pid namespace (fs/pidfs.c).
		n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
		if err == nil && (n == pid || n == -1) {
			return nil
		}
		return fmt.Errorf("it is of process %s, not of %d", bytes.TrimSpace(value), pid)
	}
	return errors.New("it is no pidfd")
}

// own says whether it is a child of this process that was not waited for. A number
// alone proves it only together with the time of the start.
func (p *Process) own() bool {
	kind, id := unix.P_PID, p.pid
	fd := int(p.fd.n.Load())
	if fd >= 0 {
		kind, id = unix.P_PIDFD, fd
	}
	look := func() error {
		return uninterrupted(func() error {
			return unix.Waitid(kind, id, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		})
	}
	err := look()
	if errors.Is(err, unix.EINVAL) && fd >= 0 { // before Linux 5.4
		kind, id, fd = unix.P_PID, p.pid, -1
		err = look()
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) { // EAGAIN: it runs, and the pidfd does not block
		return false
	}
	if fd >= 0 {
		return true
	}
	start, err := startOf(p.pid)
	return err == nil && start == p.start
}

// ended is for one whose end is known already.
func (p *Process) ended(status Status, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped, p.status = true, status
	if p.gone = gone; gone {
		p.fd.close()
	} else {
		_ = p.kill(0) // only to learn whether the group is gone
	}
	close(p.done)
}

// reapTime is how long the end of a process that is not our child may take to become
// known after it was seen: until then it is a zombie of its parent's. Tests change it.
var reapTime = 100 * time.Millisecond

// watch waits for the end of a process that is not this one's child. A goroutine waits,
// and no thread: a pidfd can be polled (pidfd_open(2)). It ends with the process.
func (p *Process) watch() error {
	fd := int(p.fd.n.Load())
	// Its own duplicate: the other is closed when the group is gone. O_NONBLOCK is for
	// the runtime's poller, and means nothing else for a pidfd but to waitid(2), which
	// nobody can use on it.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(own, true)
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.pid, err)
	}
	file := os.NewFile(uintptr(own), "pidfd")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close() // nothing is buffered in it
		return fmt.Errorf("process %d: %w", p.pid, err)
	}
	p.foreign = true
	go func() {
		defer file.Close() // likewise
		// An error would mean that pidfds cannot be polled, on a kernel that has had
		// them since they can be (5.3): nothing is known then, and Status says so.
		err := raw.Read(func(fd uintptr) bool { return polled(int(fd), unix.POLLIN) })
		p.mu.Lock()
		p.reaped = true // from here on its number is nobody's
		p.mu.Unlock()
		status := p.howItEnded(file, raw)
		if err != nil {
			status.lost = err
		}
		p.ended(status, false)
	}()
	return nil
}

// polled says whether that has happened on a pidfd: POLLIN, that the process has
// ended; POLLHUP, that it was waited for.
func polled(fd int, event int16) bool {
	list := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(list, 0)
	return err == nil && n == 1 && list[0].Revents&event != 0
}

// howItEnded asks the kernel, which tells once somebody has waited for the process
// (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
func (p *Process) howItEnded(file *os.File, raw interface {
	Read(func(fd uintptr) bool) error
}) Status {
	lost := Status{Code: -1, lost: errNotChild}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	known := false
	ask := func(fd uintptr) bool {
		waited := polled(int(fd), unix.POLLHUP) // before it is asked: then it tells, or never does
		info.Mask = unix.PIDFD_INFO_EXIT
		err := unix.IoctlPidfdInfo(int(fd), &info)
		if known = err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0; known {
			return true
		}
		return waited
	}
	_ = file.SetReadDeadline(time.Now().Add(reapTime)) // it can be polled, so it has deadlines
	if err := raw.Read(ask); err != nil || !known {
		return lost
	}
	ws := unix.WaitStatus(info.Exit_code)
	s := Status{Code: ws.ExitStatus()}
	if ws.Signaled() {
		s.Code, s.Signal, s.CoreDumped = -1, ws.Signal(), ws.CoreDump()
	}
	return s
}

package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long Start waits for an executable that somebody still writes.
const patience = time.Second

// Start starts the release and returns once the target has been exec'ed, or says
// why it was not; then nothing is left of it. ctx bounds the start alone: when it
// ends before the exec, the process is killed and ctx's cause returned; later it
// means nothing.
//
// Errors are an operation, its object and an errno: "exec /srv/app: exec format
// error (...)", "chdir /srv: permission denied", "setrlimit nofile: operation not
// permitted"; errors.Is sees the errno.
func Start(ctx context.Context, s Spec) (*Process, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p, report, leave, err := fork(s)
	if err != nil {
		return nil, err
	}
	defer report.Close() // read only
	if s.Listed != nil {
		s.Listed(p.PID())
	}
	_, _ = leave.Write([]byte{0}) // a shim that is gone is seen below
	leave.Close()                 // it was written to
	stop := context.AfterFunc(ctx, func() {
		_ = p.Kill() // gone already is as good
	})
	// Ends with the exec, with the shim's exit, or with the kill above. Only the shim
	// has the other end.
	said, _ := io.ReadAll(io.LimitReader(report, 8192)) // a path at most
	if !stop() {
		<-p.done
		return nil, fmt.Errorf("exec %s: %w", s.Release.path, context.Cause(ctx))
	}
	if err := s.Release.verdict(said, p); err != nil {
		return nil, err
	}
	s.Release.ran()
	return p, nil
}

// fork runs the shim. report is the read end of its status pipe; it does nothing before
// something is written to leave, and ends with that.
func fork(s Spec) (p *Process, report, leave *os.File, err error) {
	r := s.Release
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.exeFD < 0 {
		return nil, nil, nil, fmt.Errorf("exec %s: the release is closed", r.path)
	}
	var opened []int
	defer func() {
		for _, fd := range opened {
			unix.Close(fd) // ours alone and never written to disk: cannot fail
		}
	}()
	orders, err := r.orders(s)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("exec %s: orders: %w", r.path, err)
	}
	opened = append(opened, orders)
	var status, start [2]int
	if err := unix.Pipe2(start[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, nil, fmt.Errorf("exec %s: pipe: %w", r.path, err)
	}
	opened = append(opened, start[0])
	lets := os.NewFile(uintptr(start[1]), "start pipe")
	if err := unix.Pipe2(status[:], unix.O_CLOEXEC); err != nil {
		lets.Close() // nothing was written
		return nil, nil, nil, fmt.Errorf("exec %s: pipe: %w", r.path, err)
	}
	opened = append(opened, status[1])
	// Non-blocking is the read end alone, so that a goroutine waits and not a thread.
	_ = unix.SetNonblock(status[0], true) // without it a thread waits
	says := os.NewFile(uintptr(status[0]), "status pipe")
	defer func() {
		if err != nil { // then report and leave are nil
			says.Close() // read only
			lets.Close() // nothing was written
		}
	}()

	std := [3]int{s.Stdin, s.Stdout, s.Stderr}
	for i, fd := range std {
		if fd >= 0 {
			continue
		}
		if std[i], err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return nil, nil, nil, fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		opened = append(opened, std[i])
	}
	if p, err = spawn(std, s.Files, r.exeFD, status[1], orders, start[0], r.wdFD); err != nil {
		return nil, nil, nil, fmt.Errorf("fork for %s: %w", r.path, err)
	}
	return p, says, lets, nil
}

// spawn forks and execs the launcher's own binary with these descriptors at
// 0, 1, 2, 3... in this order.
//
// syscall.ForkExec with bare numbers duplicates them in the child and touches
// nothing else. os/exec would take them from os.File.Fd, which clears O_NONBLOCK
// on the open file description, that is for everybody who shares the socket.
func spawn(std [3]int, files []int, control ...int) (*Process, error) {
	var fds []uintptr
	for _, list := range [][]int{std[:], files, control} {
		for _, fd := range list {
			fds = append(fds, uintptr(fd)) // -1 becomes "closed" there
		}
	}
	pidfd := -1
	first := strconv.Itoa(len(std) + len(files))
	// The shim gets no environment: GODEBUG or GOMEMLIMIT are meant for the target.
	pid, err := kin.fork("/proc/self/exe", []string{"baton", hidden, first}, &syscall.ProcAttr{
		Files: fds,
		Sys:   &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd},
	})
	if err != nil {
		return nil, err
	}
	return newProcess(pid, pidfd), nil
}

// orders writes the shim's orders to a memfd: a pipe would hold 64 KiB, an
// environment may be larger.
func (r *Release) orders(s Spec) (int, error) {
	args := s.Args
	if args == nil {
		args = r.args
	}
	b, err := json.Marshal(order{
		Args: join(args), Env: join(s.Env), Group: s.Group, Paths: join([]string{r.path, r.real}),
		Dev: r.dev, Ino: r.ino, HasDir: r.wdFD >= 0, Dir: r.dir,
		Umask: r.umask, Limits: r.limits, Who: r.who, Rights: r.rights, Confine: r.confine, Patience: patience,
	})
	if err != nil {
		return -1, err
	}
	return memory("baton orders", b)
}

// verdict judges what the shim said until its pipe ended: nil when the target runs;
// otherwise the shim is gone when this returns.
func (r *Release) verdict(said []byte, p *Process) error {
	i := bytes.IndexByte(said, refused)
	if i < 0 && len(said) > 0 {
		return nil // it reached the exec, and had nothing to say after it
	}
	<-p.done
	if i < 0 {
		return fmt.Errorf("exec %s: the shim ended before it: %v", r.path, p.Status())
	}
	number, op, _ := strings.Cut(string(said[i+1:]), " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("exec %s: the shim said %q", r.path, said)
	}
	errno := syscall.Errno(n)
	if op != "exec" {
		return fmt.Errorf("%s: %w", op, errno)
	}
	if why := r.explain(errno); why != "" {
		return fmt.Errorf("exec %s: %w (%s)", r.path, errno, why)
	}
	return fmt.Errorf("exec %s: %w", r.path, errno)
}

// explain says what an errno of exec means where its text misleads.
func (r *Release) explain(errno syscall.Errno) string {
	switch errno {
	case syscall.ENOEXEC:
		if head, err := r.head(); err == nil && len(head) == 0 {
			return "the file is empty"
		}
		return "neither a complete program for this machine nor a script with #!"
	case syscall.ETXTBSY:
		return "still open for writing after " + patience.String()
	case syscall.ENOENT:
		if head, err := r.head(); err == nil && bytes.HasPrefix(head, []byte("#!")) {
			line, _, _ := bytes.Cut(head[2:], []byte("\n"))
			return "its interpreter is missing: " + string(bytes.TrimSpace(line))
		}
		return "the file is there, its loader is not"
	case syscall.EACCES:
		if r.who != nil && r.who.name != "" {
			return "as user " + r.who.name
		}
	case syscall.EAGAIN:
		return "the user's limit nproc is reached"
	case syscall.E2BIG:
		return "arguments and environment together, or one of them alone"
	}
	return ""
}

// Open reads the executable that is held open, from its beginning.
func (r *Release) Open() (io.ReadCloser, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.exeFD < 0 {
		return nil, os.ErrClosed
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", r.exeFD))
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err // its path means nothing to anybody
		}
		return nil, fmt.Errorf("read %s: %w", r.path, err)
	}
	return f, nil
}

// head is the beginning of the executable.
func (r *Release) head() ([]byte, error) {
	f, err := r.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	b := make([]byte, 256)
	n, err := f.Read(b)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

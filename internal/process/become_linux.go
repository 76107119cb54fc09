//go:build amd64 || arm64

package process

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// answerTime bounds the wait for the process that holds signals.
const answerTime = 10 * time.Second

// Become replaces this program by another one in the same process: pid, children,
// parent and the descriptors that are named stay. It returns only when that failed,
// with everything as it was before. Nothing may be started meanwhile, and what is
// caught is not read.
//
// A signal is kept wherever it comes: caught and not read, it is in the pipe; from the
// moment that other threads could die with one in hand until the new program has called
// Catch, HoldSignals holds it. Where that is not permitted, HUP, INT, USR1, USR2, TTIN
// and TTOU are ignored from here to the next Catch, so that they are lost and not
// deadly.
func Become(i Image) error {
	goOn := PauseCaught()
	defer goOn()
	l, err := newLeap(i)
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	syscall.ForkLock.Lock() // what is opened to the new program must not leak into a child
	defer syscall.ForkLock.Unlock()
	undo, err := inheritable(i.Files)
	defer undo()
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	defer lowerNofile()()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := l.exec(i); err != nil {
		return fmt.Errorf("exec %s: %w", i.Args[0], err)
	}
	return nil // not reached
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

// lowerNofile gives back the limit of descriptors that this process was started with
// (restoreNofile); raise undoes it, not by syscall.Setrlimit, which would forget that
// one.
func lowerNofile() (raise func()) {
	var own syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own) // fails for no other reason than bad arguments
	restoreNofile()
	return func() {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&own)), 0, 0, 0)
	}
}

// leap is all that the exec'ing thread needs once others may not run any more:
// nothing is allocated then, no lock taken, and the scheduler not entered.
type leap struct {
	exe            int
	args, env      []*byte
	empty          *byte
	ask, say       int
	order, release []byte
	patience       unix.Timespec
	poll           unix.PollFd
	answer         [1]byte
}

func newLeap(i Image) (l *leap, err error) {
	l = &leap{
		exe: i.Exe, ask: i.Ask, say: i.Say, empty: new(byte), release: []byte(orderRelease + "\n"),
		poll: unix.PollFd{Fd: int32(i.Say), Events: unix.POLLIN},
	}
	if l.args, err = syscall.SlicePtrFromStrings(i.Args); err != nil {
		return nil, err
	}
	l.env, err = syscall.SlicePtrFromStrings(i.Env)
	return l, err
}

// exec is called on a locked thread.
func (l *leap) exec(i Image) error {
	var all, before unix.Sigset_t
	for w := range all.Val {
		all.Val[w] = ^all.Val[w]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return err
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }() // as above
	// Where Yama restricts ptrace to ancestors (ptrace(2)); elsewhere EINVAL.
	_ = unix.Prctl(unix.PR_SET_PTRACER, uintptr(i.Holder.PID()), 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_PTRACER, 0, 0, 0, 0) }() // likewise

	l.order = fmt.Appendf(nil, "%s %d %d %x\n", orderHold, os.Getpid(), unix.Gettid(), before.Val[0])
	switch reply, errno := l.jump(); reply {
	case replyHeld:
		return errno // of the exec
	case replyRefused:
		i.Unheld(fmt.Errorf("%s", l.rest()))
	case replyGone:
		i.Unheld(fmt.Errorf("the process that was to hold them has ended"))
	default:
		_ = i.Holder.Kill() // gone is as good: our threads are free
		return errHolder
	}
	return l.alone(&before)
}

// alone execs without anybody who would hold signals.
func (l *leap) alone(mask *unix.Sigset_t) error {
	for _, sig := range gap {
		if sig == syscall.SIGTERM || sig == syscall.SIGQUIT {
			continue // Go's runtime takes them whether they were ignored or not
		}
		old, err := dispose(sig, sigaction{handler: sigIgn})
		if err != nil {
			return err
		}
		defer func() { _, _ = dispose(sig, old) }() //nolint:revive,gocritic // a few, and all are meant to wait
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, mask, nil); err != nil {
		return err
	}
	return l.execve()
}

const sigIgn = 1

// rest reads why signals are not held: a line.
func (l *leap) rest() string {
	var line strings.Builder
	for {
		n, err := unix.Read(l.say, l.answer[:])
		if n != 1 || l.answer[0] == '\n' {
			return strings.TrimSpace(line.String())
		}
		if err != nil && err != unix.EINTR {
			return io.ErrUnexpectedEOF.Error()
		}
		line.WriteByte(l.answer[0])
	}
}

// jump asks for signals to be held, which stops every other thread of this process, and
// execs. errno is that of an exec that failed; then the threads run again.
//
// Without stack checks: those may enter the scheduler. All that is called is raw.
//
//go:nosplit
//go:norace
func (l *leap) jump() (reply byte, errno syscall.Errno) {
	l.write(l.order)
	reply = l.read()
	if reply != replyHeld {
		return reply, 0
	}
	errno = l.execve()
	l.write(l.release)
	l.read()
	return reply, errno
}

//go:nosplit
//go:norace
func (l *leap) execve() syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(l.exe),
		uintptr(unsafe.Pointer(l.empty)), uintptr(unsafe.Pointer(&l.args[0])),
		uintptr(unsafe.Pointer(&l.env[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}

//go:nosplit
//go:norace
func (l *leap) write(b []byte) {
	// Whole, being less than a pipe holds; when nobody reads it, read sees that.
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(l.ask), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

// read waits for a byte; 0 when none comes in time, replyGone when none ever will.
//
//go:nosplit
//go:norace
func (l *leap) read() byte {
	l.patience.Sec, l.patience.Nsec = int64(answerTime/time.Second), 0
	n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&l.poll)), 1,
		uintptr(unsafe.Pointer(&l.patience)), 0, 0, 0)
	if errno != 0 || n != 1 {
		return 0
	}
	n, _, errno = syscall.RawSyscall(syscall.SYS_READ, uintptr(l.say), uintptr(unsafe.Pointer(&l.answer)), 1)
	if errno != 0 || n != 1 {
		return replyGone
	}
	return l.answer[0]
}

package process

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// order is what Start tells the shim. Names and values may be any bytes, which a
// JSON string cannot carry: they travel as []byte, lists joined by NUL.
type order struct {
	Args, Env []byte
	Paths     []byte // where the executable may still be; tried in this order
	Dev, Ino  uint64 // what it must be there
	HasDir    bool
	Dir       string // for the error only
	Group     string // see Spec
	Umask     int    // -1: unchanged
	Limits    []limit
	Who       *identity
	Rights    rights
	Confine   bool
	Patience  time.Duration // how long an executable that is being written is waited for
}

// What the shim writes to its status pipe: reached before the (first) exec, so that
// the pipe's end can be told from the shim's own death; refused when it gives up,
// followed by the errno, a blank, and the operation.
const (
	reached = 'R'
	refused = '!'
)

// The shim's descriptors behind the target's, counted from the number in argv[2].
const (
	controlExe    = iota // O_PATH; first, because a script run by descriptor keeps it
	controlStatus        // write end; closes on exec
	controlOrder         // memfd
	controlLeave         // read end: something, or the end when the launcher has ended
	controlDir           // O_PATH, or closed
	controlCount
)

// Main runs the shim, and never returns, if this process was started as one. Call
// it first in main, and in TestMain of any package that calls Start. Otherwise it
// does nothing.
func Main() {
	if len(os.Args) < 2 || os.Args[1] != hidden {
		return
	}
	// The signal mask belongs to a thread. This one clears its own and execs; the
	// others end there.
	runtime.LockOSThread()
	first := 0
	if len(os.Args) == 3 {
		first, _ = strconv.Atoi(os.Args[2]) // not a number: 0, refused below
	}
	if first < 3 {
		fmt.Fprintf(os.Stderr, "%s %s is for its own use only\n", os.Args[0], hidden)
		syscall.Exit(2)
	}
	op, errno := become(first)
	refuse(first+controlStatus, make([]byte, 0, 64+len(op)), op, errno)
}

// refuse tells why there will be no target, and ends the process. It does not
// allocate when buf is large enough.
func refuse(status int, buf []byte, op string, errno syscall.Errno) {
	buf = append(buf, refused)
	buf = strconv.AppendUint(buf, uint64(errno), 10)
	buf = append(append(buf, ' '), op...)
	// When nobody reads it any more, nobody waits for it.
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(status),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	syscall.Exit(127)
}

// become prepares this process and turns it into the target. It returns only with
// the operation that failed.
func become(first int) (string, syscall.Errno) {
	for fd := first; fd < first+controlCount; fd++ {
		unix.CloseOnExec(fd) // one that is not open stays so
	}
	closeFrom(first + controlCount)
	if !allowed(first + controlLeave) {
		syscall.Exit(127) // nobody asks any more
	}
	var o order
	if err := readOrder(first+controlOrder, &o); err != nil {
		return "read the orders", errnoOf(err)
	}
	t, err := newImage(&o)
	if err != nil {
		return "exec", errnoOf(err)
	}
	if op, errno := o.prepare(first + controlDir); errno != 0 {
		return op, errno
	}
	resetSignals()
	_, _ = syscall.Write(first+controlStatus, []byte{reached}) // see refuse
	// From here on nothing may be allocated and no thread started: the limits that
	// come now, on memory or processes, are meant for the target, and Go's runtime
	// ends the program when it cannot have what it wants. With one processor, which
	// this goroutine does not give up in raw system calls, nothing else runs.
	if len(o.Limits) > 0 {
		runtime.GOMAXPROCS(1)
	}
	op, errno := t.exec(first+controlExe, &o)
	refuse(first+controlStatus, t.report, op, errno)
	return op, errno // not reached
}

// allowed waits until the launcher lets this process go on, or has ended.
func allowed(fd int) bool {
	for {
		n, err := unix.Read(fd, make([]byte, 1))
		if err != unix.EINTR {
			return n == 1
		}
	}
}

func readOrder(fd int, o *order) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	b := make([]byte, st.Size)
	for n := 0; n < len(b); {
		m, err := unix.Pread(fd, b[n:], int64(n))
		if err != nil {
			return err
		}
		if m == 0 {
			return syscall.ENODATA
		}
		n += m
	}
	return json.Unmarshal(b, o)
}

func errnoOf(err error) syscall.Errno {
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EINVAL
}

// prepare changes what a process inherits, in an order in which each step is still
// allowed: groups before the user, and the last capabilities after it.
func (o *order) prepare(dir int) (string, syscall.Errno) {
	if o.HasDir {
		if err := unix.Fchdir(dir); err != nil {
			return "chdir " + o.Dir, errnoOf(err)
		}
	}
	if err := o.join(); err != nil {
		return "cgroup " + o.Group, errnoOf(err)
	}
	restoreNofile()
	for i := range o.Limits {
		if errno := o.Limits[i].raise(); errno != 0 {
			return o.Limits[i].op(), errno
		}
	}
	if o.Umask >= 0 {
		syscall.Umask(o.Umask)
	}
	return o.assume()
}

// join puts this process, all its threads with it, into its control group: before it is
// somebody who may not.
func (o *order) join() error {
	if o.Group == "" {
		return nil
	}
	fd, err := unix.Open(o.Group, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // what the write says counts
	_, err = unix.Write(fd, []byte("0"))
	return err
}

// restoreNofile undoes what Go's syscall package did at start: it raises the soft
// limit of descriptors to the hard one, which programs that use select(2) or close
// every possible descriptor do not expect. syscall.Exec alone knows the original
// and restores it before it execs; executing nothing leaves just that.
func restoreNofile() {
	_ = syscall.Exec("", []string{""}, nil) // ENOENT, always
}

// assume sets groups, gid and uid. What is the launcher's own already is left: it
// may not have the right to set groups.
func (id *identity) assume() (string, syscall.Errno) {
	if id.UID == os.Geteuid() && id.GID == os.Getegid() && id.UID != 0 {
		return "", 0
	}
	if err := syscall.Setgroups(id.Groups); err != nil {
		return "setgroups", errnoOf(err)
	}
	if err := syscall.Setresgid(id.GID, id.GID, id.GID); err != nil {
		return fmt.Sprintf("setgid %d", id.GID), errnoOf(err)
	}
	if id.UID < 0 {
		return "", 0
	}
	if err := syscall.Setresuid(id.UID, id.UID, id.UID); err != nil {
		return fmt.Sprintf("setuid %d", id.UID), errnoOf(err)
	}
	return "", 0
}

// resetSignals sets every signal to its default and unblocks all of them. exec
// resets handlers by itself but leaves ignored signals ignored and blocked ones
// blocked (signal(7)): a launcher under nohup, or one that ignores SIGPIPE, must
// not hand that down. From here on this process is as mortal as the target.
func resetSignals() {
	// struct sigaction is laid out differently per architecture; all zeros is
	// SIG_DFL without flags on every one. 128 bytes hold the largest.
	var dfl [128]byte
	size := uintptr(8)
	for sig := uintptr(1); sig <= 64; sig++ {
		// KILL and STOP refuse, which is as it should be.
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig,
			uintptr(unsafe.Pointer(&dfl)), 0, size, 0, 0)
	}
	var none unix.Sigset_t
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil) // fails for a bad argument only
}

// closeFrom closes every descriptor from first on: those that the launcher itself
// inherited without knowing.
func closeFrom(first int) {
	if unix.CloseRange(uint(first), ^uint(0)>>1, 0) == nil {
		return
	}
	// Before Linux 5.9, or under a seccomp filter that does not know the call.
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		for fd := first; fd < 4096; fd++ {
			_ = syscall.Close(fd) // most are not open
		}
		return
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			_ = syscall.Close(fd) // the listing's own is among them, and gone already
		}
	}
}

// image is the ready-made argument of exec: whatever must be allocated, is.
type image struct {
	args, env []*byte
	paths     []*byte
	empty     *byte
	ops       []string // of the limits, in their order
	report    []byte
	st        unix.Statx_t
	nap       syscall.Timespec
}

func newImage(o *order) (*image, error) {
	env := split(o.Env)
	for i, kv := range env {
		if kv == "LISTEN_PID=self" || kv == "WATCHDOG_PID=self" {
			env[i] = strings.TrimSuffix(kv, "self") + strconv.Itoa(os.Getpid()) // exec keeps the pid
		}
	}
	t := &image{empty: new(byte), report: make([]byte, 0, 128)}
	t.nap = syscall.NsecToTimespec(int64(5 * time.Millisecond))
	for i := range o.Limits {
		t.ops = append(t.ops, o.Limits[i].op())
	}
	var err error
	if t.args, err = syscall.SlicePtrFromStrings(split(o.Args)); err != nil {
		return nil, err
	}
	if t.paths, err = syscall.SlicePtrFromStrings(split(o.Paths)); err != nil {
		return nil, err
	}
	t.paths = t.paths[:len(t.paths)-1] // without the NULL at the end
	t.env, err = syscall.SlicePtrFromStrings(env)
	return t, err
}

// exec sets the limits and tries until the file is no longer being written
// (ETXTBSY), or patience ends. It returns with what failed.
//
// The system call is made raw, without syscall.Exec's lock against new threads: a
// thread that Go's runtime creates at this moment fails with EAGAIN, is retried
// there, and ends with the rest when exec succeeds.
func (t *image) exec(exe int, o *order) (string, syscall.Errno) {
	for i := range o.Limits {
		if errno := o.Limits[i].set(); errno != 0 {
			return t.ops[i], errno
		}
	}
	for begin := time.Now(); ; {
		errno := t.try(exe, o)
		if errno != syscall.ETXTBSY || time.Since(begin) > o.Patience {
			return "exec", errno
		}
		// Cut short by a signal: tried sooner.
		_, _, _ = syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t.nap)), 0, 0)
	}
}

func (t *image) try(exe int, o *order) syscall.Errno {
	for _, path := range t.paths {
		if !t.same(path, o) {
			continue
		}
		_, _, errno := syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(path)),
			uintptr(unsafe.Pointer(&t.args[0])), uintptr(unsafe.Pointer(&t.env[0])))
		return errno
	}
	errno := t.execFD(exe)
	if errno != syscall.ENOENT {
		return errno
	}
	// A script: its interpreter is to open /dev/fd/N, which the kernel refuses as
	// pointless while N closes on exec (execveat(2)).
	_, _, _ = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(exe), syscall.F_SETFD, 0)
	return t.execFD(exe)
}

// same tells whether the executable still lies at path. Before Linux 4.11 (no
// statx) it never does, and the descriptor is used.
func (t *image) same(path *byte, o *order) bool {
	at := unix.AT_FDCWD // a variable: the negative constant is no uintptr
	_, _, errno := syscall.RawSyscall6(unix.SYS_STATX, uintptr(at), uintptr(unsafe.Pointer(path)),
		0, unix.STATX_INO, uintptr(unsafe.Pointer(&t.st)), 0)
	return errno == 0 && t.st.Ino == o.Ino && unix.Mkdev(t.st.Dev_major, t.st.Dev_minor) == o.Dev
}

func (t *image) execFD(exe int) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(exe),
		uintptr(unsafe.Pointer(t.empty)), uintptr(unsafe.Pointer(&t.args[0])),
		uintptr(unsafe.Pointer(&t.env[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}

func join(list []string) []byte {
	var b bytes.Buffer
	for _, s := range list {
		b.WriteString(s)
		b.WriteByte(0)
	}
	return b.Bytes()
}

// split undoes join.
func split(b []byte) []string {
	var list []string
	for len(b) > 0 {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			i = len(b) - 1
		}
		list = append(list, string(b[:i]))
		b = b[i+1:]
	}
	return list
}

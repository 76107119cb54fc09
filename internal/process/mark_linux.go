package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MarkOf is the mark of a process that runs. false without an error: there is none of
// that number; a zombie is none.
func MarkOf(pid int) (Mark, bool, error) {
	var buf [1024]byte
	b, err := slurp(pid, "stat", buf[:])
	if err != nil {
		if ended(err) {
			err = nil
		}
		return Mark{}, false, err
	}
	s, ok := parseStat(b)
	// From the third field on (parseStat): the session is the 6th, starttime the 22nd.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if !ok || len(f) < 20 {
		return Mark{}, false, fmt.Errorf("stat of process %d: %w", pid, errGarbled)
	}
	if s.dead() {
		return Mark{}, false, nil
	}
	session, err1 := strconv.Atoi(string(f[3]))
	start, err2 := strconv.ParseUint(string(f[19]), 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return Mark{}, false, fmt.Errorf("stat of process %d: %w", pid, errGarbled)
	}
	return Mark{PID: pid, Start: start, Parent: s.parent, Group: s.group, Session: session}, true, nil
}

// RanAt says whether a process of that number runs that did at a certain time, to the
// second.
func RanAt(pid int, at time.Time) bool {
	m, ok, err := MarkOf(pid)
	if err != nil {
		return true // it is there, and more cannot be seen
	}
	var up unix.Timespec
	if !ok || unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return ok
	}
	began := time.Now().Add(time.Duration(m.Start)*tick - time.Duration(up.Nano()))
	return began.Before(at.Add(time.Second))
}

// Boot names this run of the machine: marks of another mean nothing.
func Boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// Left are the processes that run now of those marked, each the leader of a process
// group, and of their groups. A group whose leader is gone counts when it is in the
// session that the leader was in, or led: no number is given again while one of its
// group or session lives.
func Left(marked []Mark) ([]Mark, error) {
	if len(marked) == 0 {
		return nil, nil
	}
	groups := map[int]Mark{}
	for _, m := range marked {
		groups[m.Group] = m
	}
	all, err := scanProcesses()
	errs := []error{err}
	var left []Mark
	for pid, s := range all {
		leader, known := groups[s.group]
		if !known || s.dead() {
			continue
		}
		m, ok, err := MarkOf(pid)
		errs = append(errs, err)
		if !ok || m.Group != leader.Group {
			continue
		}
		first, ok, err := MarkOf(leader.PID)
		errs = append(errs, err)
		switch {
		case ok && !first.same(leader): // the number is another's
		case ok, m.Session == leader.Session, m.Session == leader.PID:
			left = append(left, m)
		}
	}
	slices.SortFunc(left, func(a, b Mark) int { return a.PID - b.PID })
	return left, errors.Join(errs...)
}

// Signal sends a signal to the process, and never to another that has its number by
// now. That it has ended is no error.
func (m Mark) Signal(sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(m.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of process %d: %w", m.PID, err)
	}
	defer unix.Close(fd) // nothing is buffered in it
	// Looked at behind the pidfd: whoever has the number now is who is signalled.
	now, ok, err := MarkOf(m.PID)
	if err != nil || !ok || !now.same(m) {
		return err
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", m.PID, err)
	}
	return nil
}

// Start starts it.
func (b Background) Start() (*Begun, error) {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer unix.Close(null) // likewise
	// What this process was given itself (a script's lock on descriptor 9, for one)
	// would be held as long as the program runs.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("close_range: %w", err)
	}
	pid, err := kin.fork("/proc/self/exe", b.Args, &syscall.ProcAttr{
		Dir: b.Dir, Env: b.Env, Sys: &syscall.SysProcAttr{Setsid: true},
		Files: []uintptr{uintptr(null), uintptr(b.Output), uintptr(b.Output), uintptr(b.Told)},
	})
	if err != nil {
		return nil, fmt.Errorf("start in the background, in %s: %w", b.Dir, err)
	}
	done := make(chan struct{})
	begun := &Begun{PID: pid, Done: done, code: -1}
	go func() { // ends with the process, or with this one
		defer close(done)
		if kin.await(pid) != nil {
			return // somebody waits for everything
		}
		if ws, _, err := kin.reap(pid); err == nil {
			begun.code = codeOf(ws)
		}
	}()
	return begun, nil
}

// Inherited is a pipe that this process was given as a descriptor, and hands on to
// nobody; nil when there is no pipe.
func Inherited(fd int) *os.File {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil
	}
	unix.CloseOnExec(fd)
	if unix.SetNonblock(fd, true) != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "pipe")
}

// CommandLine is the argument vector of a process and the directory it works in.
func CommandLine(pid int) (args []string, dir string, err error) {
	at := "/proc/" + strconv.Itoa(pid)
	text, err := os.ReadFile(at + "/cmdline")
	if err != nil {
		return nil, "", err
	}
	for word := range bytes.SplitSeq(bytes.TrimSuffix(text, []byte{0}), []byte{0}) {
		args = append(args, string(word))
	}
	dir, err = os.Readlink(at + "/cwd")
	return args, dir, err
}

// Unit is the name of the systemd service that a process belongs to, or lies in a group of;
// "" when it belongs to none.
func Unit(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		_, where, _ := strings.Cut(line, "/")
		names := strings.Split(strings.TrimSpace(where), "/")
		for _, name := range names[max(0, len(names)-2):] { // a scope deeper in it is its own
			if unit, ok := strings.CutSuffix(name, ".service"); ok && unit != "" {
				return name
			}
		}
	}
	return ""
}

// codeOf is the exit code as a shell has it.
func codeOf(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

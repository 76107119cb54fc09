//go:build amd64 || arm64

package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"baton/internal/thread"
	"golang.org/x/sys/unix"
)

const (
	// gatherTime bounds how long all threads may take to stop.
	gatherTime = 5 * time.Second
	// busyTries bounds how often a thread that seems to be in a handler is looked at.
	busyTries = 200
)

// hold is a process whose threads are traced, so that signals to it come to us first.
//
// Before the exec all its threads are stopped but the one that will exec: a thread that
// dies in an exec with a signal in hand takes that along. Afterwards all run.
type hold struct {
	pid, thread int
	mask        uint64 // of signals, for the new program
	threads     map[int]*traced
	execed      bool
	freeing     bool
	taken       []siginfo

	begun   chan error // told once
	release chan struct{}
	ended   chan struct{} // closed when the process has ended
	freed   chan struct{} // closed when nothing is traced any more
	changes chan os.Signal
}

type traced struct {
	stopped bool           // in a stop that we leave it in
	listens bool           // stopped by STOP or the like, of its own
	looked  int            // how often it was in a handler
	signal  syscall.Signal // to be delivered when it is let go
	blocked uint64         // signals, by us: the flood
}

// newHold returns when every thread but one is stopped; with an error, nothing is held.
func newHold(pid, tid int, mask uint64) (*hold, error) {
	h := &hold{
		pid: pid, thread: tid, mask: mask, threads: make(map[int]*traced),
		begun: make(chan error), release: make(chan struct{}), ended: make(chan struct{}),
		freed: make(chan struct{}), changes: make(chan os.Signal, 1),
	}
	thread.Go(h.run) // ends with free, or with the process
	if err := <-h.begun; err != nil {
		<-h.freed
		return nil, err
	}
	return h, nil
}

// free returns when nothing is traced any more.
func (h *hold) free() {
	close(h.release)
	<-h.freed
}

// run is the tracer: the kernel takes each call from this thread alone, and lets all
// go when it ends.
func (h *hold) run() {
	defer close(h.freed)
	signal.Notify(h.changes, syscall.SIGCHLD)
	defer signal.Stop(h.changes)
	err := h.gather()
	h.begun <- err
	if err == nil {
		h.follow()
	}
	h.letGo()
}

// gather stops all threads but one, until there is no other.
func (h *hold) gather() error {
	deadline := time.Now().Add(gatherTime)
	err := h.seize(h.thread, unix.PTRACE_O_TRACEEXEC)
	for err != nil && h.othersHold() && time.Now().Before(deadline.Add(gatherTime/-2)) {
		<-time.After(time.Millisecond)
		err = h.seize(h.thread, unix.PTRACE_O_TRACEEXEC)
	}
	if err != nil {
		return err
	}
	for {
		fresh, err := h.seizeOthers()
		if err != nil {
			return err
		}
		if !h.pump(h.allStopped, deadline, nil) {
			return errors.New("a thread does not stop")
		}
		if !fresh {
			return nil
		}
	}
}

func (h *hold) seize(tid int, options uintptr) error {
	if err := ptrace(unix.PTRACE_SEIZE, tid, 0, options); err != nil {
		return fmt.Errorf("ptrace process %d: %w", h.pid, err)
	}
	h.threads[tid] = &traced{}
	return nil
}

// othersHold says whether another process traces the thread: the prover before this one
// may be about to let go.
func (h *hold) othersHold() bool {
	var buf [4096]byte
	b, err := slurp(h.pid, fmt.Sprintf("task/%d/status", h.thread), buf[:])
	_, rest, found := bytes.Cut(b, []byte("\nTracerPid:\t"))
	return err == nil && found && !bytes.HasPrefix(rest, []byte("0\n"))
}

func (h *hold) seizeOthers() (fresh bool, err error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", h.pid))
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		tid, _ := strconv.Atoi(e.Name()) // they are numbers
		if h.threads[tid] != nil {
			continue
		}
		// The one that execs was permitted: what is refused here is about to end.
		if h.seize(tid, 0) == nil {
			fresh = true
			_ = ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0) // it has ended, which will be reported
		}
	}
	return fresh, nil
}

func (h *hold) allStopped() bool {
	for tid, t := range h.threads {
		if !t.stopped && (tid != h.thread || h.freeing) {
			return false
		}
	}
	return true
}

// follow passes everything on but what is held, until free or the end.
func (h *hold) follow() {
	never := func() bool { return false }
	h.pump(never, time.Time{}, h.release)
}

// letGo detaches from every thread, each of which must be stopped for that.
func (h *hold) letGo() {
	h.freeing = true
	for tid, t := range h.threads {
		if !t.stopped || t.listens {
			t.stopped = false
			_ = ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0) // ended: will be reported
		}
	}
	// When one does not stop, our own end frees it.
	h.pump(h.allStopped, time.Now().Add(gatherTime), nil)
	for tid, t := range h.threads {
		if t.blocked != 0 {
			changeMask(tid, 0, t.blocked)
		}
		if ptrace(unix.PTRACE_DETACH, tid, 0, uintptr(t.signal)) == nil {
			delete(h.threads, tid)
		}
	}
	// What cannot be detached from was killed in its stop. Until its end is taken here its
	// own parent is not told.
	h.pump(func() bool { return len(h.threads) == 0 }, time.Now().Add(gatherTime), nil)
}

// pump answers what the kernel reports until done says so; false: the deadline is over,
// or the process.
func (h *hold) pump(done func() bool, deadline time.Time, stop <-chan struct{}) bool {
	var late <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		late = t.C
	}
	for {
		more := h.answer()
		switch {
		case h.over():
			return len(h.threads) == 0 && h.freeing
		case done():
			return true
		}
		changes := h.changes
		var now chan struct{}
		if more { // don't wait for changes, and still see an order to stop
			changes, now = nil, closed
		}
		select {
		case <-stop:
			return false
		case <-late:
			return false
		default:
		}
		select {
		case <-now:
		case <-changes:
		case <-stop:
			return false
		case <-late:
			return false
		}
	}
}

// closed is what never waits.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// answer takes one report; false: there is none.
func (h *hold) answer() bool {
	for {
		var status syscall.WaitStatus
		tid, err := syscall.Wait4(-1, &status, syscall.WNOHANG|syscall.WALL, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil || tid == 0:
			return false
		}
		h.report(tid, status)
		return true
	}
}

func (h *hold) over() bool {
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

func (h *hold) report(tid int, status syscall.WaitStatus) {
	t := h.threads[tid]
	if status.Exited() || status.Signaled() {
		delete(h.threads, tid)
		if tid == h.pid && !h.over() {
			close(h.ended)
		}
		return
	}
	if t == nil {
		t = &traced{}
		h.threads[tid] = t
	}
	sig := status.StopSignal()
	t.listens = false
	switch event := int(status) >> 16; {
	case event == unix.PTRACE_EVENT_EXEC:
		h.arrived(tid)
	case event == unix.PTRACE_EVENT_CLONE:
		h.cloned(tid)
		h.goOn(tid, t, 0)
	case event == unix.PTRACE_EVENT_STOP && h.freeing:
		t.stopped = true
	case event == unix.PTRACE_EVENT_STOP && sig != syscall.SIGTRAP:
		_ = ptrace(unix.PTRACE_LISTEN, tid, 0, 0) // ended: will be reported
		t.stopped, t.listens = true, true
	case event == unix.PTRACE_EVENT_STOP && !h.execed && tid != h.thread:
		h.quiet(tid, t)
	case event != 0:
		h.goOn(tid, t, 0)
	case slices.Contains(gap, sig):
		h.take(tid, t, sig)
		if !h.execed && tid != h.thread {
			t.stopped = true // as good a place as any: in no handler
			return
		}
		h.goOn(tid, t, 0)
	default:
		h.goOn(tid, t, sig)
	}
}

// goOn lets a thread run, unless it is stopped for good.
func (h *hold) goOn(tid int, t *traced, sig syscall.Signal) {
	if h.freeing {
		t.stopped, t.signal = true, sig
		return
	}
	resume(tid, sig)
}

// quiet leaves a thread stopped unless it blocks signals: Catch's handler does while it
// runs, and must come to its end. Go's runtime does for moments.
func (h *hold) quiet(tid int, t *traced) {
	var mask uint64
	err := ptrace(unix.PTRACE_GETSIGMASK, tid, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	if err == nil && mask&(1<<(syscall.SIGHUP-1)) != 0 && t.looked < busyTries {
		t.looked++
		resume(tid, 0)
		_ = ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0) // ended: will be reported
		return
	}
	t.stopped = true
}

// arrived is the new program before its first instruction: one thread.
func (h *hold) arrived(tid int) {
	h.execed = true
	clear(h.threads)
	h.threads[tid] = &traced{}
	// Both fail for a process that has just been killed.
	_ = ptrace(unix.PTRACE_SETSIGMASK, tid, unsafe.Sizeof(h.mask), uintptr(unsafe.Pointer(&h.mask)))
	_ = ptrace(unix.PTRACE_SETOPTIONS, tid, 0, unix.PTRACE_O_TRACECLONE)
	resume(tid, 0)
}

// cloned expects the thread that tid has made, which is traced from its first instruction.
func (h *hold) cloned(tid int) {
	if fresh, err := unix.PtraceGetEventMsg(tid); err == nil && h.threads[int(fresh)] == nil {
		h.threads[int(fresh)] = &traced{}
		if h.freeing {
			_ = ptrace(unix.PTRACE_INTERRUPT, int(fresh), 0, 0) // ended: will be reported
		}
	}
}

// take keeps a signal, as many of each as Catch does. Of more it is a flood, in which the
// thread would come to no instruction of its own: from then on it blocks that signal,
// and the kernel keeps one.
func (h *hold) take(tid int, t *traced, sig syscall.Signal) {
	equal := 0
	for i := range h.taken {
		if h.taken[i].signal() == sig {
			equal++
		}
	}
	if equal >= catchMax {
		bit := uint64(1) << (sig - 1)
		t.blocked |= bit &^ h.mask
		changeMask(tid, bit, 0)
		return
	}
	var info siginfo
	if ptrace(unix.PTRACE_GETSIGINFO, tid, 0, uintptr(unsafe.Pointer(&info))) != nil {
		info = siginfo{}
		info.word(0, int32(sig)) // of a thread that was killed
	}
	h.taken = append(h.taken, info)
}

// changeMask blocks and unblocks signals of a stopped thread. It fails for one that was
// killed.
func changeMask(tid int, add, remove uint64) {
	var mask uint64
	if ptrace(unix.PTRACE_GETSIGMASK, tid, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask))) == nil {
		mask = mask&^remove | add
		_ = ptrace(unix.PTRACE_SETSIGMASK, tid, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask))) // likewise
	}
}

// resume lets a thread run on, with a signal or 0. It fails for one that was killed.
func resume(tid int, sig syscall.Signal) { _ = unix.PtraceCont(tid, int(sig)) }

func ptrace(request, tid int, addr, data uintptr) error {
	_, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// siginfo is siginfo_t of sigaction(2); its head is the record of Catch.
type siginfo [128]byte

func (s *siginfo) word(i int, v int32) { *(*int32)(unsafe.Pointer(&s[4*i])) = v }
func (s *siginfo) at(i int) int32      { return *(*int32)(unsafe.Pointer(&s[4*i])) }

func (s *siginfo) signal() syscall.Signal { return syscall.Signal(s.at(0)) }

// send sends it once more, as from whoever sent it. The kernel lets nobody speak for
// kill(2) or for itself, so it goes as one of sigqueue(3), with pid 0 for nobody.
func (s *siginfo) send(pid int) error {
	switch s.at(2) {
	case siUser, siQueue, siTkill:
	default:
		s.word(4, 0)
		s.word(5, 0)
	}
	s.word(2, siQueue)
	_, _, errno := syscall.Syscall(syscall.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(s.signal()), uintptr(unsafe.Pointer(s)))
	if errno != 0 {
		return errno
	}
	return nil
}

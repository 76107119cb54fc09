package process

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// family tells the children that this process has forked itself, each of which has a
// goroutine that waits for it, from those that the kernel gave it because their parent
// died: as PID 1 of a namespace (pid_namespaces(7)), or as a subreaper. Nobody waits
// for the latter but Reap.
//
// Its invariant: while the gate is held for writing every child of our own that may
// have ended is in own. So who forks holds it for reading from before the fork until
// the child is noted, and who waits for one from before it is reaped until its number
// is no longer noted: another child may have that number an instant later.
type family struct {
	gate sync.RWMutex
	own  sync.Map // pids
	held int      // by HoldReaping; guarded by the gate
	wake chan struct{}
}

var kin = &family{wake: make(chan struct{}, 1)}

// fork is syscall.ForkExec of a child that somebody is going to wait for, by await and
// reap.
func (k *family) fork(path string, args []string, attr *syscall.ProcAttr) (pid int, err error) {
	k.gate.RLock()
	defer k.gate.RUnlock()
	if pid, err = syscall.ForkExec(path, args, attr); err == nil {
		k.own.Store(pid, true)
	}
	return pid, err
}

// await returns when a child of our own has ended, without reaping it. With an error it
// is lost (ECHILD: somebody ignores SIGCHLD, or waited for everything).
func (k *family) await(pid int) error {
	err := uninterrupted(func() error {
		return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	})
	if err != nil {
		k.own.Delete(pid)
	}
	return err
}

// reap reaps a child of our own that has ended.
func (k *family) reap(pid int) (ws unix.WaitStatus, ru unix.Rusage, err error) {
	k.gate.RLock()
	defer k.gate.RUnlock()
	err = uninterrupted(func() error {
		_, err := unix.Wait4(pid, &ws, 0, &ru)
		return err
	})
	k.own.Delete(pid)
	k.stir()
	return ws, ru, err
}

// has says whether a child of this process is one that it has forked.
func (k *family) has(pid int) bool {
	_, own := k.own.Load(pid)
	return own
}

func (k *family) stir() {
	select {
	case k.wake <- struct{}{}:
	default: // told already
	}
}

// Adopts says whether processes whose parent has died become children of this one.
func Adopts() bool {
	if os.Getpid() == 1 {
		return true
	}
	var is int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0)
	return err == nil && is != 0
}

// Reap collects the exits of children that this process was given by the kernel, for as
// long as it lives, and never that of one that it has started: see family. Where nobody
// is given to this process it does nothing.
func Reap() {
	if !Adopts() {
		return
	}
	ended := make(chan os.Signal, 1) // equal ones are merged: one says look
	signal.Notify(ended, syscall.SIGCHLD)
	go func() { // ends with the process
		for {
			for kin.collect() {
				// Between two rounds whoever wants to fork gets through.
			}
			select {
			case <-ended:
			case <-kin.wake:
			}
		}
	}()
}

// HoldReaping has Reap leave everybody alone until release is called, once: for a child
// that a library forks and waits for, which nobody can note in time.
func HoldReaping() (release func()) {
	kin.hold(1)
	return func() {
		kin.hold(-1)
		kin.stir()
	}
}

func (k *family) hold(by int) {
	k.gate.Lock() // not for as long as it is held: others fork meanwhile
	defer k.gate.Unlock()
	k.held += by
}

// oneRound is how many are reaped before the gate is opened: a few hundred
// microseconds' worth.
const oneRound = 256

// collect reaps strangers that have ended, and says whether there may be more.
func (k *family) collect() bool {
	k.gate.Lock()
	defer k.gate.Unlock()
	if k.held > 0 {
		return false
	}
	for range oneRound {
		pid, err := firstEnded()
		if err != nil || pid == 0 {
			return false // ECHILD: no child at all
		}
		if k.has(pid) {
			// Whoever waits for it is about to, and stirs: the kernel shows the others
			// only behind it.
			return false
		}
		// It cannot have been reaped meanwhile, nor be another by now.
		_ = uninterrupted(func() error {
			_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
			return err
		})
	}
	return true
}

// firstEnded looks for a child that has ended, without reaping it; 0: none.
func firstEnded() (pid int, err error) {
	var info unix.Siginfo
	err = uninterrupted(func() error {
		return unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if errors.Is(err, syscall.ECHILD) {
		return 0, nil
	}
	return senderOf(&info), err
}

// senderOf is si_pid: the union behind three ints begins at a multiple of a pointer's
// size (sigaction(2)).
func senderOf(info *unix.Siginfo) int {
	at := (3*unsafe.Sizeof(int32(0)) + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), at)))
}

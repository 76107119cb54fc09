//go:build amd64 || arm64

package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the handler in assembly uses. The first two are set once, before it is
// installed.
//
//nolint:unused // not by assembly
var (
	catchPipe   int32     // write end; never closed
	catchPID    int32     // this process; a child between fork and exec has the handler too
	catchUnread [65]int32 // records of each signal in the pipe; at most catchMax
)

// catchMax of each of eight signals fit into a pipe of one page, the smallest there
// is (pipe(7)): the pipe is never full, and a storm of one signal hides no other.
// The assembly has the number too.
const catchMax = 16

// handlerPC and restorerPC are where the assembly functions lie: a func value would
// lead to a wrapper for Go's own calling convention.
func handlerPC() uintptr
func restorerPC() uintptr

// sigaction is the kernel's struct, the same on both architectures
// (include/linux/signal_types.h).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// Flags of sigaction(2), the same on both architectures.
const (
	saSiginfo  = 0x4
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
	saRestorer = 0x04000000
)

// record is the head of siginfo_t on a 64-bit kernel (sigaction(2)): signal, errno,
// code, padding, pid, uid, of four bytes each. Less than PIPE_BUF: whole or not at all.
const record = 24

// Codes of siginfo_t with which the field after the padding is a pid.
const (
	siUser  = 0
	siQueue = -1
	siTkill = -6
)

var caught atomic.Bool

// Catch takes these signals over for as long as the process lives, and calls tell for
// each, one at a time, on a goroutine of its own, which ends with the process. tell
// should not wait: meanwhile the first 16 of each signal are kept, and no more.
//
// os/signal cannot say who sent a signal, so this replaces the runtime's handler with
// one of its own, which does nothing but write siginfo to a pipe. The other ways are
// closed: signalfd(2) needs the signals blocked in every thread, and Go's runtime
// unblocks HUP, INT, QUIT and TERM in each that it makes, whatever mask it was started
// with (blockableSig in runtime/signal_unix.go). Don't name them to os/signal as well:
// the later of the two would win. exec gives a child the default again, and the signal
// mask is not touched. A signal that comes while an equal one is pending is merged with
// it by the kernel, and the sender of the first is told (signal(7)).
//
// The error is errors.ErrUnsupported where this is not written: other systems and
// other processors.
func Catch(tell func(Caught), sigs ...syscall.Signal) error {
	if len(sigs)*catchMax*record > 4096 {
		return fmt.Errorf("signals: %d are too many to catch", len(sigs))
	}
	if caught.Swap(true) {
		return fmt.Errorf("signals: caught already")
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("signals: pipe: %w", err)
	}
	catchPipe, catchPID = int32(ends[1]), int32(os.Getpid())
	before, installed := reader.begin(os.NewFile(uintptr(ends[0]), "signals"))
	go func() { // ends with the process: nobody closes the pipe
		if before != nil {
			passOn(before, tell, false) // ends: nobody has its write end any more
			before.Close()              // read only
		}
		close(reader.drained)
		passOn(reader.from, tell, true)
	}()
	for _, sig := range sigs {
		if err := install(sig); err != nil {
			return fmt.Errorf("signals: sigaction %s: %w", SignalName(sig), err)
		}
	}
	if installed != nil {
		installed()
	}
	return nil
}

func install(sig syscall.Signal) error {
	_, err := dispose(sig, sigaction{
		handler: handlerPC(), restorer: restorerPC(),
		// On the stack that the runtime gave each thread for its own handler, with
		// that handler (for preemption, profiling) kept out meanwhile.
		flags: saSiginfo | saOnStack | saRestart | saRestorer,
		mask:  ^uint64(0),
	})
	return err
}

// dispose is sigaction(2); os/signal learns nothing of it.
func dispose(sig syscall.Signal, act sigaction) (old sigaction, err error) {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(&act)), uintptr(unsafe.Pointer(&old)), unsafe.Sizeof(act.mask), 0, 0)
	if errno != 0 {
		return old, errno
	}
	return old, nil
}

// passOn reads what a handler writes: our own, or that of the program that became this
// one, whose pipe ends.
func passOn(from *os.File, tell func(Caught), ours bool) {
	var b [record]byte
	for {
		_, err := io.ReadFull(from, b[:])
		if errors.Is(err, os.ErrDeadlineExceeded) { // nothing was read: a record is written at once
			reader.parked <- struct{}{}
			<-reader.goOn
			continue
		}
		if err != nil {
			return // the write end of ours is never closed
		}
		c := parseRecord(b)
		if ours {
			atomic.AddInt32(&catchUnread[c.Signal], -1)
		}
		c.Child = Child(c.PID)
		tell(c)
	}
}

func parseRecord(b [record]byte) Caught {
	field := func(i int) int32 { return int32(binary.NativeEndian.Uint32(b[4*i:])) }
	c := Caught{Signal: syscall.Signal(field(0))}
	switch field(2) {
	case siUser, siQueue, siTkill:
		c.PID = int(field(4))
	}
	return c
}

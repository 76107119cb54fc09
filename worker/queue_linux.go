package worker

import (
	"syscall"
	"unsafe"
)

// pollfd is struct pollfd (poll(2)).
type pollfd struct {
	fd      int32
	events  int16
	revents int16
}

const pollIn = 1 // POLLIN: on a listening socket, something is queued

// waiting tells whether something is queued at a listener, without waiting and
// without any deadline, which net looks at before it asks the kernel.
func waiting(listener any) bool {
	l, ok := listener.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return false // closed: nothing will come of it
	}
	found := false
	err = raw.Control(func(fd uintptr) {
		p, now := pollfd{fd: int32(fd), events: pollIn}, syscall.Timespec{}
		// ppoll(2), because arm64 has no poll(2). It does not block.
		n, _, _ := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
		found = n == 1 && p.revents&pollIn != 0
	})
	return found && err == nil
}

package socket

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// fprog is struct sock_fprog. The returned value points into p, which must
// live until the system call is over.
func fprog(p []bpf.RawInstruction) *unix.SockFprog {
	// bpf.RawInstruction and unix.SockFilter are both struct sock_filter.
	return &unix.SockFprog{Len: uint16(len(p)), Filter: (*unix.SockFilter)(unsafe.Pointer(&p[0]))}
}

// attachSteering sets the program of the group that fd is a member of.
func attachSteering(fd int, p []bpf.RawInstruction) error {
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, fprog(p))
	if err != nil {
		return fmt.Errorf("attach steering program: %w", err)
	}
	return nil
}

// attachFilter sets the socket's own packet filter.
func attachFilter(fd int, p []bpf.RawInstruction) error {
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, fprog(p)); err != nil {
		return fmt.Errorf("attach packet filter: %w", err)
	}
	return nil
}

// detachFilter removes the socket's packet filter; none is no error.
func detachFilter(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("detach packet filter: %w", err)
	}
	return nil
}

// filtered tells whether the socket has a packet filter: SO_GET_FILTER (the
// number of SO_ATTACH_FILTER) with no room returns its length in instructions,
// 0 for none (net/core/filter.c).
func filtered(fd int) bool {
	n := uint32(0)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		0, uintptr(unsafe.Pointer(&n)), 0)
	return errno == 0 && n > 0
}

// filter is the socket's packet filter; nil for none.
func filter(fd int) []bpf.RawInstruction {
	p := make([]bpf.RawInstruction, bpfMaxInstructions)
	n := uint32(len(p))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		uintptr(unsafe.Pointer(&p[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 || n == 0 {
		return nil // one that is not classic BPF is a worker's as well
	}
	return p[:min(int(n), len(p))]
}

const bpfMaxInstructions = 4096 // BPF_MAXINSNS, linux/bpf_common.h

// memory is what SO_MEMINFO tells; fields as in linux/sock_diag.h.
type memory struct {
	received uint32 // bytes allocated for what is unread, with the kernel's overhead
	drops    uint32 // packets dropped at this socket, by its filter or for lack of room
}

func meminfo(fd int) (memory, error) {
	var vars [9]uint32 // SK_MEMINFO_VARS
	n := uint32(unsafe.Sizeof(vars))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&vars)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return memory{}, fmt.Errorf("read SO_MEMINFO: %w", errno)
	}
	return memory{received: vars[unix.SK_MEMINFO_RMEM_ALLOC], drops: vars[unix.SK_MEMINFO_DROPS]}, nil
}

// listening is what the kernel tells of a socket that should listen.
type listening struct {
	on      bool // in state LISTEN
	queued  int  // accept queue now: sk_ack_backlog
	backlog int  // its limit: sk_max_ack_backlog
}

// tcpListening reads TCP_INFO, which for a listening socket carries the queue
// in fields named for other things (tcp_get_info in net/ipv4/tcp.c).
func tcpListening(fd int) (listening, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return listening{}, fmt.Errorf("read TCP_INFO: %w", err)
	}
	if info.State != unix.BPF_TCP_LISTEN {
		return listening{}, nil
	}
	return listening{on: true, queued: int(info.Unacked), backlog: int(info.Sacked)}, nil
}

// exhausted: err says that something ran out, which may be there a moment later.
// It says nothing of what the machine can do.
func exhausted(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// inodeOf is the number by which /proc and sock_diag know the socket.
func inodeOf(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stat socket: %w", err)
	}
	return st.Ino, nil
}

// settle returns once no processor can still be at work with what a system
// call before it replaced: it waits for an RCU grace period, which is what
// MEMBARRIER_CMD_GLOBAL does (kernel/sched/membarrier.c). A replaced steering
// program may be running on another processor when setsockopt returns.
func settle() {
	const cmdGlobal = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, cmdGlobal, 0, 0); errno != 0 {
		// Refused by a sandbox, or the machine has nohz_full processors. A packet
		// spends microseconds in the program, so this long is as good.
		ts := unix.Timespec{Nsec: 5e6}
		_ = unix.Nanosleep(&ts, nil) // cut short by a signal at worst
	}
}

// disconnect is connect(2) with AF_UNSPEC, which x/sys does not offer.
func disconnect(fd int) error {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return fmt.Errorf("disconnect: %w", errno)
	}
	return nil
}

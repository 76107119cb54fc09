package worker

import (
	"net"
	"os"
	"strconv"
	"syscall"
)

// adopt makes a socket of a descriptor that was inherited; nil when it is something
// else. net works on a copy, close-on-exec from its birth (net.FileListener), so the
// descriptor itself is closed, and no child process inherits either.
func adopt(fd int) (*socket, error) {
	syscall.CloseOnExec(fd)
	kind, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE)
	if err == syscall.ENOTSOCK {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	listening, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	stream := kind == syscall.SOCK_STREAM && listening == 1
	if !stream && kind != syscall.SOCK_DGRAM {
		return nil, nil
	}
	f := os.NewFile(uintptr(fd), "LISTEN_FD_"+strconv.Itoa(fd))
	defer f.Close()
	s := &socket{}
	if stream {
		s.listener, err = net.FileListener(f)
	} else {
		s.packets, err = net.FilePacketConn(f)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

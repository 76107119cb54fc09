package load

import (
	"net"
	"syscall"
)

// peerClosed tells, without waiting, whether the peer has closed or reset a
// connection on which nothing is expected (recv(2): MSG_PEEK leaves a byte that
// did come where it is).
func peerClosed(conn net.Conn) bool {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		waiting := err == syscall.EAGAIN || err == syscall.EINTR
		closed = n == 0 && !waiting
		return true
	})
	return closed || err != nil
}

package protocol

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peer is the pid that connected, as the kernel noted it then (SO_PEERCRED,
// unix(7)); it is of no process any more if that has ended since.
func peer(c *net.UnixConn) (pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); failed == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, errors.Join(err, failed)
}

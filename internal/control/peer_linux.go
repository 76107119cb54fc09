package control

import (
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// peer is the user at the other end of c, as he was when he connected (SO_PEERCRED,
// unix(7)).
func peer(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var got error
	if err := raw.Control(func(fd uintptr) {
		cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if got != nil {
		return 0, got
	}
	return int(cred.Uid), nil
}

// reach calls f with path, or, where that is too long for an address, with another
// one to the same place: by a descriptor of its directory.
func reach(path string, f func(string) error) error {
	if len(path) <= longest {
		return f(path)
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Dir(path), err)
	}
	defer unix.Close(fd) // it was never read or written
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path)))
}

package control

import (
	"fmt"
	"net"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is the user at the other end of c, as he was when he connected (SO_PEERCRED,
// unix(7)).
func peer(c *net.UnixConn) (uid, gid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var cred *unix.Ucred
	var got error
	if err := raw.Control(func(fd uintptr) {
		cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, 0, err
	}
	if got != nil {
		return 0, 0, got
	}
	return int(cred.Uid), int(cred.Gid), nil
}

// peerGroups are the supplementary groups of that user, likewise (SO_PEERGROUPS,
// Linux 4.13; net/core/sock.c: too small a buffer is ERANGE, with the size it needs).
func peerGroups(c *net.UnixConn) (gids []int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	list := make([]uint32, 64)
	for range 2 {
		size := uint32(4 * len(list))
		var failed unix.Errno
		if err := raw.Control(func(fd uintptr) {
			_, _, failed = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
				uintptr(unsafe.Pointer(&list[0])), uintptr(unsafe.Pointer(&size)), 0)
		}); err != nil {
			return nil, err
		}
		if failed == unix.ERANGE && size <= 4*maxGroups {
			list = make([]uint32, size/4)
			continue
		}
		if failed != 0 {
			return nil, fmt.Errorf("groups of a peer: %w", failed)
		}
		for _, gid := range list[:size/4] {
			gids = append(gids, int(gid))
		}
		return gids, nil
	}
	return nil, fmt.Errorf("groups of a peer: %w", unix.ERANGE)
}

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

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

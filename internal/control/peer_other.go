//go:build !linux

package control

import (
	"errors"
	"fmt"
	"net"
	"runtime"
)

// peer is not known here: nobody is let in.
func peer(*net.UnixConn) (uid, gid int, err error) {
	return 0, 0, fmt.Errorf("credentials of a peer on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// peerGroups are not known either.
func peerGroups(*net.UnixConn) ([]int, error) {
	return nil, fmt.Errorf("groups of a peer on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// reach has no other way to a path that is too long for an address.
func reach(path string, f func(string) error) error {
	if len(path) > longest {
		return fmt.Errorf("%s: longer than the %d bytes that a socket's path may have", path, longest)
	}
	return f(path)
}

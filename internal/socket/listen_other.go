//go:build !linux

package socket

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
)

func listenInet(_ context.Context, a Address, _ Options) (Listener, error) {
	return nil, fmt.Errorf("listen %s: slots need linux, this is %s", a.endpoint(), runtime.GOOS)
}

// Listening says that this system is not served.
func Listening() (map[uint64]netip.AddrPort, error) {
	return nil, fmt.Errorf("listening sockets: sock_diag needs linux, this is %s", runtime.GOOS)
}

// Inode says that this system is not served.
func Inode(netip.AddrPort, netip.AddrPort) (uint64, error) {
	return 0, fmt.Errorf("inode: sock_diag needs linux, this is %s", runtime.GOOS)
}

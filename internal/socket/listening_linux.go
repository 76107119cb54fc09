package socket

import (
	"fmt"
	"net/netip"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// Listening returns the address of every TCP socket that listens in this network
// namespace, by the inode under which /proc/PID/fd shows it.
func Listening() (map[uint64]netip.AddrPort, error) {
	socks, err := diag.Dump(unix.IPPROTO_TCP, diag.StateListen, 0)
	if err != nil {
		return nil, fmt.Errorf("listening sockets: %w", err)
	}
	found := make(map[uint64]netip.AddrPort, len(socks))
	for _, s := range socks {
		found[s.Inode] = s.Local
	}
	return found, nil
}

// Inode returns the inode of the TCP socket that has these two ends, seen from
// itself, in this network namespace; 0 when there is none or no process holds it.
func Inode(local, remote netip.AddrPort) (uint64, error) {
	s, found, err := diag.Get(unix.IPPROTO_TCP, local, remote)
	if err != nil || !found {
		return 0, err
	}
	return s.Inode, nil
}

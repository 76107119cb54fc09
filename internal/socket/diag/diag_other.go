//go:build !linux

package diag

import (
	"fmt"
	"net/netip"
	"runtime"
)

var errNoDiag = fmt.Errorf("sock_diag: not available on %s, only on linux", runtime.GOOS)

// Dump needs Linux.
func Dump(proto int, states uint32, localPort uint16) ([]Sock, error) { return nil, errNoDiag }

// Get needs Linux.
func Get(proto int, local, remote netip.AddrPort) (Sock, bool, error) {
	return Sock{}, false, errNoDiag
}

// UnixListening needs Linux.
func UnixListening(inode uint64) (UnixSock, bool, error) { return UnixSock{}, false, errNoDiag }

// UnixListeners needs Linux.
func UnixListeners(file File) ([]UnixSock, error) { return nil, errNoDiag }

// UnixPeer needs Linux.
func UnixPeer(inode uint64) (UnixSock, bool, error) { return UnixSock{}, false, errNoDiag }

// UnixConnections needs Linux.
func UnixConnections(named func(name string) bool, owner func(inode uint64) bool) (int, error) {
	return 0, errNoDiag
}

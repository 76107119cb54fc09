//go:build !linux

package socket

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"

	"baton/internal/keep"
)

// endpoint is where sockets are bound.
type endpoint struct{}

func (State) endpoint(Address) endpoint { return endpoint{} }

func checkDescriptor(int, Socket, endpoint) error {
	return fmt.Errorf("slots need linux, this is %s", runtime.GOOS)
}

func resumeInet(State, Address, string, *keep.Files, *slog.Logger) (Listener, error) {
	return nil, fmt.Errorf("slots need linux, this is %s", runtime.GOOS)
}

// Adopt says that this system is not served.
func Adopt(_ context.Context, _ int, a Address, _ Options) (Listener, error) {
	return nil, fmt.Errorf("adopt %s: slots need linux, this is %s", a.endpoint(), runtime.GOOS)
}

// AddressOf says that this system is not served.
func AddressOf(int) (Address, error) {
	return Address{}, fmt.Errorf("address of a descriptor: not on %s", runtime.GOOS)
}

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

//go:build !linux

package protocol

import (
	"fmt"
	"net"
	"runtime"
)

// nodeChannel says that this system is not served: slots are Linux's.
func nodeChannel() (*net.UnixConn, int, error) {
	return nil, -1, fmt.Errorf("baton has it on Linux only, this is %s", runtime.GOOS)
}

package protocol

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// nodeChannel makes a channel as node's own spawn does: ours, and the number of the
// worker's end, which is close-on-exec here.
func nodeChannel() (ours *net.UnixConn, child int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("socketpair: %w", err)
	}
	end := os.NewFile(uintptr(pair[0]), "node channel")
	c, err := net.FileConn(end) // its own duplicate
	end.Close()
	if err != nil {
		unix.Close(pair[1]) // nobody has seen it yet
		return nil, -1, err
	}
	return c.(*net.UnixConn), pair[1], nil
}

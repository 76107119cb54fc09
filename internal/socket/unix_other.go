//go:build !linux

package socket

import (
	"context"
	"fmt"
	"runtime"
)

// listenUnix needs sock_diag, inotify and epoll.
func listenUnix(_ context.Context, a Address, _ Options) (Listener, error) {
	return nil, fmt.Errorf("listen unix %s: not available on %s, only on linux", a.Path, runtime.GOOS)
}

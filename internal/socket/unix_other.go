//go:build !linux

package socket

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"

	"baton/internal/keep"
)

// listenUnix needs sock_diag, inotify and epoll.
func listenUnix(_ context.Context, a Address, _ Options) (Listener, error) {
	return nil, fmt.Errorf("listen unix %s: not available on %s, only on linux", a.Path, runtime.GOOS)
}

func resumeUnix(State, Address, string, *keep.Files, *slog.Logger) (Listener, error) {
	return nil, fmt.Errorf("not available on %s, only on linux", runtime.GOOS)
}

//go:build !linux

package protocol

import (
	"fmt"
	"log/slog"
	"runtime"
)

// Notify is a NOTIFY_SOCKET private to one worker; there is none on this system.
type Notify struct{}

// OpenNotify says that this system is not served: it cannot tell who sent a message.
func OpenNotify(func(pid int) bool, func(Message), *slog.Logger) (*Notify, error) {
	return nil, fmt.Errorf("notify socket: baton has it on Linux only, this is %s", runtime.GOOS)
}

// Env is empty here.
func (n *Notify) Env() string { return "" }

// Close does nothing here.
func (n *Notify) Close() error { return nil }

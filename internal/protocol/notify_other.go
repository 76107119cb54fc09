//go:build !linux

package protocol

import (
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"baton/internal/keep"
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

func (n *Notify) keep(string, *keep.Files) ChannelState { return ChannelState{} }
func (n *Notify) stop(<-chan time.Time) bool            { return true }
func (n *Notify) goOn()                                 {}

func resumeNotify(_ NotifyState, _ string, _ *keep.Files, member func(int) bool, on func(Message), log *slog.Logger) (*Notify, error) {
	return OpenNotify(member, on, log)
}

//go:build !linux || !(amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"syscall"
)

// Catch says that it cannot tell who sends a signal here: its handler is written for
// Linux on amd64 and arm64.
func Catch(func(Caught), ...syscall.Signal) error {
	return fmt.Errorf("signals: who sends them is not known on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

// PauseCaught has nothing to pause: Catch catches nothing.
func PauseCaught() (goOn func()) { return func() {} }

// InheritCaught has nobody to give it to.
func InheritCaught(int, func()) {}

// CaughtFD says that there is none.
func CaughtFD() int { return -1 }

// Become says that no program takes another's place here: nobody would hold its signals.
func Become(Image) error { return fmt.Errorf("exec in place: %w", errors.ErrUnsupported) }

// HoldSignals says that this system is not served.
func HoldSignals(io.Reader, io.Writer) (int, error) {
	return 0, fmt.Errorf("ptrace: %w", errors.ErrUnsupported)
}

//go:build !linux || !(amd64 || arm64)

package process

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
)

// Catch says that it cannot tell who sends a signal here: its handler is written for
// Linux on amd64 and arm64.
func Catch(func(Caught), ...syscall.Signal) error {
	return fmt.Errorf("signals: who sends them is not known on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

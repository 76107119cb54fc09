//go:build !linux

package protocol

import (
	"fmt"
	"os"
	"runtime"
)

// pipe says that this system is not served: it has no way to make one that a fork
// at the same moment does not inherit.
func pipe(name string, _ bool) (*os.File, int, error) {
	return nil, -1, fmt.Errorf("%s: baton has it on Linux only, this is %s", name, runtime.GOOS)
}

func unread(*os.File) int { return 0 }

func closeFD(int) {}

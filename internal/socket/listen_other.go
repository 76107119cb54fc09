//go:build !linux

package socket

import (
	"context"
	"fmt"
	"runtime"
)

func listenInet(_ context.Context, a Address, _ Options) (Listener, error) {
	return nil, fmt.Errorf("listen %s: slots need linux, this is %s", a.endpoint(), runtime.GOOS)
}

//go:build !linux

package worker

import (
	"errors"
	"os"
)

// endWriting is not here: the socket is closed at once, as net/http alone would.
func endWriting(*os.File) error { return errors.ErrUnsupported }

//go:build !linux

package process

import "errors"

// Fetch is of Linux: pidfd_getfd(2).
func Fetch([]Mark, map[uint64]bool) (map[uint64]int, error) { return nil, errors.ErrUnsupported }

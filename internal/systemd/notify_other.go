//go:build !linux

package systemd

import (
	"errors"
	"time"
)

const supported, unsupported = false, "a service manager is told how it goes on Linux only"

const atOnce = 1

func send(string, message, time.Duration) error { return errors.New(unsupported) }

func duplicate([]int) ([]int, error) { return nil, errors.New(unsupported) }

func release([]int) {}

func monotonic() time.Duration { return 0 }

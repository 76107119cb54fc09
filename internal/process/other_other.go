//go:build !linux

package process

import "time"

// Other is a process that need not be a child of this one; there is none on this system.
type Other struct{}

// OtherOf says that this system is not served.
func OtherOf(int) (*Other, error) { return nil, missing("pidfd") }

// PID is never called.
func (o *Other) PID() int { return 0 }

// Kill is never called.
func (o *Other) Kill() error { return missing("pidfd") }

// Ended is never called.
func (o *Other) Ended(time.Duration) bool { return true }

// Close is never called.
func (o *Other) Close() {}

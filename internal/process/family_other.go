//go:build !linux

package process

// Adopts is false here.
func Adopts() bool { return false }

// Reap does nothing here: nobody is given to a process but PID 1, which baton is not.
func Reap() {}

// HoldReaping does nothing here.
func HoldReaping() (release func()) { return func() {} }

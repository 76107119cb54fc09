//go:build !linux

package process

// Descends is false here.
func Descends(int) bool { return false }

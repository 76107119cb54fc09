//go:build !linux

package worker

// waiting cannot be told here: quiet has to do.
func waiting(any) bool { return false }

//go:build !linux

package process

// Strangers are none here.
func Strangers([]int, []Mark) []Mark { return nil }

// Variable is empty here.
func Variable(int, string) string { return "" }

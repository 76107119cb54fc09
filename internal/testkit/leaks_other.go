//go:build !linux

package testkit

import "testing"

const reason = "testkit reads /proc, which is Linux's"

// Leaks skips the test: what it looks at is in /proc.
func Leaks(t testing.TB) { t.Skip(reason) }

// Together makes no test parallel here.
func Together(testing.TB) bool { return false }

// Listening skips the test.
func Listening(t testing.TB, _ int) bool { t.Skip(reason); return false }

// Descriptors is not known here.
func Descriptors(int) int { return 0 }

// Children are not known here.
func Children(int) []int { return nil }

func marked(string) map[int]string { return nil }

//go:build !linux

package boot

import (
	"testing"

	"baton/internal/testkit"
)

func (m Machine) outside(t *testing.T, _ int) {
	t.Helper()
	testkit.Lack(t, "a machine is booted on Linux alone")
}

func inside(t *testing.T, _ func(*testing.T)) {
	t.Helper()
	t.Fatal("inside a machine, and not on Linux")
}

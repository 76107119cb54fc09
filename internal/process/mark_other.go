//go:build !linux

package process

import (
	"os"
	"syscall"
	"time"
)

// MarkOf says that this system is not served.
func MarkOf(int) (Mark, bool, error) { return Mark{}, false, missing("look at a process") }

// RanAt takes whoever was there to be there still.
func RanAt(int, time.Time) bool { return true }

// Boot is not known here.
func Boot() string { return "" }

// Left says that this system is not served.
func Left(marked []Mark) ([]Mark, error) {
	if len(marked) == 0 {
		return nil, nil
	}
	return nil, missing("look at a process")
}

// UsagesOf is of nothing here.
func UsagesOf(pids []int) []Usage { return make([]Usage, len(pids)) }

// Signal says that this system is not served.
func (m Mark) Signal(syscall.Signal) error { return missing("signal a process") }

// Start says that this system is not served.
func (b Background) Start() (*Begun, error) { return nil, missing("start in the background") }

// Inherited finds none here.
func Inherited(int) *os.File { return nil }

// CommandLine says that this system is not served.
func CommandLine(int) (args []string, dir string, err error) {
	return nil, "", missing("look at a process")
}

// Unit is none here.
func Unit(int) string { return "" }

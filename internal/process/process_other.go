//go:build !linux

package process

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"baton/internal/keep"
)

func missing(what string) error {
	return fmt.Errorf("%s: baton runs processes on Linux only, this is %s", what, runtime.GOOS)
}

// Release is a resolved Command; there is none on this system.
type Release struct{}

// Path is empty here.
func (r *Release) Path() string { return "" }

// Real is empty here.
func (r *Release) Real() string { return "" }

// Dir is empty here.
func (r *Release) Dir() string { return "" }

// Args are empty here.
func (r *Release) Args() []string { return nil }

// Env is empty here.
func (r *Release) Env() []string { return nil }

// Kept says that this system is not served.
func (r *Release) Kept() (string, error) { return "", missing("exec") }

// Open says that this system is not served.
func (r *Release) Open() (io.ReadCloser, error) { return nil, missing("exec") }

// Close does nothing here.
func (r *Release) Close() error { return nil }

// Keep is empty here.
func (r *Release) Keep(string, *keep.Files) ReleaseState { return ReleaseState{} }

// ResumeRelease says that this system is not served.
func ResumeRelease(ReleaseState, string, *keep.Files) (*Release, error) { return nil, missing("exec") }

// Resolve says that this system is not served.
func Resolve(Command) (*Release, error) { return nil, missing("exec") }

// Process is a running worker; there is none on this system.
type Process struct{}

// Start says that this system is not served.
func Start(context.Context, Spec) (*Process, error) { return nil, missing("exec") }

// Keep is empty here.
func (p *Process) Keep(string, *keep.Files) ProcessState { return ProcessState{} }

// ResumeProcess says that this system is not served.
func ResumeProcess(ProcessState, string, *keep.Files) (*Process, error) {
	return nil, missing("wait")
}

// PID is 0 here.
func (p *Process) PID() int { return 0 }

// Done is closed here.
func (p *Process) Done() <-chan struct{} { c := make(chan struct{}); close(c); return c }

// Ending is true here.
func (p *Process) Ending() bool { return true }

// Status is empty here.
func (p *Process) Status() Status { return Status{} }

// Signal says that this system is not served.
func (p *Process) Signal(syscall.Signal) error { return missing("kill") }

// Kill says that this system is not served.
func (p *Process) Kill() error { return missing("kill") }

// Group is false here.
func (p *Process) Group() bool { return false }

// Contains is false here.
func (p *Process) Contains(int) bool { return false }

// PIDs are empty here.
func (p *Process) PIDs() []int { return nil }

// Holds says that this system is not served.
func (p *Process) Holds(uint64) (bool, error) { return false, missing("proc") }

// Inodes says that this system is not served.
func (p *Process) Inodes() (map[uint64]bool, error) { return nil, missing("proc") }

// Usage says that this system is not served.
func (p *Process) Usage(uint64) (Usage, error) { return Usage{}, missing("proc") }

// Usages says that this system is not served.
func Usages(workers []*Process, _ uint64) ([]Usage, []error) {
	errs := make([]error, len(workers))
	for i := range errs {
		errs[i] = missing("proc")
	}
	return make([]Usage, len(workers)), errs
}

// CPUs are the machine's here.
func CPUs() int { return runtime.NumCPU() }

// Holders says that this system is not served.
func Holders(map[uint64]bool) ([]Holder, error) { return nil, missing("proc") }

// EndHolder says that this system is not served.
func EndHolder(int, map[uint64]bool, syscall.Signal) error { return missing("kill") }

// Main ends a process that was started as the shim: there is none here.
func Main() {
	if len(os.Args) > 1 && os.Args[1] == hidden {
		fmt.Fprintln(os.Stderr, missing("exec"))
		os.Exit(2)
	}
}

//go:build !linux

package process

// Again says that this system is not served.
func Again([]string, []string, ...int) (*Process, error) { return nil, missing("exec") }

// Forget is never called.
func (p *Process) Forget() {}

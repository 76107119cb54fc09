//go:build !linux

package process

import "context"

// Run says that this system is not served.
func Run(_ context.Context, j Job) (string, error) {
	if j.Started != nil {
		j.Started(nil)
	}
	return "", missing("exec")
}

package cli

import (
	"context"
	"os"

	"baton/internal/process"
)

// restarted is baton restart for the screen: in a process of its own, since what it says on
// the way would be written over the screen. The launcher that it starts has a session of
// its own, and outlives both.
func restarted(ctx context.Context, name string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, err := process.Resolve(process.Command{Exec: []string{self, "restart", name}, Base: os.Environ()})
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read from
	_, err = process.Run(ctx, process.Job{Release: r, Env: r.Env()})
	return err
}

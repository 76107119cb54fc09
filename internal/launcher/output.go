package launcher

import (
	"syscall"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/logs"
)

// output opens the output of a worker.
func output(c *config.Config, p *logs.Passthrough) (handoff.Output, error) {
	if c.Logs.Output == "inherit" {
		return inherited{}, nil
	}
	o, err := p.Open()
	if err != nil {
		return nil, err // not o: an interface that holds a nil pointer is not nil
	}
	return o, nil
}

// inherited is the output of a worker that writes to the launcher's own
// standard output and error: nothing passes through, and nothing is kept. The
// descriptors are named by number, because os.File.Fd would change O_NONBLOCK
// for everybody who has them open.
type inherited struct{}

func (inherited) Stdout() int { return syscall.Stdout }

func (inherited) Stderr() int { return syscall.Stderr }

func (inherited) Started() {}

func (inherited) Tail() []string { return nil }

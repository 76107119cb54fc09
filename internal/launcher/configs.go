package launcher

import (
	"log/slog"
	"sync"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/event"
)

// configs knows which configuration each generation was made from, so that what
// is the launcher's own takes effect with the generation that serves.
type configs struct {
	first *config.Config
	read  func() (*config.Config, error)
	begun bool // belongs to load, which is never called twice at once

	mu     sync.Mutex
	latest *config.Config         // load's last
	of     map[int]*config.Config // by generation
}

func newConfigs(first *config.Config, read func() (*config.Config, error)) *configs {
	return &configs{first: first, read: read, of: make(map[int]*config.Config)}
}

// load is handoff.Options.Load.
func (c *configs) load() (*handoff.Plan, error) {
	next := c.first
	if c.begun {
		var err error
		if next, err = c.read(); err != nil {
			return nil, err
		}
	}
	c.begun = true
	c.mu.Lock()
	c.latest = next
	c.mu.Unlock()
	return plan(next)
}

// observe returns the configuration that takes effect with an event, or nil. A
// generation starts before the next one is loaded, so the latest is its own.
func (c *configs) observe(e event.Event) *config.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Kind {
	case event.Starting:
		c.of[e.Generation] = c.latest
	case event.Serving:
		return c.of[e.Generation]
	case event.Gone:
		delete(c.of, e.Generation)
	}
	return nil
}

// warn says what of a configuration is taken at the start alone.
func (c *configs) warn(log *slog.Logger, applied *config.Config) {
	for _, s := range []struct{ name, had, asked string }{
		{"name", c.first.Name, applied.Name},
		{"logs.output", c.first.Logs.Output, applied.Logs.Output},
		{"log.format", c.first.Log.Format, applied.Log.Format},
	} {
		if s.had != s.asked {
			log.Warn(s.name+" is taken at the start: restart to change it", "now", s.had, "asked", s.asked)
		}
	}
}

package launcher

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"baton/handoff"
	"baton/internal/config"
)

// configs reads the configuration for each generation; the first one was read by the
// time the launcher began.
type configs struct {
	first *config.Config
	read  func() (*config.Config, error)
	begun bool // belongs to load, which is never called twice at once
}

// newConfigs: begun says that there is a generation already.
func newConfigs(first *config.Config, read func() (*config.Config, error), begun bool) *configs {
	return &configs{first: first, read: read, begun: begun}
}

// load is handoff.Options.Load. A plan's Origin is the configuration it was made from,
// so that what is the launcher's own takes effect with the generation that serves.
func (c *configs) load() (*handoff.Plan, error) {
	next := c.first
	if c.begun {
		var err error
		if next, err = c.read(); err != nil {
			return nil, err
		}
	}
	c.begun = true
	p, err := plan(next)
	if err != nil {
		return nil, err
	}
	p.Origin = (*kept)(next)
	return p, nil
}

// kept is a configuration as a State holds it: field by field, where the JSON of a
// config.Config is for people, and leads to no configuration.
type kept config.Config

// originOf is handoff.Options.Origin.
func originOf(text json.RawMessage) (any, error) {
	k := &kept{}
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return k, nil
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

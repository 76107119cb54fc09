package launcher

import (
	"testing"

	"baton/internal/config"
	"baton/internal/protocol"
)

// The configuration knows the protocols by their names alone.
func TestEveryProtocolOfTheConfigurationIsThere(t *testing.T) {
	for _, name := range config.Protocols {
		s := protocol.Settings{Kinds: []protocol.Kind{protocol.Kind(name)}}
		if name == "s6" {
			s.ReadyFD = 9
		}
		c, err := protocol.Choose(s, protocol.Program{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Why[protocol.Kind(name)] != "configured" {
			t.Errorf("%s: chosen because %q", name, c.Why[protocol.Kind(name)])
		}
	}
}

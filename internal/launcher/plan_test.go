package launcher

import (
	"strings"
	"testing"

	"baton/internal/config"
	"baton/internal/process"
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

// The names are listed twice, as the configuration knows nothing of processes.
func TestEveryCapabilityOfTheConfigurationIsThere(t *testing.T) {
	for _, name := range config.Capabilities() {
		_, err := process.Resolve(process.Command{Exec: []string{"/bin/true"}, Ambient: []string{name}})
		if err != nil && strings.Contains(err.Error(), "no such capability") {
			t.Error(err)
		}
	}
}

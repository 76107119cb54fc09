package systemd

import (
	"os"
	"reflect"
	"strconv"
	"testing"
)

func TestDescriptorsThatTheManagerPasses(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for name, c := range map[string]struct {
		pid, count, names string
		want              []Given
		fails             bool
	}{
		"named":        {self, "2", "web:baton.l1.m2", []Given{{"web", 3}, {"baton.l1.m2", 4}}, false},
		"fewer names":  {self, "2", "web", []Given{{"web", 3}, {"", 4}}, false},
		"nothing":      {"", "", "", nil, false},
		"of another":   {"1", "2", "a:b", nil, false},
		"not a pid":    {"x", "2", "a:b", nil, false},
		"not a number": {self, "two", "", nil, true},
		"below zero":   {self, "-1", "", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("LISTEN_PID", c.pid)
			t.Setenv("LISTEN_FDS", c.count)
			t.Setenv("LISTEN_FDNAMES", c.names)
			got, err := Descriptors()
			if (err != nil) != c.fails || !reflect.DeepEqual(got, c.want) && len(got)+len(c.want) > 0 {
				t.Errorf("%v, %v; want %v", got, err, c.want)
			}
			for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
				if v, set := os.LookupEnv(name); set {
					t.Errorf("%s=%s is left", name, v)
				}
			}
		})
	}
}

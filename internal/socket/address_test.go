package socket

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	tests := []struct {
		in, name, out string // out is the canonical spelling
		want          Address
	}{
		{":8080", "", "tcp://:8080", Address{Network: "tcp", Port: 8080}},
		{":0", "", "tcp://:0", Address{Network: "tcp"}},
		{"127.0.0.1:8080", "", "tcp://127.0.0.1:8080", Address{Network: "tcp", Host: "127.0.0.1", Port: 8080}},
		{"[::1]:80", "", "tcp://[::1]:80", Address{Network: "tcp", Host: "::1", Port: 80}},
		{"[0:0:0:0::1]:080", "", "tcp://[::1]:80", Address{Network: "tcp", Host: "::1", Port: 80}},
		{"[::ffff:10.0.0.1]:80", "", "tcp://10.0.0.1:80", Address{Network: "tcp", Host: "10.0.0.1", Port: 80}},
		{"[fe80::1%eth0]:80", "", "tcp://[fe80::1%eth0]:80", Address{Network: "tcp", Host: "fe80::1%eth0", Port: 80}},
		{"LocalHost:80", "", "tcp://localhost:80", Address{Network: "tcp", Host: "localhost", Port: 80}},
		{"web-1.example.org:80", "", "tcp://web-1.example.org:80", Address{Network: "tcp", Host: "web-1.example.org", Port: 80}},
		{"tcp://:80", "", "tcp://:80", Address{Network: "tcp", Port: 80}},
		{"tcp4://:80", "", "tcp4://:80", Address{Network: "tcp4", Port: 80}},
		{"tcp6://[::]:80", "", "tcp6://[::]:80", Address{Network: "tcp6", Host: "::", Port: 80}},
		{"udp://:53", "", "udp://:53", Address{Network: "udp", Port: 53}},
		{"udp4://127.0.0.1:53", "", "udp4://127.0.0.1:53", Address{Network: "udp4", Host: "127.0.0.1", Port: 53}},
		{"udp6://[::1]:53", "", "udp6://[::1]:53", Address{Network: "udp6", Host: "::1", Port: 53}},
		{"unix:///run/x.sock", "", "unix:///run/x.sock", Address{Network: "unix", Path: "/run/x.sock"}},
		{"unix:///run//a/../x.sock", "", "unix:///run/x.sock", Address{Network: "unix", Path: "/run/x.sock"}},
		{"unix:///run/a=b.sock", "", "unix:///run/a=b.sock", Address{Network: "unix", Path: "/run/a=b.sock"}},
		{"web=:8080", "web", "tcp://:8080", Address{Network: "tcp", Port: 8080}},
		{"a.b-c_d@1=unix:///x", "a.b-c_d@1", "unix:///x", Address{Network: "unix", Path: "/x"}},
	}
	for _, c := range tests {
		name, a, err := ParseAddress(c.in)
		if err != nil || name != c.name || a != c.want || a.String() != c.out {
			t.Errorf("%q: name %q, %+v, %s, %v", c.in, name, a, a, err)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	tests := []struct{ in, says string }{
		{"", "no port"},
		{"8080", `write ":8080"`},
		{"localhost", `write "localhost:8080"`},
		{"::1:80", "brackets"},
		{"[::1]", "brackets"},
		{"[]:80", "nothing between"},
		{"[127.0.0.1]:80", "brackets are for IPv6"},
		{"[localhost]:80", "neither"},
		{":", "not between"},
		{":+80", "not a number"},
		{":-1", "not a number"},
		{":65536", "not between"},
		{":http", "not a number"},
		{"300.1.1.1:80", "neither"},
		{"127.1:80", "neither"},
		{"a b:80", "neither"},
		{"tcp4://[::1]:80", "not an IPv4"},
		{"tcp6://127.0.0.1:80", "not an IPv6"},
		{"udp6://127.0.0.1:80", "not an IPv6"},
		{"http://:80", "unknown network"},
		{"unix://run/x.sock", "absolute"},
		{"unix:///", "directory"},
		{"unix:///run/", "directory"},
		{"unix:///.", "directory"},
		{"unix:///run/..", "directory"},
		{"unix:///" + strings.Repeat("x", 107), "108 bytes"},
		{"unix:///a\x00b", "zero byte"},
		{"=:80", "empty"},
		{"a b=:80", "letters"},
		{strings.Repeat("n", 256) + "=:80", "longer"},
	}
	for _, c := range tests {
		_, a, err := ParseAddress(c.in)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %+v, %v; want an error with %q", c.in, a, err, c.says)
		}
	}
}

// What is accepted reads back from its canonical spelling as the same address.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{":80", "a=[::1]:80", "udp4://1.2.3.4:5", "unix:///x/../y", "[fe80::1%a]:1", "h.x:0", "8080", "=", "[", "a=b=:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if name != "" && checkName(name) != nil {
			t.Fatalf("%q: name %q", s, name)
		}
		again, b, err := ParseAddress(a.String())
		if err != nil || again != "" || a != b {
			t.Fatalf("%q is %+v, whose spelling %q is %+v (name %q), %v", s, a, a, b, again, err)
		}
	})
}

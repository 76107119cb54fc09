package worker

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnInheritedSocketIsClaimedByNameElseByAddress(t *testing.T) {
	open := func(network, address string) net.Listener {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	path := filepath.Join(t.TempDir(), "s")
	web, web2, wild, unix := open("tcp", "127.0.0.1:0"), open("tcp", "127.0.0.1:0"), open("tcp", ":0"), open("unix", path)
	_, port, err := net.SplitHostPort(wild.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, address string
		want          net.Listener
	}{
		{"web", "", web},
		{"web", ":9", web},
		{"web", web2.Addr().String(), web2},
		{"", web2.Addr().String(), web2},
		{"other", "tcp://" + web.Addr().String(), web},
		{"other", ":" + port, wild},
		{"other", "0.0.0.0:" + port, wild},
		{"other", "[::]:" + port, wild},
		{"other", "tcp4://:" + port, nil},
		{"other", "127.0.0.1:" + port, nil},
		{"other", path, unix},
		{"other", "unix://" + path, unix},
		{"other", path + "2", nil},
		{"other", ":0", nil},
		{"other", "", nil},
	} {
		in := &inheritance{}
		in.sockets = []*socket{{name: "web", listener: web}, {name: "web", listener: web2}, {name: "all", listener: wild}, {name: "file", listener: unix}}
		network, bare := split(c.address)
		if got, err := in.claim(c.name, network, bare); got != c.want || err != nil {
			t.Errorf("Listen(%q, %q) gives %v %v", c.name, c.address, got, err)
		}
	}
}

func TestASocketIsGivenOutOnce(t *testing.T) {
	l := listen(t)
	in := &inheritance{sockets: []*socket{{name: "web", listener: l}}}
	if got, err := in.claim("web", "tcp", ""); got != l || err != nil {
		t.Fatal(got, err)
	}
	if got, err := in.claim("web", "tcp", ""); got != nil || err == nil || !strings.Contains(err.Error(), "given out already") {
		t.Errorf("the second time: %v %v", got, err)
	}
	if got, err := in.claim("other", "tcp", l.Addr().String()); got != nil || err != nil {
		t.Errorf("by its address, the second time: %v %v", got, err)
	}
	for _, name := range []string{"web", "other"} {
		in := &inheritance{sockets: []*socket{{name: "web", listener: l}}}
		first, _ := in.claim(name, "tcp", l.Addr().String())
		second, _ := in.claim(name, "tcp", l.Addr().String())
		if first != l || second != nil {
			t.Errorf("as %s by its address: %v, then %v", name, first, second)
		}
	}
}

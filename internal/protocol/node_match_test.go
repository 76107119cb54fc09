package protocol

import (
	"encoding/json"
	"net/netip"
	"testing"
)

// bound is a socket there, for matching.
func bound(network, address string) nodeSocket {
	s := nodeSocket{Socket: Socket{Network: network, Address: address}, own: -1}
	if network != "unix" {
		s.bound = netip.MustParseAddrPort(address)
	}
	return s
}

func TestWhichListenerAQuestionMeans(t *testing.T) {
	sockets := []nodeSocket{
		0: bound("tcp", "[::]:80"),
		1: bound("tcp4", "127.0.0.1:80"),
		2: bound("tcp4", "10.0.0.1:81"),
		3: bound("tcp6", "[::1]:82"),
		4: bound("tcp4", "0.0.0.0:83"),
		5: bound("udp", "[::]:80"),
		6: bound("udp4", "0.0.0.0:80"),
		7: bound("unix", "/run/app.sock"),
	}
	for question, want := range map[string]int{
		`{"address":null,"port":80,"addressType":4}`:                     0,
		`{"address":"::","port":80,"addressType":6}`:                     0,
		`{"address":"0.0.0.0","port":80,"addressType":4}`:                0,
		`{"address":"127.0.0.1","port":80,"addressType":4}`:              1,
		`{"address":"127.0.0.2","port":80,"addressType":4}`:              0,
		`{"address":"::1","port":80,"addressType":6}`:                    0,
		`{"address":"10.0.0.1","port":81,"addressType":4}`:               2,
		`{"address":null,"port":81,"addressType":4}`:                     2,
		`{"address":"127.0.0.1","port":81,"addressType":4}`:              -1, // another address of the machine
		`{"address":"127.0.0.1","port":82,"addressType":4}`:              3,  // localhost, as the resolver likes
		`{"address":"::1","port":83,"addressType":6}`:                    4,
		`{"address":"2001:db8::1","port":83,"addressType":6}`:            -1,
		`{"address":"192.0.2.1","port":83,"addressType":4}`:              4,
		`{"address":null,"port":84,"addressType":4}`:                     -1,
		`{"address":null,"port":0,"addressType":4}`:                      -1,
		`{"address":"nonsense","port":80,"addressType":4}`:               -1,
		`{"address":"0.0.0.0","port":80,"addressType":"udp4","fd":-1}`:   6,
		`{"address":null,"port":80,"addressType":"udp4","fd":-1}`:        6,
		`{"address":"::","port":80,"addressType":"udp6","fd":-1}`:        5,
		`{"address":"127.0.0.1","port":80,"addressType":"udp4","fd":-1}`: 6,
		`{"address":"/run//app.sock","port":-1,"addressType":-1}`:        7,
		`{"address":"/run/other.sock","port":-1,"addressType":-1}`:       -1,
		`{"address":null,"port":null,"addressType":null,"fd":5}`:         2,
		`{"address":null,"port":null,"addressType":null,"fd":2}`:         -1,
		`{"address":null,"port":null,"addressType":null,"fd":99}`:        -1,
	} {
		var m nodeMessage
		if err := json.Unmarshal([]byte(question), &m); err != nil {
			t.Fatal(err)
		}
		a, err := m.ask()
		if err != nil {
			t.Errorf("%s: %v", question, err)
			continue
		}
		if got, inUse := pick(sockets, a, 3); got != want || inUse {
			t.Errorf("%s: socket %d, in use %v; want %d", question, got, inUse, want)
		}
	}
}

func TestAQuestionWithoutSenseIsRefused(t *testing.T) {
	for _, question := range []string{
		`{"port":null,"addressType":4}`,
		`{"port":80}`,
		`{"port":80,"addressType":5}`,
		`{"port":80,"addressType":"tcp"}`,
		`{"port":80,"addressType":{}}`,
		`{"port":65536,"addressType":4}`,
		`{"port":-1,"addressType":6}`,
		`{"port":-1,"addressType":-1}`,
		`{"address":"a\u0000b","port":-1,"addressType":-1}`,
	} {
		var m nodeMessage
		if err := json.Unmarshal([]byte(question), &m); err != nil {
			t.Fatal(err)
		}
		if a, err := m.ask(); err == nil {
			t.Errorf("%s: taken for %+v", question, a)
		}
	}
}

func TestTheAddressToOpenIsWhatNodeWouldBind(t *testing.T) {
	for _, c := range []struct {
		ask              nodeAsk
		network, address string
		words            string
	}{
		{nodeAsk{class: "tcp", family: 4, port: 80}, "tcp", ":80", ":80"},
		{nodeAsk{class: "tcp", family: 4, port: 80, address: "0.0.0.0"}, "tcp4", "0.0.0.0:80", "0.0.0.0:80"},
		{nodeAsk{class: "tcp", family: 6, port: 80, address: "::"}, "tcp", "[::]:80", "[::]:80"},
		{nodeAsk{class: "tcp", family: 6, port: 80, address: "::", only6: true}, "tcp6", "[::]:80", "[::]:80"},
		{nodeAsk{class: "udp", family: 4, port: 53, address: "0.0.0.0"}, "udp4", "0.0.0.0:53", "0.0.0.0:53/udp"},
		{nodeAsk{class: "udp", family: 6, port: 53, address: "::1"}, "udp", "[::1]:53", "[::1]:53/udp"},
		{nodeAsk{class: "unix", address: "/run/a\x1b.sock"}, "unix", "/run/a\x1b.sock", "/run/a.sock"},
	} {
		network, address := c.ask.network()
		if network != c.network || address != c.address || c.ask.String() != c.words {
			t.Errorf("%+v: %s %s, in words %q", c.ask, network, address, c.ask)
		}
	}
}

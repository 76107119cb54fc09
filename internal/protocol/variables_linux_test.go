package protocol

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"baton/internal/testkit"
)

// variablesOf are what a protocol alone tells a worker of these sockets.
func variablesOf(t *testing.T, open speaker, sockets ...Socket) []string {
	t.Helper()
	ch, err := open(nil, nil, &Worker{Generation: 3, Sockets: sockets})
	if err != nil {
		t.Fatal(err)
	}
	ch.started()
	if err := ch.close(); err != nil || len(ch.files()) > 0 {
		t.Error(err, ch.files())
	}
	return ch.env(3, 9)
}

func TestServerStartersKeysAreItsOwn(t *testing.T) {
	got := variablesOf(t, openServerStarter,
		Socket{Network: "tcp", Address: ":80"}, Socket{Network: "udp", Address: ":53"}, Socket{Network: "tcp", Address: "[::1]:82"},
		Socket{Network: "tcp4", Address: "0.0.0.0:83"}, Socket{Network: "unix", Address: "/run/a=b.sock"}, Socket{Network: "unix", Address: "/run/app.sock"})
	want := []string{
		"SERVER_STARTER_PORT=80=3;53=4;[::1]:82=5;0.0.0.0:83=6;/run/app.sock=8",
		"SERVER_STARTER_GENERATION=3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := variablesOf(t, openServerStarter); !slices.Contains(got, "SERVER_STARTER_PORT=") {
		t.Errorf("without a socket: %q", got)
	}
}

func TestEndlessIsToldTheOrderOnlyWhereThereIsOne(t *testing.T) {
	web, path := Socket{Network: "tcp", Address: ":80"}, Socket{Network: "unix", Address: "/a,b"}
	for _, test := range []struct {
		sockets []Socket
		want    []string
	}{
		{nil, nil},
		{[]Socket{web}, []string{"ENDLESS_CONTINUE=1"}},
		{[]Socket{path, web}, []string{"ENDLESS_CONTINUE=1", "ENDLESS_SOCKET_ORDER=/a_b,:80"}},
	} {
		if diff := cmp.Diff(test.want, variablesOf(t, openEndless, test.sockets...)); diff != "" {
			t.Error(diff)
		}
	}
	if got := variablesOf(t, openSocketmaster); got != nil {
		t.Errorf("socketmaster without a socket: %q", got)
	}
}

// starlet serves on all sockets that Perl's own Server::Starter finds.
const starlet = `
use strict; use warnings; $| = 1;
use Server::Starter qw(server_ports);
use IO::Handle; use Socket;
my $ports = server_ports();
for my $key (sort keys %$ports) {
	open(my $l, "+<&=", $ports->{$key}) or die "$key: $!";
	if (fork == 0) {
		while (accept(my $c, $l)) { $c->autoflush; print $c "generation $ENV{SERVER_STARTER_GENERATION} on $key\n"; close $c }
		exit;
	}
}
print "serving ", scalar(keys %$ports), "\n";
wait;
`

func TestPerlsServerStarterFindsItsSockets(t *testing.T) {
	perl := needs(t, "perl")
	wild := listening(t, "tcp", "0.0.0.0:0")
	wild.Address = fmt.Sprintf(":%d", wild.port(t))
	sockets := append(two(t), wild)
	w := crewed(t, Settings{Kinds: []Kind{KindServerStarter}}, sockets, nil, perl, "-e", starlet)
	eventually(t, "it serves, or says why not", func() bool { return w.out.count("\n") > 0 })
	if w.out.count("Can't locate Server/Starter.pm") > 0 {
		testkit.Lack(t, "needs Perl's Server::Starter")
	}
	w.says("serving 3")
	for _, s := range sockets {
		network, to, key := s.Network, s.Address, s.Address
		if s.Address == wild.Address {
			to, key = "127.0.0.1"+to, strings.TrimPrefix(key, ":")
		}
		c, err := net.Dial(network, to)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		c.Close()
		if want := "generation 7 on " + key + "\n"; err != nil || string(answer) != want {
			t.Errorf("%q %v, want %q", answer, err, want)
		}
	}
}

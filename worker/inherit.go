package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

// firstSocket is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstSocket = 3

// socket is one that this process was started with.
type socket struct {
	name     string
	listener net.Listener   // nil for a datagram socket
	packets  net.PacketConn // nil for a stream socket
	taken    bool           // by Listen
}

func (s *socket) String() string {
	if s.listener == nil {
		return fmt.Sprintf("%s (%s %s)", s.name, s.packets.LocalAddr().Network(), s.packets.LocalAddr())
	}
	return fmt.Sprintf("%s (%s %s)", s.name, s.listener.Addr().Network(), s.listener.Addr())
}

// inheritance is what LISTEN_FDS brought.
type inheritance struct {
	mu      sync.Mutex
	sockets []*socket // in the order of their descriptors
	// foreign is the LISTEN_PID that was not this process; "" where there was none.
	foreign string
}

// received reads the variables and takes the descriptors, once.
var received = sync.OnceValues(func() (*inheritance, error) {
	given := inherited{
		fds: os.Getenv("LISTEN_FDS"), pid: os.Getenv("LISTEN_PID"), names: os.Getenv("LISTEN_FDNAMES"),
		first: firstSocket,
	}
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	return given.take()
})

// inherited is the protocol as it stands in the environment.
type inherited struct {
	fds, pid, names string
	first           int // descriptor
}

// take makes sockets of the descriptors. What is neither a listening stream socket
// nor a datagram socket (systemd may pass stored files) is left open, close-on-exec.
func (g inherited) take() (*inheritance, error) {
	in := &inheritance{}
	if g.fds == "" {
		return in, nil
	}
	if g.pid != strconv.Itoa(os.Getpid()) {
		in.foreign = g.pid
		return in, nil
	}
	n, err := strconv.ParseUint(g.fds, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS %q: not a number of descriptors", g.fds)
	}
	var names []string
	if g.names != "" {
		if names = strings.Split(g.names, ":"); len(names) != int(n) {
			return nil, fmt.Errorf("LISTEN_FDNAMES %q: not %d names, which is LISTEN_FDS", g.names, n)
		}
	}
	var errs []error
	for i := range int(n) {
		s, err := adopt(g.first + i)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("LISTEN_FDS: descriptor %d: %w", g.first+i, err))
			continue
		case s == nil:
			continue
		}
		s.name = "unknown" // as sd_listen_fds_with_names(3) has it
		if names != nil {
			s.name = names[i]
		}
		in.sockets = append(in.sockets, s)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return in, nil
}

// Listeners are all listening stream sockets that the process was started with, by
// name, those of one name in the order of their descriptors; the map is empty where
// there are none. They are the very listeners that [Listen] returns: closing one
// closes it for both. They are close-on-exec.
//
// An error says what is wrong with LISTEN_FDS, LISTEN_FDNAMES or a descriptor; every
// call returns the same.
func Listeners() (map[string][]net.Listener, error) {
	in, err := received()
	if err != nil {
		return nil, err
	}
	all := map[string][]net.Listener{}
	for _, s := range in.sockets {
		if s.listener != nil {
			all[s.name] = append(all[s.name], s.listener)
		}
	}
	return all, nil
}

// PacketConns is [Listeners] for datagram sockets: udp and unixgram.
func PacketConns() (map[string][]net.PacketConn, error) {
	in, err := received()
	if err != nil {
		return nil, err
	}
	all := map[string][]net.PacketConn{}
	for _, s := range in.sockets {
		if s.packets != nil {
			all[s.name] = append(all[s.name], s.packets)
		}
	}
	return all, nil
}

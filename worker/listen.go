package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Listen returns the listening socket that the launcher passed under this name
// (LISTEN_FDNAMES: a listener's name in baton, FileDescriptorName= in a .socket
// unit); else the one it passed that has this address; else, as when the program is
// started by hand, one that it opens. Where the name matches, the address is the
// launcher's choice and the argument counts only among several of that name.
//
// An address is ":8080", "127.0.0.1:8080", "[::1]:8080", "/run/web.sock" or "@web",
// or begins with "tcp://", "tcp4://", "tcp6://" or "unix://", as in baton's
// configuration. It may be empty: then the socket has to come from the launcher.
// ":8080" stands for every wildcard address with that port.
//
// Each inherited socket is given out once; a name asked for again is an error. The
// listener is close-on-exec, and a *net.TCPListener or *net.UnixListener. Closing an
// inherited one leaves the launcher's, and a unix socket's path, as they are.
//
// The error of a socket that could not be opened tells what was inherited: a launcher
// that holds the address without passing it is the usual cause of EADDRINUSE.
func Listen(name, address string) (net.Listener, error) {
	in, err := received()
	if err != nil {
		return nil, err
	}
	network, bare := split(address)
	l, err := in.claim(name, network, bare)
	if l != nil || err != nil {
		return l, err
	}
	if address == "" {
		return nil, fmt.Errorf("listen %s: no address to open, and %s", name, in.words())
	}
	l, err = (&net.ListenConfig{}).Listen(context.Background(), network, bare)
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, in.words())
	}
	return l, nil
}

// split takes an address apart into what net.Listen wants.
func split(address string) (network, bare string) {
	if network, bare, ok := strings.Cut(address, "://"); ok {
		return network, bare
	}
	if strings.HasPrefix(address, "/") || strings.HasPrefix(address, "@") {
		return "unix", address
	}
	return "tcp", address
}

// claim finds the inherited socket for a name or an address; nil when there is none.
func (in *inheritance) claim(name, network, address string) (net.Listener, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	var named, addressed *socket
	spent := false
	for _, s := range in.sockets {
		if s.listener == nil {
			continue
		}
		same := address != "" && matches(s.listener.Addr(), network, address)
		switch {
		case s.taken:
			spent = spent || s.name == name
		case s.name == name && same:
			s.taken = true
			return s.listener, nil
		case s.name == name && named == nil:
			named = s
		case same && addressed == nil:
			addressed = s
		}
	}
	switch {
	case named != nil:
		named.taken = true
		return named.listener, nil
	case spent:
		return nil, fmt.Errorf("listen %s: %w", name, errSpent)
	case addressed != nil:
		addressed.taken = true
		return addressed.listener, nil
	}
	return nil, nil
}

var errSpent = errors.New("the inherited socket of that name was given out already")

// matches tells whether a socket has the address that is asked for. One on a wildcard
// does not stand for one that names a host: it would serve more than was asked.
func matches(have net.Addr, network, address string) bool {
	switch have := have.(type) {
	case *net.UnixAddr:
		return network == "unix" && have.Name == address
	case *net.TCPAddr:
		want, err := net.ResolveTCPAddr(network, address)
		if err != nil || want.Port == 0 || want.Port != have.Port {
			return false
		}
		if v4 := have.IP.To4() != nil; network == "tcp4" && !v4 || network == "tcp6" && v4 {
			return false
		}
		return wildcard(want.IP) && wildcard(have.IP) || want.IP.Equal(have.IP) && want.Zone == have.Zone
	}
	return false
}

func wildcard(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }

// words say what was inherited, as the end of an error.
func (in *inheritance) words() string {
	switch {
	case in.foreign != "":
		return fmt.Sprintf("nothing was inherited: LISTEN_PID is %s, another process", in.foreign)
	case len(in.sockets) == 0:
		return "nothing was inherited"
	}
	var all []string
	for _, s := range in.sockets {
		all = append(all, s.String())
	}
	return "inherited: " + strings.Join(all, ", ")
}

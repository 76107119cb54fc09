package protocol

import (
	"net"
	"strconv"
	"strings"
)

// The protocols that are variables and nothing else: the worker is told where its
// sockets are, and says nothing back.
const (
	// KindServerStarter is Perl's Server::Starter, which h2o, Starlet and others know.
	KindServerStarter Kind = "server-starter"
	// KindSocketmaster is zimbatm/socketmaster.
	KindSocketmaster Kind = "socketmaster"
	// KindEndless is fvbock/endless. Its programs send TERM to their parent when they
	// serve; whoever is the parent must know.
	KindEndless Kind = "endless"
)

// variables is a channel that has no more than that; it is called with the number
// of the first socket.
type variables func(first int) []string

func (variables) files() []int                  { return nil }
func (v variables) env(sockets, _ int) []string { return v(sockets) }
func (variables) started()                      {}
func (variables) close() error                  { return nil }

// openServerStarter says "80=3;127.0.0.1:81=4;[::1]:82=5;/run/app.sock=6", as
// Server::Starter does for the same listeners: a port alone is one on all
// addresses. A path with a semicolon or an equals sign cannot be said, and is left
// out.
func openServerStarter(_ *Hub, _ *Choice, w *Worker) (channel, error) {
	return variables(func(first int) []string {
		var ports []string
		for i, s := range w.Sockets {
			key := s.Address
			if host, port, err := net.SplitHostPort(key); err == nil && host == "" && s.Network != "unix" {
				key = port
			}
			if !strings.ContainsAny(key, ";=") {
				ports = append(ports, key+"="+strconv.Itoa(first+i))
			}
		}
		return []string{
			variable(serverStarterVariable) + "=" + strings.Join(ports, ";"), // also when there is none
			"SERVER_STARTER_GENERATION=" + strconv.Itoa(w.Generation),
		}
	}), nil
}

// openSocketmaster says "3 4 5". socketmaster itself has one socket only; Einhorn,
// whose variable this was, has blanks between several.
func openSocketmaster(_ *Hub, _ *Choice, w *Worker) (channel, error) {
	return variables(func(first int) []string {
		if len(w.Sockets) == 0 {
			return nil
		}
		return []string{socketmasterFDs(first, len(w.Sockets))}
	}), nil
}

func socketmasterFDs(first, count int) string {
	numbers := make([]string, count)
	for i := range numbers {
		numbers[i] = strconv.Itoa(first + i)
	}
	return variable(socketmasterVariable) + "=" + strings.Join(numbers, " ")
}

// openEndless says in which order the sockets come, by the addresses that the
// program gives to endless. One socket needs no name, and gets none: then the
// program may write its address as it likes. What endless does not find among several
// gets the first.
func openEndless(_ *Hub, _ *Choice, w *Worker) (channel, error) {
	return variables(func(int) []string {
		switch len(w.Sockets) {
		case 0:
			return nil // it would take some other descriptor for its socket
		case 1:
			return []string{variable(endlessVariable) + "=1"}
		}
		addresses := make([]string, len(w.Sockets))
		for i, s := range w.Sockets {
			addresses[i] = strings.ReplaceAll(s.Address, ",", "_") // it parts them, and only a path has one
		}
		return []string{variable(endlessVariable) + "=1", "ENDLESS_SOCKET_ORDER=" + strings.Join(addresses, ",")}
	}), nil
}

package handoff

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"baton/handoff/machine"
	"baton/internal/process"
	"baton/internal/protocol"
	"baton/internal/socket"
)

// Speak chooses what the workers of a release speak, and holds the plan to it: an
// argument or variable that names a listener which is not there is an error.
func Speak(p *Plan, r *process.Release) (*protocol.Choice, error) {
	choice, err := protocol.Choose(p.Protocols, protocol.Program{
		Args: r.Args(), Path: r.Path(), Real: r.Real(), Dir: r.Dir(), Open: r.Open,
	})
	if err != nil {
		return nil, err
	}
	var socks []protocol.Socket
	for _, lp := range p.Listeners {
		socks = append(socks, asSocket(lp, lp.Address, -1))
	}
	if p.Stdin != "" && !slices.ContainsFunc(socks, func(s protocol.Socket) bool { return s.Name == p.Stdin }) {
		return nil, fmt.Errorf("command.stdin: no listener is called %q", p.Stdin)
	}
	_, _, err = expand(choice, r, socks)
	return choice, err
}

// expand puts the numbers of sockets into the arguments and variables that ask for
// them.
func expand(c *protocol.Choice, r *process.Release, socks []protocol.Socket) (args, env []string, err error) {
	for _, list := range []struct {
		from []string
		to   *[]string
		what string
	}{{r.Args(), &args, "argument"}, {r.Env(), &env, "variable"}} {
		for _, text := range list.from {
			done, err := c.Expand(text, socks)
			if err != nil {
				return nil, nil, fmt.Errorf("%s %q: %w", list.what, text, err)
			}
			*list.to = append(*list.to, done)
		}
	}
	return args, env, nil
}

// asSocket is a listener as protocols see it; at is its address with the port
// filled in where 0 was asked for.
func asSocket(lp ListenerPlan, at socket.Address, fd int) protocol.Socket {
	s := protocol.Socket{Name: lp.Options.Name, Network: at.Network, Address: at.Path, FD: fd}
	if at.Network != "unix" {
		s.Address = net.JoinHostPort(lp.Address.Host, strconv.Itoa(at.Port))
	}
	return s
}

// overlay lays variables over others: of those in both, the ones below go, since
// getenv(3) finds the first.
func overlay(below, above []string) []string {
	set := make(map[string]bool, len(above))
	for _, kv := range above {
		key, _, _ := strings.Cut(kv, "=")
		set[key] = true
	}
	env := slices.DeleteFunc(slices.Clone(below), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return set[key]
	})
	return append(env, above...)
}

// inherit tells the workers of the only generation that is left that they are
// alone.
func (s *Supervisor) inherit() {
	oldest := machine.Generation(0)
	for n := range s.gens {
		if oldest == 0 || n < oldest {
			oldest = n
		}
	}
	for _, w := range s.workers {
		if w.gen == oldest && w.link != nil {
			w.link.Alone()
		}
	}
}

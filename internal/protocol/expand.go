package protocol

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// form is what Expand replaces: {{fd "NAME"}} and its like, and {{ready}}. It is
// compiled when it is first needed, since this binary is also the shim.
var form = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\{\{\s*(?:(fd|port|host|address)\s+"([^"]*)"|(ready))\s*\}\}`)
})

// Expand fills in what an argument or a variable says about sockets:
//
//	{{fd "NAME"}}       the number of the listener's socket in the worker
//	{{host "NAME"}}     its host, an IPv6 address without brackets; empty: every address
//	{{port "NAME"}}     its port
//	{{address "NAME"}}  host:port, or the path of a unix socket
//	{{ready}}           the number on which the worker writes its newline
//
// Whatever else is in double braces stays as it is. An error names the form and the
// nearest listener. FD of sockets does not count.
func (c *Choice) Expand(text string, sockets []Socket) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	numbers, err := c.Numbers(sockets)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	done := 0
	for _, at := range form().FindAllStringSubmatchIndex(text, -1) {
		var value string
		if at[6] >= 0 {
			value, err = c.readyFD()
		} else {
			value, err = expand(text[at[2]:at[3]], text[at[4]:at[5]], sockets, numbers)
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", text[at[0]:at[1]], err)
		}
		out.WriteString(text[done:at[0]])
		out.WriteString(value)
		done = at[1]
	}
	return out.String() + text[done:], nil
}

func (c *Choice) readyFD() (string, error) {
	if c.Settings.ReadyFD == 0 {
		return "", fmt.Errorf("ready_fd is not set")
	}
	return strconv.Itoa(c.Settings.ReadyFD), nil
}

func expand(what, name string, sockets []Socket, numbers map[string]int) (string, error) {
	i := slices.IndexFunc(sockets, func(s Socket) bool { return s.Name == name })
	if i < 0 {
		names := make([]string, len(sockets))
		for i := range sockets {
			names[i] = sockets[i].Name
		}
		return "", fmt.Errorf("no listener is called %q%s", name, instead(name, names))
	}
	s := sockets[i]
	switch what {
	case "fd":
		return strconv.Itoa(numbers[name]), nil
	case "address":
		return s.Address, nil
	}
	if s.Network == "unix" {
		return "", fmt.Errorf("a unix socket has no %s; {{address %q}} is its path", what, name)
	}
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return "", err // names the address
	}
	if what == "host" {
		return host, nil
	}
	return port, nil
}

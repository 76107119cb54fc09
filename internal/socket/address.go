package socket

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// Address is where a listener listens.
type Address struct {
	Network string // tcp, tcp4, tcp6, udp, udp4, udp6 or unix
	Host    string // IP address (IPv6 without brackets) or host name; "" is every address
	Port    int    // 0 to 65535; 0 lets the kernel choose
	Path    string // unix: absolute path
}

// maxUnixPath is what fits in sockaddr_un with its closing zero (unix(7)).
const maxUnixPath = 107

// ParseAddress reads [name=]ADDR, where ADDR is host:port, :port,
// NETWORK://host:port with a network of Address, or unix:///path. name is ""
// where none was given.
func ParseAddress(s string) (name string, a Address, err error) {
	rest := s
	// A '=' can also stand in a path, so only what looks like a name is one.
	if n, r, ok := strings.Cut(s, "="); ok && !strings.ContainsAny(n, ":/[") {
		if err := checkName(n); err != nil {
			return "", Address{}, fmt.Errorf("address %q: %w", s, err)
		}
		name, rest = n, r
	}
	if a, err = parseAddress(rest); err != nil {
		return "", Address{}, fmt.Errorf("address %q: %w", s, err)
	}
	return name, a, nil
}

// checkName holds a name to what LISTEN_FDNAMES can carry (sd_listen_fds(3))
// and a shell can quote without care.
func checkName(name string) error {
	if name == "" {
		return errors.New("the name before = is empty")
	}
	if len(name) > 255 {
		return errors.New("the name is longer than 255 bytes")
	}
	for _, c := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-@", c) {
			return fmt.Errorf("the name has a %q; letters, digits and _ . - @ are allowed", c)
		}
	}
	return nil
}

func parseAddress(s string) (Address, error) {
	network, rest, ok := strings.Cut(s, "://")
	if !ok {
		network, rest = "tcp", s
	}
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
		return parseHostPort(network, rest)
	case "unix":
		return parsePath(rest)
	}
	return Address{}, fmt.Errorf("unknown network %q; use tcp, tcp4, tcp6, udp, udp4, udp6 or unix", network)
}

func parsePath(p string) (Address, error) {
	if strings.ContainsRune(p, 0) {
		return Address{}, errors.New("the path has a zero byte")
	}
	if !strings.HasPrefix(p, "/") {
		return Address{}, errors.New("a unix socket needs an absolute path, as in unix:///run/app.sock")
	}
	switch path.Base(p) {
	case "/", ".", "..":
		return Address{}, errors.New("the path names a directory")
	}
	if last := path.Base(p); strings.HasSuffix(p, "/") || last == "." || last == ".." {
		return Address{}, errors.New("the path names a directory")
	}
	p = path.Clean(p)
	if len(p) > maxUnixPath {
		return Address{}, fmt.Errorf("the path is %d bytes long; the kernel takes %d", len(p), maxUnixPath)
	}
	return Address{Network: "unix", Path: p}, nil
}

func parseHostPort(network, s string) (Address, error) {
	if !strings.Contains(s, ":") {
		if _, err := strconv.Atoi(s); err == nil {
			return Address{}, fmt.Errorf("no colon before the port; write %q", ":"+s)
		}
		return Address{}, fmt.Errorf("no port; write %q", s+":8080")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("not host:port (an IPv6 address goes in brackets, as in [::1]:8080)")
	}
	n, err := parsePort(port)
	if err != nil {
		return Address{}, err
	}
	if host, err = parseHost(network, host, s[0] == '['); err != nil {
		return Address{}, err
	}
	return Address{Network: network, Host: host, Port: n}, nil
}

// parsePort takes plain digits only: strconv alone would let "+80" through,
// and two spellings of a port would be two listeners.
func parsePort(s string) (int, error) {
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("port %q is not a number", s)
		}
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port %q is not between 0 and 65535", s)
	}
	return int(n), nil
}

// parseHost checks host against the network's family and brings an IP address
// into its one spelling; a name stays as it is, in lower case.
func parseHost(network, host string, bracketed bool) (string, error) {
	if host == "" {
		if bracketed {
			return "", errors.New("nothing between the brackets")
		}
		return "", nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return parseHostName(host, bracketed)
	}
	if bracketed != strings.Contains(host, ":") {
		return "", fmt.Errorf("%q: brackets are for IPv6 addresses", host)
	}
	if ip.Is4In6() {
		ip = ip.Unmap()
	}
	switch {
	case strings.HasSuffix(network, "4") && !ip.Is4():
		return "", fmt.Errorf("%s is not an IPv4 address, which %s needs", ip, network)
	case strings.HasSuffix(network, "6") && ip.Is4():
		return "", fmt.Errorf("%s is not an IPv6 address, which %s needs", ip, network)
	}
	return ip.String(), nil
}

func parseHostName(host string, bracketed bool) (string, error) {
	bad := bracketed || len(host) > 253 || strings.HasPrefix(host, "-") || strings.HasPrefix(host, ".")
	digits := true // "127.0.1" or "300.1.1.1" is a mistyped address, never a name
	for _, c := range host {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_':
			digits = false
		case c >= '0' && c <= '9', c == '.':
		default:
			bad = true
		}
	}
	if bad || digits {
		return "", fmt.Errorf("%q is neither an IP address nor a host name", host)
	}
	return strings.ToLower(host), nil
}

// String is the canonical spelling, e.g. "tcp://127.0.0.1:8080", "tcp://:80",
// "udp6://[::1]:53" or "unix:///run/x.sock": two addresses are the same
// listener exactly when these are equal. ParseAddress reads it back.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix://" + a.Path
	}
	return a.Network + "://" + net.JoinHostPort(a.Host, strconv.Itoa(a.Port))
}

// Same tells whether both are one address to the kernel, however they are spelled: that
// of a configuration, and one that was read from a socket (AddressOf). A host's name is the
// same as itself alone.
func (a Address) Same(b Address) bool { return a.bare() == b.bare() }

// bare spells an address in one way: the network without a family that the host
// tells, and no host for a wildcard.
func (a Address) bare() Address {
	ip, err := netip.ParseAddr(a.Host)
	switch {
	case a.Network == "unix" || a.Host != "" && err != nil:
		return a
	case a.Host == "":
		return a
	case ip == netip.IPv4Unspecified():
		a.Network, a.Host = strings.TrimRight(a.Network, "46")+"4", ""
	case ip == netip.IPv6Unspecified():
		a.Host = "" // "tcp" with it takes IPv4 too
	default:
		a.Network = strings.TrimRight(a.Network, "46")
	}
	return a
}

// endpoint is the address as error messages show it: "tcp :80".
func (a Address) endpoint() string {
	if a.Network == "unix" {
		return "unix " + a.Path
	}
	return a.Network + " " + net.JoinHostPort(a.Host, strconv.Itoa(a.Port))
}

// stream tells tcp from udp.
func (a Address) stream() bool { return !strings.HasPrefix(a.Network, "udp") }

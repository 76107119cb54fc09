package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// The checks of an address here are light: they catch what a person is likely to
// write by mistake and find the kind of socket, which other rules ask for. Whether
// it is an address is for Options.Address to say.

// Network is "unix", "udp" or "tcp", by the address alone.
func (l Listener) Network() string {
	switch scheme, _, ok := strings.Cut(l.Address, "://"); {
	case ok && scheme == "unix":
		return "unix"
	case ok && strings.HasPrefix(scheme, "udp"):
		return "udp"
	}
	return "tcp"
}

// accepts says whether there are connections to accept.
func (l Listener) accepts() bool { return l.Network() != "udp" }

// steered says whether workers may have slots of their own.
func (l Listener) steered() bool { return l.Steering != SteeringOff }

// UserGroup splits Owner; either may be "" (left as it is). Both may be names or
// numbers.
func (l Listener) UserGroup() (user, group string) {
	user, group, _ = strings.Cut(l.Owner, ":")
	return user, group
}

var schemes = []string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "unix"}

func (r *rules) checkListeners() {
	n := r.root.find("listen")
	if n == nil || n.isList && len(n.list) == 0 {
		r.missing(r.root.near("listen"), "listen", `give at least one address: [[listen]] with address = ":8080", or --listen :8080`)
		return
	}
	if !n.isList {
		return // reported as of the wrong kind
	}
	names, addresses := map[string]*node{}, map[string]*node{}
	streams := false
	for i, l := range r.c.Listen {
		item := n.list[i]
		r.checkListenerName(item, l.Name, names)
		r.checkAddress(item, l, addresses)
		r.checkUnixOnly(item, l)
		r.oneOf(item.find("steering"), string(l.Steering), string(SteeringAuto), string(SteeringOff))
		if b := item.find("backlog"); b != nil && l.Backlog < 1 {
			r.fail(b, "must be at least 1", "")
		}
		streams = streams || l.accepts()
	}
	ready := r.c.Handoff.Ready
	if !streams && (ready == ReadyAuto || ready == ReadyAccept) {
		at := r.root.find("handoff", "ready")
		if at == nil {
			at = n.list[0]
		}
		r.fail(at, fmt.Sprintf("ready = %q needs a tcp or unix listener: over udp nothing is accepted", ready),
			`set ready = "notify", or "delay" with ready_delay`)
	}
}

// checkListenerName keeps to what --listen takes before a '=', which is well
// within what LISTEN_FDNAMES can carry (sd_listen_fds(3): ASCII without ':' and
// control characters, at most 255).
func (r *rules) checkListenerName(item *node, name string, seen map[string]*node) {
	at := item.near("name")
	bad := strings.ContainsFunc(name, func(c rune) bool {
		return !nameRune(c) && c != '@'
	})
	switch {
	case bad || len(name) > 255:
		r.fail(at, fmt.Sprintf("%q is not a name for a listener", name), "use letters, digits, '.', '_', '-' and '@', at most 255")
	case seen[name] != nil:
		r.fail(at, fmt.Sprintf("the name %q is taken %s", name, seen[name].where()), "names are unique")
	default:
		seen[name] = at
	}
}

func (n *node) where() string {
	if n.line == 0 {
		return "by another listener"
	}
	return fmt.Sprintf("by the listener at line %d", n.line)
}

func (r *rules) checkAddress(item *node, l Listener, seen map[string]*node) {
	at := item.find("address")
	if at == nil {
		if item.table != nil {
			r.missing(item, item.key+".address", `give it, as in address = ":8080"`)
		}
		return
	}
	if _, isString := at.scalar.(string); !isString {
		return // reported as of the wrong kind
	}
	if problem, hint := addressProblem(l.Address); problem != "" {
		r.fail(at, problem, hint)
		return
	}
	if r.address != nil {
		if err := r.address(l.Address); err != nil {
			r.fail(at, err.Error(), "")
			return
		}
	}
	identity := strings.ToLower(strings.TrimPrefix(l.Address, "tcp://"))
	if l.Network() == "unix" {
		identity = l.Address // paths know capitals
	}
	if other := seen[identity]; other != nil && !strings.HasSuffix(identity, ":0") {
		r.fail(at, fmt.Sprintf("%q is taken %s", l.Address, other.where()), "an address can be listened on once")
		return
	}
	seen[identity] = at
}

const addressHint = `write it as in ":8080", "127.0.0.1:8080", "[::1]:8080", "udp://:53" or "unix:///run/web.sock"`

func addressProblem(address string) (problem, hint string) {
	scheme, rest, hasScheme := strings.Cut(address, "://")
	quoted := fmt.Sprintf("%q", address)
	switch {
	case address == "":
		return "is empty", addressHint
	case strings.ContainsFunc(address, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }):
		return quoted + " holds a blank or a control character", addressHint
	case hasScheme && strings.Contains(scheme, "="), !hasScheme && strings.Contains(address, "="):
		return quoted + " holds a name", `write the name as a key of its own: name = "web"`
	case hasScheme && (scheme == "http" || scheme == "https"):
		return fmt.Sprintf("%s: baton listens on sockets and knows nothing of %s", quoted, scheme), addressHint
	case hasScheme && !slices.Contains(schemes, scheme):
		return fmt.Sprintf("%s: unknown network %q", quoted, scheme), "it is one of " + strings.Join(schemes, ", ")
	case scheme == "unix" && !strings.HasPrefix(rest, "/"):
		return quoted + ": the path of a unix socket must be absolute", `write it as in "unix:///run/web.sock"`
	case scheme == "unix":
		return "", ""
	case !hasScheme && strings.HasPrefix(address, "/"):
		return quoted + " is a path", fmt.Sprintf("for a unix socket write %q", "unix://"+address)
	case !hasScheme && isNumber(address):
		return quoted + " has no colon", fmt.Sprintf("for all addresses of this machine write %q, for this machine alone %q", ":"+address, "127.0.0.1:"+address)
	case !strings.Contains(address, ":") || hasScheme && !strings.Contains(rest, ":"):
		return quoted + " has no port", addressHint
	}
	return "", ""
}

// checkUnixOnly refuses mode and owner where there is no file to have them.
func (r *rules) checkUnixOnly(item *node, l Listener) {
	mode, owner := item.find("mode"), item.find("owner")
	if l.Network() != "unix" {
		if mode != nil && l.Mode != 0 {
			r.fail(mode, "is for unix sockets only", "remove it")
		}
		if owner != nil && l.Owner != "" {
			r.fail(owner, "is for unix sockets only", "remove it")
		}
		return
	}
	if s, ok := mode.text(); ok && s != "" && l.Mode == 0 && strings.Trim(s, "0") == "" {
		r.fail(mode, "nobody could connect", `write it as in "0660"`)
	}
	if owner != nil && (strings.Count(l.Owner, ":") > 1 || l.Owner == ":" ||
		strings.ContainsFunc(l.Owner, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) })) {
		r.fail(owner, fmt.Sprintf("%q is not an owner", l.Owner), `write "user", "user:group" or ":group"`)
	}
}

// text gives the string of a node, which may be nil.
func (n *node) text() (string, bool) {
	if n == nil {
		return "", false
	}
	s, ok := n.scalar.(string)
	return s, ok
}

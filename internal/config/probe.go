package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Protocols are the names that handoff.protocols may have, beside "auto".
var Protocols = []string{"systemd", "tableflip", "server-starter", "einhorn", "socketmaster", "endless", "s6", "node"}

// firstSocket is where a worker finds its sockets; see protocol.
const firstSocket = 3

func (r *rules) checkProtocols() {
	h, n := r.c.Handoff, r.root.near("handoff")
	if n.table == nil {
		return
	}
	list := n.find("protocols")
	if list != nil && list.isList {
		if len(list.list) == 0 {
			r.fail(list, "is empty", `write ["auto"], or name one`)
		}
		for i, item := range list.list {
			name, ok := item.scalar.(string)
			switch {
			case !ok: // reported as of the wrong kind
			case name == ProtocolsAuto && len(list.list) > 1:
				r.fail(item, `"auto" stands alone`, "remove it, or the others")
			case slices.Contains(h.Protocols[:min(i, len(h.Protocols))], name):
				r.fail(item, fmt.Sprintf("%q is named twice", name), "")
			default:
				r.oneOf(item, name, append([]string{ProtocolsAuto}, Protocols...)...)
			}
		}
	}
	fd := n.find("ready_fd")
	switch asked := slices.Contains(h.Protocols, "s6"); {
	case h.ReadyFD == 0 && (h.Ready == ReadyNewline || asked):
		at := n.find("ready")
		if asked {
			at = list
		}
		r.fail(at, "needs the descriptor on which the program writes its newline", "set ready_fd, as in 5")
	case h.ReadyFD > 0 && h.ReadyFD < firstSocket+len(r.c.Listen):
		r.fail(fd, fmt.Sprintf("descriptor %d is taken: 0 to 2 are standard, the sockets begin at 3", h.ReadyFD),
			fmt.Sprintf("use %d or more", firstSocket+len(r.c.Listen)))
	case h.ReadyFD > maxReadyFD:
		r.fail(fd, fmt.Sprintf("%d is too large", h.ReadyFD), fmt.Sprintf("use %d at most", maxReadyFD))
	}
	if name := r.c.Command.Stdin; name != "" && !r.hasListener(name) {
		r.fail(r.root.find("command", "stdin"), fmt.Sprintf("no listener is called %q", name), r.listenerNames())
	}
}

// maxReadyFD bounds what has to be left closed in between.
const maxReadyFD = 255

func (r *rules) hasListener(name string) bool {
	return slices.ContainsFunc(r.c.Listen, func(l Listener) bool { return l.Name == name })
}

func (r *rules) listenerNames() string {
	var names []string
	for _, l := range r.c.Listen {
		names = append(names, l.Name)
	}
	return "there are: " + strings.Join(names, ", ")
}

// checkProbe holds [health.ready] together with handoff.ready, which may imply the
// kind of the probe.
func (r *rules) checkProbe() {
	p, n := &r.c.Health.Ready, r.root.find("health", "ready")
	kind := n.find("probe")
	r.oneOf(kind, p.Probe, "", "tcp", "http", "https", "exec")
	at := kind
	if at == nil {
		at = r.root.find("handoff", "ready")
	}
	switch ready := r.c.Handoff.Ready; {
	case ready == ReadyHTTP && p.Probe == "":
		p.Probe = "http"
	case ready == ReadyExec && p.Probe == "":
		p.Probe = "exec"
	case ready == ReadyHTTP && p.Probe != "http" && p.Probe != "https",
		ready == ReadyExec && p.Probe != "exec":
		r.fail(at, fmt.Sprintf("%q does not go with handoff.ready = %q", p.Probe, ready), "remove it, or change that")
	}
	if p.Probe == "" {
		r.idle(n, "no probe is asked for", `set probe = "http", or remove it`)
		return
	}
	r.checkProbeKeys(n, p)
	if p.Probe == "exec" && len(p.Exec) == 0 {
		r.missing(r.root.near("health", "ready"), "health.ready.exec", `give the command, as in ["curl", "-f", "http://localhost/"]`)
	}
}

// idle reports keys of the probe's table that have no effect, unless they say what
// is so without them.
func (r *rules) idle(n *node, why, hint string, keys ...string) {
	if n == nil || n.table == nil {
		return
	}
	written, defaults := reflect.ValueOf(r.c.Health.Ready), reflect.ValueOf(Default().Health.Ready)
	known := tagged(written.Type())
	for _, key := range slices.Sorted(maps.Keys(n.table)) {
		i, ok := known[key]
		if !ok || key == "probe" || len(keys) > 0 && !slices.Contains(keys, key) ||
			reflect.DeepEqual(plain(written.Field(i)), plain(defaults.Field(i))) {
			continue
		}
		r.fail(n.table[key], "has no effect: "+why, hint)
	}
}

func (r *rules) checkProbeKeys(n *node, p *Probe) {
	web := []string{"method", "path", "host", "header", "status", "body"}
	switch p.Probe {
	case "exec":
		r.idle(n, "the probe is a command", "remove it", web...)
	case "tcp":
		r.idle(n, "the probe is a connection", "remove it", append(web, "exec")...)
	default:
		r.idle(n, "the probe is not a command", `remove it, or set probe = "exec"`, "exec")
	}
	switch named := p.Listener != ""; {
	case named && !r.hasListener(p.Listener):
		r.fail(n.find("listener"), fmt.Sprintf("no listener is called %q", p.Listener), r.listenerNames())
	case !slices.ContainsFunc(r.c.Listen, func(l Listener) bool {
		return l.Network() != "udp" && (!named || l.Name == p.Listener)
	}) && (named || p.Probe != "exec"):
		at := n.find("listener")
		if at == nil {
			at = r.root.near("handoff", "ready")
		}
		r.fail(at, "a probe needs a tcp or unix listener: over udp nothing is accepted", "")
	}
	if at := n.find("path"); at != nil && !strings.HasPrefix(p.Path, "/") {
		r.fail(at, fmt.Sprintf("%q is not a path", p.Path), `write it as in "/healthz"`)
	}
	for _, d := range []struct {
		key  string
		zero bool
	}{{"interval", p.Interval <= 0}, {"timeout", p.Timeout <= 0}, {"successes", p.Successes < 1}, {"failures", p.Failures < 1}} {
		if d.zero {
			r.fail(n.find(d.key), "must be above 0", "")
		}
	}
	if p.Timeout >= r.c.Handoff.ReadyTimeout && r.c.Handoff.ReadyTimeout > 0 {
		r.fail(r.root.near("health", "ready", "timeout"), fmt.Sprintf("timeout %s is not below handoff.ready_timeout %s",
			shortDuration(p.Timeout), shortDuration(r.c.Handoff.ReadyTimeout)), "lower it: a probe that hangs would be tried only once")
	}
}

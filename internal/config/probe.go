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
	h, n := r.c.Handoff, r.section("handoff")
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

// question is a table of the file that holds a probe.
type question struct {
	*rules
	key      string // "health.ready"
	n        *node  // nil where the file has none
	p        *Probe
	defaults Probe
}

func (r *rules) question(name string, p *Probe, defaults Probe) question {
	return question{rules: r, key: "health." + name, n: r.root.find("health", name), p: p, defaults: defaults}
}

// checkReadyProbe holds [health.ready] together with handoff.ready, which may imply
// the kind of the probe.
func (r *rules) checkReadyProbe() {
	q := r.question("ready", &r.c.Health.Ready, Default().Health.Ready)
	at := q.n.find("probe")
	if at == nil {
		at = r.root.find("handoff", "ready")
	}
	switch p, ready := q.p, r.c.Handoff.Ready; {
	case ready == ReadyHTTP && p.Probe == "":
		p.Probe = "http"
	case ready == ReadyExec && p.Probe == "":
		p.Probe = "exec"
	case ready == ReadyHTTP && p.Probe != "http" && p.Probe != "https",
		ready == ReadyExec && p.Probe != "exec":
		r.fail(at, fmt.Sprintf("%q does not go with handoff.ready = %q", p.Probe, ready), "remove it, or change that")
	}
	q.check()
	if limit := r.c.Handoff.ReadyTimeout; q.p.Probe != "" && q.p.Timeout >= limit && limit > 0 {
		r.fail(r.root.near("health", "ready", "timeout"), fmt.Sprintf("timeout %s is not below handoff.ready_timeout %s",
			shortDuration(q.p.Timeout), shortDuration(limit)), "lower it: a probe that hangs would be tried only once")
	}
}

func (r *rules) checkLive() {
	live := &r.c.Health.Live
	q := r.question("live", &live.Probe, Default().Health.Live.Probe)
	q.check()
	stuck, after := q.n.find("stuck"), q.n.find("stuck_after")
	r.oneOf(stuck, live.Stuck, StuckReport, StuckReplace)
	switch {
	case live.StuckAfter == 0 && live.Stuck == StuckReplace:
		r.fail(stuck, `has no effect with stuck_after = "0s"`, "raise that, or remove it")
	case !slices.ContainsFunc(r.c.Listen, Listener.accepts) && len(r.c.Listen) > 0:
		if live.Stuck == StuckReplace {
			r.fail(stuck, "has no effect: over udp nothing is accepted", "remove it")
		}
		if live.StuckAfter != 0 && live.StuckAfter != Default().Health.Live.StuckAfter {
			r.fail(after, "has no effect: over udp nothing is accepted", "remove it")
		}
	}
}

func (q question) check() {
	q.oneOf(q.n.find("probe"), q.p.Probe, "", "tcp", "http", "https", "exec")
	if q.p.Probe == "" {
		q.idle("no probe is asked for", `set probe = "http", or remove it`)
		return
	}
	q.checkKeys()
	if q.p.Probe == "exec" && len(q.p.Exec) == 0 {
		q.missing(q.root.near(strings.Split(q.key, ".")...), q.key+".exec", `give the command, as in ["curl", "-f", "http://localhost/"]`)
	}
}

// idle reports keys of the probe's table that have no effect, unless they say what
// is so without them.
func (q question) idle(why, hint string, keys ...string) {
	if q.n == nil || q.n.table == nil {
		return
	}
	written, defaults := reflect.ValueOf(*q.p), reflect.ValueOf(q.defaults)
	known := tagged(written.Type())
	for _, key := range slices.Sorted(maps.Keys(q.n.table)) {
		f, ok := known[key]
		if !ok || key == "probe" || len(keys) > 0 && !slices.Contains(keys, key) ||
			reflect.DeepEqual(plain(written.FieldByIndex(f.Index), ""), plain(defaults.FieldByIndex(f.Index), "")) {
			continue
		}
		q.fail(q.n.table[key], "has no effect: "+why, hint)
	}
}

func (q question) checkKeys() {
	web := []string{"method", "path", "host", "header", "status", "body"}
	switch q.p.Probe {
	case "exec":
		q.idle("the probe is a command", "remove it", web...)
		q.program(q.n.find("exec"), q.p.Exec)
	case "tcp":
		q.idle("the probe is a connection", "remove it", append(web, "exec")...)
	default:
		q.idle("the probe is not a command", `remove it, or set probe = "exec"`, "exec")
	}
	q.checkListener()
	if at := q.n.find("path"); at != nil && !strings.HasPrefix(q.p.Path, "/") {
		q.fail(at, fmt.Sprintf("%q is not a path", q.p.Path), `write it as in "/healthz"`)
	}
	for _, d := range []struct {
		key  string
		zero bool
	}{{"interval", q.p.Interval <= 0}, {"timeout", q.p.Timeout <= 0}, {"successes", q.p.Successes < 1}, {"failures", q.p.Failures < 1}} {
		if d.zero {
			q.fail(q.n.find(d.key), "must be above 0", "")
		}
	}
}

func (q question) checkListener() {
	name := q.p.Listener
	switch named := name != ""; {
	case named && !q.hasListener(name):
		q.fail(q.n.find("listener"), fmt.Sprintf("no listener is called %q", name), q.listenerNames())
	case !slices.ContainsFunc(q.c.Listen, func(l Listener) bool { return l.accepts() && (!named || l.Name == name) }) &&
		(named || q.p.Probe != "exec"):
		at := q.root.near("handoff", "ready")
		for _, key := range []string{"probe", "listener"} {
			if n := q.n.find(key); n != nil {
				at = n
			}
		}
		q.fail(at, "a probe needs a tcp or unix listener: over udp nothing is accepted", "")
	}
}

package pm2

import (
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// baton owns the socket, so that it has to know the port. PM2 does not: it is somewhere
// in the program, and most often in a variable.

// findPort looks for the port where it is likely to be.
func (t *taken) findPort() {
	for _, place := range []struct{ key, value string }{{"env.PORT", t.env["PORT"]}, {"port", portOf(t.table["port"])}} {
		switch {
		case place.value == "" || t.port != "":
		case isPort(place.value):
			t.port = place.value
		default:
			t.note(place.key, "%q is no number of a port", place.value)
		}
	}
	if t.port != "" {
		t.env["PORT"] = portTemplate
	} else {
		t.port, t.portWhy = t.guess()
	}
	if host := t.env["HOST"]; net.ParseIP(host) != nil || host == "localhost" {
		t.host = host
	}
	t.fitProfiles()
	switch {
	case t.port == "":
		t.note("", "nothing says on which port it listens: add a [[listen]] to %s.toml. One that listens nowhere is none for baton", t.name)
	case !t.node:
		t.note("", "%s opens its port by itself, but baton has it: let it take the socket from baton, see docs/programs.md", t.exec[0])
	}
}

// portTemplate gives the program the port of the listener, whatever that is.
const portTemplate = `{{port "http"}}`

func portOf(v any) string {
	text, _ := scalar(v)
	return text
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// fitProfiles keeps a profile's PORT as the address of its listener.
func (t *taken) fitProfiles() {
	for _, name := range slices.Sorted(maps.Keys(t.profiles)) {
		env := t.profiles[name]
		port, has := env["PORT"]
		switch {
		case !has:
		case !isPort(port):
			t.note("env_"+name+".PORT", "%q is no number of a port", port)
			delete(env, "PORT")
		case t.port == "": // none but here: it is everybody's
			t.port, t.portWhy = port, "from env_"+name
			env["PORT"] = portTemplate
		}
	}
}

var (
	portFlag  = expression(`^(?:-p|--port)(?:=(\d+))?$`)
	portWords = []func() *regexp.Regexp{
		expression(`process\.env\.PORT\s*(?:\|\||\?\?)\s*['"]?(\d+)`),
		expression(`\.listen\(\s*(\d+)`),
		expression(`(?i)\b(?:const|let|var)\s+port\s*=\s*['"]?(\d+)`),
	}
)

// guess looks at the arguments and into the script.
func (t *taken) guess() (port, why string) {
	for i, arg := range t.exec {
		m := portFlag().FindStringSubmatch(arg)
		if len(m) == 0 {
			continue
		}
		if port = m[1]; port == "" && i+1 < len(t.exec) {
			port = t.exec[i+1]
		}
		if isPort(port) {
			return port, "from its arguments"
		}
	}
	script := t.table["script"].(string) // there is one
	text, err := os.ReadFile(t.resolved(script))
	if err != nil || len(text) > 1<<20 {
		return "", ""
	}
	for _, words := range portWords {
		if m := words().FindSubmatchIndex(text); len(m) > 3 && isPort(string(text[m[2]:m[3]])) {
			line := 1 + strings.Count(string(text[:m[0]]), "\n")
			return string(text[m[2]:m[3]]), "from " + script + ", line " + strconv.Itoa(line)
		}
	}
	return "", ""
}

package pm2

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"baton/internal/config"
)

// write writes the configuration.
func (t *taken) write() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s, from %s. Try it: baton check --config %s.toml\n", t.name, filepath.Base(t.File), t.name)
	fmt.Fprintf(&b, "name = %s\n", config.Quote(t.name))
	if len(t.watch) > 0 {
		fmt.Fprintf(&b, "watch = %s\n", config.Quote(t.watch))
	}
	fmt.Fprintf(&b, "\n[command]\nexec = %s\ndirectory = %s\n", config.Quote(t.exec), config.Quote(t.within(t.cwd)))
	if t.user != "" {
		fmt.Fprintf(&b, "user = %s\n", config.Quote(t.user))
	}
	if t.group != "" {
		fmt.Fprintf(&b, "group = %s\n", config.Quote(t.group))
	}
	writeEnv(&b, "command.env", t.env)
	t.writeListener(&b)
	// PM2 stops with INT, and what was written for it may know no other.
	section(&b, "handoff", append(t.handoff, setting{"drain_signals", `["INT"]`, "as PM2 does"}))
	section(&b, "restart", t.restart)
	section(&b, "limits", t.limits)
	for _, name := range slices.Sorted(maps.Keys(t.profiles)) {
		t.writeProfile(&b, name)
	}
	if len(t.notes) > 0 {
		b.WriteString("\n# What is not carried over, or is different:\n")
		for _, n := range t.notes {
			fmt.Fprintf(&b, "# - %s\n", oneLine(n.String()))
		}
	}
	return b.String()
}

func (t *taken) writeListener(b *strings.Builder) {
	b.WriteString("\n")
	off := ""
	if t.port == "" {
		fmt.Fprintf(b, "# Nothing in %s says on which port it listens: write it here and remove the #.\n", filepath.Base(t.File))
		off = "#"
	} else if t.portWhy != "" {
		fmt.Fprintf(b, "# The port is %s: is it the right one?\n", oneLine(t.portWhy))
	}
	port := t.port
	if port == "" {
		port = "3000"
	}
	fmt.Fprintf(b, "%s[[listen]]\n%sname = \"http\"\n%saddress = %s\n", off, off, off, config.Quote(t.address(port, t.host)))
}

func (t *taken) address(port, host string) string {
	switch {
	case strings.Contains(host, ":"):
		return "[" + host + "]:" + port
	case host == "localhost":
		return "127.0.0.1:" + port
	}
	return host + ":" + port
}

// writeProfile writes what lies over the rest with --env.
func (t *taken) writeProfile(b *strings.Builder, name string) {
	env := maps.Clone(t.profiles[name])
	port := env["PORT"]
	if isPort(port) {
		if t.env["PORT"] == portTemplate {
			delete(env, "PORT") // it follows the listener
		} else {
			env["PORT"] = portTemplate
		}
	}
	writeEnv(b, "profile."+key(name)+".command.env", env)
	if len(env) == 0 {
		fmt.Fprintf(b, "\n[profile.%s]\n", key(name))
	}
	if isPort(port) && port != t.port {
		fmt.Fprintf(b, "\n[[profile.%s.listen]]\nname = \"http\"\naddress = %s\n", key(name), config.Quote(t.address(port, t.host)))
	}
}

func writeEnv(b *strings.Builder, section string, env map[string]string) {
	if len(env) == 0 {
		return
	}
	fmt.Fprintf(b, "\n[%s]\n", section)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value := config.Quote(env[name])
		if strings.Contains(value, `\"`) && literal().MatchString(env[name]) {
			value = "'" + env[name] + "'"
		}
		fmt.Fprintf(b, "%s = %s\n", key(name), value)
	}
}

func section(b *strings.Builder, name string, settings []setting) {
	if len(settings) == 0 {
		return
	}
	fmt.Fprintf(b, "\n[%s]\n", name)
	for _, s := range settings {
		if s.why != "" {
			fmt.Fprintf(b, "# %s\n", s.why)
		}
		fmt.Fprintf(b, "%s = %s\n", s.key, s.value)
	}
}

// literal is what TOML takes between single quotes as it is.
var literal = expression(`^[ -&(-~]*$`)

var bare = expression(`^[A-Za-z0-9_-]+$`)

// expression is compiled when it is first needed: this binary is also every other command,
// and the shim.
func expression(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// key is a key as TOML has it.
func key(name string) string {
	if bare().MatchString(name) {
		return name
	}
	return config.Quote(name)
}

// oneLine keeps what came from elsewhere from being more than a comment.
func oneLine(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

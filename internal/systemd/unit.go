// Package systemd writes what systemd reads: units by which it runs a launcher, and
// messages by which the launcher tells how it is (Notifier).
//
// The invariants: whatever an application's name, words and paths hold, the unit says
// that and nothing else; what baton did not write is never taken for what it did; and
// a manager that does not read keeps nobody waiting. The package asks systemd for nothing.
package systemd

import (
	"fmt"
	"strings"
	"time"
)

// Mark is the first line of every unit that baton wrote: those without it are somebody
// else's.
const Mark = "# Written by baton startup; baton unstartup removes it."

// Service is what a unit is made of.
type Service struct {
	App         string   // the application's name
	Exec        []string // the program, by its absolute path, and its words
	Reload      []string // likewise
	Directory   string   // absolute
	Environment string   // a file of variables; absolute, or ""
	// Stop is how long a stop may take before systemd kills; 0: as long as it takes.
	Stop time.Duration
	// User of a unit that the system's manager runs; "": root. UID is that user's.
	User string
	UID  string
	// Own: it is for the user's own manager.
	Own bool
}

// Name is the name of an application's unit.
func Name(app string) string {
	var b strings.Builder
	b.WriteString("baton-")
	for i := range len(app) {
		// systemd.unit(5): letters, digits and ":-_.\"; the rest as systemd-escape has it.
		if c := app[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_.-", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String() + ".service"
}

// Text is the unit. The error says what a unit has no way to say.
func (s Service) Text() (string, error) {
	for _, dir := range []string{s.Directory, s.Environment} {
		if err := plain(dir); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(Mark)
	line("")
	line("[Unit]")
	line("Description=%s", specifiers("baton runs "+s.App))
	if !s.Own { // whose manager knows nothing of the network
		line("Wants=network-online.target")
		line("After=network-online.target")
	}
	if s.User != "" {
		// Its /run/user, where its launchers are looked for, is there when its manager is.
		line("Wants=user@%s.service", s.UID)
		line("After=user@%s.service", s.UID)
	}
	// A configuration that is wrong at boot is wrong for good: six tries, and it stays down.
	line("StartLimitIntervalSec=60")
	line("StartLimitBurst=6")
	line("")
	line("[Service]")
	line("Type=simple")
	if s.User != "" {
		line("User=%s", s.User)
		line("Environment=XDG_RUNTIME_DIR=/run/user/%s", s.UID)
	}
	line("WorkingDirectory=%s", specifiers(s.Directory))
	if s.Environment != "" {
		line("EnvironmentFile=%s", specifiers(s.Environment))
	}
	line("ExecStart=%s", command(s.Exec))
	line("ExecReload=%s", command(s.Reload))
	// TERM for baton alone, which drains; KILL for everybody when it took too long.
	line("KillMode=mixed")
	if s.Stop > 0 {
		line("TimeoutStopSec=%d", int64((s.Stop+time.Second-1)/time.Second))
	} else {
		line("TimeoutStopSec=infinity")
	}
	line("Restart=on-failure")
	line("RestartSec=1")
	// Wrong words, a wrong configuration, a name that is taken: the next try changes nothing.
	line("RestartPreventExitStatus=2 5 6")
	line("")
	line("[Install]")
	if s.Own {
		line("WantedBy=default.target")
	} else {
		line("WantedBy=multi-user.target")
	}
	return b.String(), nil
}

// specifiers keeps "%" from being one (systemd.unit(5)).
func specifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// plain: a path that stands unquoted for the rest of its line, where nothing is
// unescaped, blanks at the ends are cut, "\" at the end joins lines, and for a file of
// variables glob(7) is asked.
func plain(path string) error {
	if path == "" {
		return nil
	}
	if path[0] != '/' || strings.TrimSpace(path) != path || strings.HasSuffix(path, `\`) ||
		strings.ContainsFunc(path, func(c rune) bool { return c < ' ' || c == 0x7f || strings.ContainsRune("*?[", c) }) {
		return fmt.Errorf("%q: not a path that a unit can hold", path)
	}
	return nil
}

// command is a command line as systemd.service(5) reads it: quoted, no variable
// expanded, no specifier, no special prefix.
func command(words []string) string {
	out := make([]string, len(words))
	for i, word := range words {
		out[i] = quote(word)
		if i > 0 { // of the first none is expanded
			out[i] = strings.ReplaceAll(out[i], "$", "$$")
		}
	}
	return strings.Join(out, " ")
}

func quote(word string) string {
	var b strings.Builder
	plain := word != ""
	for i := range len(word) {
		c := word[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_./:=,@+-$", c) >= 0 || c >= 0x80) {
			plain = false
		}
		switch {
		case c == '"' || c == '\\':
			b.WriteString("\\" + string(rune(c)))
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	text := specifiers(b.String())
	if plain {
		return text
	}
	return `"` + text + `"`
}

// Ours reports whether baton wrote a unit.
func Ours(text string) bool { return strings.HasPrefix(text, Mark+"\n") }

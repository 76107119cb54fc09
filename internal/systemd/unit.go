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
	Cleanup     []string // likewise: for when it has ended
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
	s.unit(&b)
	s.service(&b)
	if s.Own {
		b.WriteString(everywhere)
	} else {
		b.WriteString(sandbox(s.Directory, s.User == ""))
	}
	target := "multi-user.target"
	if s.Own {
		target = "default.target"
	}
	b.WriteString("\n[Install]\nWantedBy=" + target + "\n")
	return b.String(), nil
}

// unit writes the first section.
func (s Service) unit(b *strings.Builder) {
	line := printer(b)
	line(Mark)
	line("")
	line("[Unit]")
	line("Description=%s", specifiers("baton runs "+s.App))
	if !s.Own { // whose manager knows nothing of the network
		line("Wants=network-online.target")
		line("After=network-online.target")
	}
	if s.User != "" {
		line("# Its /run/user, where its launchers are looked for, is there when its manager is.")
		line("Wants=user@%s.service", s.UID)
		line("After=user@%s.service", s.UID)
	}
	line("# However often: what a start lacks today, a database for one, may be there tomorrow.")
	line("StartLimitIntervalSec=0")
}

// service writes the second, but for the sandbox.
func (s Service) service(b *strings.Builder) {
	line := printer(b)
	line("")
	line("[Service]")
	b.WriteString(told)
	if s.User != "" {
		line("User=%s", s.User)
		line("Environment=XDG_RUNTIME_DIR=/run/user/%s", s.UID)
	}
	line("WorkingDirectory=%s", specifiers(s.Directory))
	if s.Environment != "" {
		line("EnvironmentFile=%s", specifiers(s.Environment))
	}
	line("ExecStart=%s", command(s.Exec))
	line("# Fails when the newcomer does; the old generation serves on then.")
	line("ExecReload=%s", command(s.Reload))
	b.WriteString(lifetime)
	line("ExecStopPost=%s", command(s.Cleanup))
	if s.Stop > 0 {
		line("# More than a drain may take.")
		line("TimeoutStopSec=%d", int64((s.Stop+time.Second-1)/time.Second))
	} else {
		line("TimeoutStopSec=infinity")
	}
	b.WriteString(again)
}

func printer(b *strings.Builder) func(format string, args ...any) {
	return func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
}

const told = `# Active when the first generation serves; reloading and stopping are told as well. Only
# the launcher is listened to: it is the one that workers tell that they are ready.
Type=notify
NotifyAccess=main
# Told by the loop that does the work. A launcher that hangs is ended, with a trace of where
# in the journal, and followed by another.
WatchdogSec=30
TimeoutAbortSec=10
`

const lifetime = `# The launcher alone is told to end, and ends its workers itself once they have drained.
# systemd.kill(5) does not recommend this, since processes may be left running. Here they
# must be: when the launcher is killed, what serves shall not be killed with it. Whoever
# is left when the unit has been stopped is ended by baton cleanup.
KillMode=process
`

const again = `# Exit codes after which another try changes nothing: ended because it was asked to, as by
# baton stop (0), a configuration that is wrong (5), a name that is taken (6). Not 2: a Go
# program that crashes, or that a watchdog ends, has that one.
Restart=always
RestartSec=1
RestartPreventExitStatus=0 5 6
# One process too big for the machine is no reason to end the others.
OOMPolicy=continue
# Control groups below its own are baton's to make.
Delegate=yes
# Room for what is to outlive the launcher: sockets, and handles of workers.
FileDescriptorStoreMax=4096
`

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

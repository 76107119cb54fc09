package config

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// rules hold a decoded Config to what its single values cannot say.
type rules struct {
	*decoder
	c       *Config
	root    *node
	address func(string) error
}

func (r *rules) check() {
	r.checkCommand()
	r.checkName()
	r.checkListeners()
	r.checkHandoff()
	r.checkCanary()
	r.checkProtocols()
	r.checkReadyProbe()
	r.checkLive()
	r.checkRestart()
	r.checkWatch()
	r.checkHooks()
	r.account(r.root.find("control", "group"), r.c.Control.Group)
	r.checkLogs()
	r.oneOf(r.root.find("log", "format"), r.c.Log.Format, "auto", "text", "json")
	r.oneOf(r.root.find("log", "level"), r.c.Log.Level, "debug", "info", "warn", "error")
}

// section is a table of the file, or one without a key: what stands at the top with the
// name of one of its keys is not its own.
func (r *rules) section(name string) *node {
	if n := r.root.find(name); n != nil {
		return n
	}
	return &node{table: map[string]*node{}}
}

// missing reports a key that must be there, at the nearest thing that is.
func (r *rules) missing(n *node, key, hint string) {
	line, column := max(1, n.line), max(1, n.column)
	if n.file == "" || n.line == 0 {
		line, column = 0, 0
	}
	r.errs = append(r.errs, Error{File: n.file, Line: line, Column: column, Key: key, Problem: "missing", Hint: hint})
}

// oneOf does nothing where the key was not written: its default is good.
func (r *rules) oneOf(n *node, got string, allowed ...string) {
	if n == nil || slices.Contains(allowed, got) {
		return
	}
	if _, isString := n.scalar.(string); !isString {
		return // reported as of the wrong kind
	}
	hint := "it is one of " + strings.Join(allowed, ", ")
	if near := Nearest(got, allowed); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	r.fail(n, fmt.Sprintf("%q is not known", got), hint)
}

const nameHint = "use letters, digits, '.', '_' and '-', beginning with a letter or a digit, at most 64"

// validName allows what is safe as a file name, a unit name and a log value.
func validName(s string) bool {
	return s != "" && len(s) <= 64 && strings.TrimFunc(s, nameRune) == "" && !strings.ContainsRune("._-", rune(s[0])) &&
		strings.IndexFunc(s, func(c rune) bool { return !nameRune(c) }) < 0
}

func nameRune(c rune) bool {
	return c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("._-", c))
}

func (r *rules) checkName() {
	if n := r.root.find("name"); n != nil && r.c.Name != "" {
		if !validName(r.c.Name) {
			r.fail(n, fmt.Sprintf("%q is not a name for an application", r.c.Name), nameHint)
		}
		return
	}
	if len(r.c.Command.Exec) > 0 {
		r.c.Name = nameFrom(r.c.Command.Exec[0])
	}
}

// nameFrom makes a valid name of any path.
func nameFrom(path string) string {
	name := strings.Map(func(c rune) rune {
		if nameRune(c) {
			return c
		}
		return '-'
	}, filepath.Base(path))
	name = strings.TrimLeft(name, "._-")
	if len(name) > 64 {
		name = name[:64]
	}
	if name == "" {
		return "app"
	}
	return name
}

func (r *rules) checkCommand() {
	c, n := r.c.Command, r.root.near("command")
	exec := r.root.find("command", "exec")
	switch {
	case exec == nil && (n == r.root || n.table != nil):
		r.missing(n, "command.exec", `give the program to run: exec = ["./server"] under [command], or -- CMD on the command line`)
	case exec == nil:
	case exec.isList && len(exec.list) == 0:
		r.fail(exec, "is empty", `give the program to run, as in ["./server", "-v"]`)
	case len(c.Exec) > 0 && c.Exec[0] == "":
		r.fail(exec, "the program is an empty string", `give it, as in ["./server", "-v"]`)
	}
	r.account(n.find("user"), c.User)
	r.account(n.find("group"), c.Group)
	r.checkRights(n)
	for _, key := range slices.Sorted(maps.Keys(c.Env)) {
		r.checkEnv(n.find("env", key), key)
	}
	for i, path := range c.EnvFile {
		if path == "" || path == "-" {
			at := n.find("env_file")
			if at.isList && i < len(at.list) {
				at = at.list[i]
			}
			r.fail(at, "names no file", "")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Limits)) {
		r.checkLimit(n.find("limits", name), name, c.Limits[name])
	}
}

// account checks the form of a user or group; whether it exists is for later.
func (r *rules) account(n *node, name string) {
	if n != nil && strings.ContainsFunc(name, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) || c == ':' }) {
		r.fail(n, fmt.Sprintf("%q is not a name or number of an account", name), "")
	}
}

func (r *rules) checkEnv(n *node, key string) {
	switch {
	case key == "" || strings.ContainsAny(key, "=\x00"):
		r.fail(n, fmt.Sprintf("%q is not a name for a variable", key), "")
	case key == "LISTEN_FDS" || key == "LISTEN_PID" || key == "LISTEN_FDNAMES" || key == "NOTIFY_SOCKET":
		r.fail(n, "is set by baton for each worker", "remove it")
	}
}

var limitNames = []string{"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice",
	"nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}

func (r *rules) checkLimit(n *node, name, value string) {
	if !slices.Contains(limitNames, name) {
		hint := "known: " + strings.Join(limitNames, ", ")
		if name == "memory" || name == "max_age" || name == "memory_max" {
			hint = fmt.Sprintf("%q belongs under [limits]", name)
		}
		if near := Nearest(strings.TrimPrefix(strings.ToLower(name), "rlimit_"), limitNames); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		r.fail(n, "unknown limit", hint)
		return
	}
	softText, hardText, both := strings.Cut(value, ":")
	soft, ok := limitValue(softText)
	hard, ok2 := soft, true
	if both {
		hard, ok2 = limitValue(hardText)
	}
	switch {
	case !ok || !ok2:
		r.fail(n, fmt.Sprintf("%q is not a limit", value), `write it as in "65536", "512M", "1024:65536" (soft:hard) or "unlimited"`)
	case soft > hard:
		r.fail(n, fmt.Sprintf("the soft limit %s is above the hard limit %s", softText, hardText), "")
	}
}

func limitValue(s string) (uint64, bool) {
	if s == "unlimited" || s == "infinity" {
		return math.MaxUint64, true
	}
	shift := 0
	if i := strings.IndexAny(s, "KMGT"); i >= 0 && i == len(s)-1 {
		shift = 10 * (1 + strings.IndexByte("KMGT", s[i]))
		s = s[:i]
	}
	v, err := strconv.ParseUint(s, 10, 64)
	return v << shift, err == nil && v <= math.MaxUint64>>shift
}

func (r *rules) checkHandoff() {
	h, n := r.c.Handoff, r.section("handoff")
	if n.table == nil {
		return
	}
	r.oneOf(n.find("slots"), string(h.Slots), string(SlotsWorker), string(SlotsGeneration))
	if h.Slots == SlotsGeneration && !slices.ContainsFunc(r.c.Listen, Listener.steered) && len(r.c.Listen) > 0 {
		r.fail(n.find("slots"), "has no effect: with steering = \"off\" all share one socket", "remove it, or that of one listener")
	}
	r.oneOf(n.find("swap"), string(h.Swap), string(SwapTogether), string(SwapRolling))
	if h.Slots == SlotsGeneration && h.Swap == SwapRolling {
		r.fail(n.find("swap"), `does not go with slots = "generation"`, "remove one: a worker that leaves a socket which others still accept from may lose what it has just taken")
	}
	r.oneOf(n.find("ready"), string(h.Ready), string(ReadyAuto), string(ReadyNotify), string(ReadyAccept),
		string(ReadyHTTP), string(ReadyExec), string(ReadyNewline), string(ReadyDelay))
	switch delay := n.find("ready_delay"); {
	case h.Ready == ReadyDelay && h.ReadyDelay == 0:
		at := delay
		if at == nil {
			at = n.find("ready")
		}
		r.fail(at, `ready = "delay" needs a delay`, `set ready_delay, as in "5s"`)
	case h.Ready != ReadyDelay && h.ReadyDelay > 0:
		r.fail(delay, fmt.Sprintf("has no effect with ready = %q", h.Ready), `set ready = "delay" or remove it`)
	}
	if h.ReadyTimeout <= 0 {
		r.fail(n.find("ready_timeout"), "must be above 0", "a newcomer that never becomes ready has to be given up at some time")
	} else if h.ReadyDelay >= h.ReadyTimeout {
		r.fail(n.near("ready_delay"), fmt.Sprintf("ready_delay %s is not below ready_timeout %s", shortDuration(h.ReadyDelay), shortDuration(h.ReadyTimeout)), "raise ready_timeout")
	}
	if h.DrainTimeout <= 0 {
		r.fail(n.find("drain_timeout"), "must be above 0", "the old generation needs time to finish what it has")
	}
	if h.MaxDraining < 1 {
		r.fail(n.find("max_draining"), "must be at least 1", "")
	}
	r.checkDrainSignals(n.find("drain_signals"))
	r.checkQuiesceSignal(n.find("quiesce_signal"))
}

func (r *rules) checkRestart() {
	c, n := r.c.Restart, r.section("restart")
	if n.table == nil {
		return
	}
	r.checkStopExitCodes(n.find("stop_exit_codes"))
	switch {
	case c.BackoffMin <= 0:
		r.fail(n.find("backoff_min"), "must be above 0", "a command that exits at once would be started without a pause")
	case c.BackoffMax < c.BackoffMin:
		at := n.find("backoff_max")
		if at == nil {
			at = n.find("backoff_min")
		}
		r.fail(at, fmt.Sprintf("backoff_max %s is below backoff_min %s", shortDuration(c.BackoffMax), shortDuration(c.BackoffMin)), "raise backoff_max")
	}
}

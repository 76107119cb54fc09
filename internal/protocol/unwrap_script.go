package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// manifest is what is needed of a package.json.
type manifest struct {
	path           string
	Name           string            `json:"name"`
	Version        string            `json:"version"`
	PackageManager string            `json:"packageManager"`
	Scripts        map[string]string `json:"scripts"`
}

func readManifest(dir string) (m manifest, err error) {
	m.path = filepath.Join(dir, "package.json")
	data, err := os.ReadFile(m.path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w", m.path, err)
	}
	return m, nil
}

// binDirs are the node_modules/.bin that a script has in its PATH: the directory's
// own, then those above it.
func binDirs(dir string) (dirs []string) {
	for {
		bin := filepath.Join(dir, "node_modules", ".bin")
		if info, err := os.Stat(bin); err == nil && info.IsDir() {
			dirs = append(dirs, bin)
		}
		up := filepath.Dir(dir)
		if up == dir || !filepath.IsAbs(dir) {
			return dirs
		}
		dir = up
	}
}

// bin finds a program that a package has brought along; "" if none has.
func (u *unwrapper) bin(name string) string {
	for _, dir := range binDirs(u.dir) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// module finds a package as node does, from the directory upwards; "" if there is
// none of that name.
func (u *unwrapper) module(name string) string {
	for _, dir := range binDirs(u.dir) {
		path := filepath.Join(filepath.Dir(dir), name)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
	}
	return ""
}

// quietFlags are those of the package managers that change nothing about what runs.
var quietFlags = []string{"-s", "--silent", "-q", "--quiet", "--no-update-notifier", "--loglevel=silent", "--loglevel=error", "-y", "--yes", "--no-install", "--offline"}

// manager sees through npm, yarn and pnpm.
func (u *unwrapper) manager(name string, args []word) error {
	args, odd := skipFlags(args)
	if len(args) == 0 {
		return nil // an installation, or its help
	}
	verb, rest := args[0].text, args[1:]
	if odd != "" {
		u.opaque = fmt.Sprintf("baton does not look through %s %s: write what the script runs, as in exec = [\"node\", \"server.js\"]", name, odd)
		return nil
	}
	if _, err := os.Stat(filepath.Join(u.dir, ".pnp.cjs")); name == "yarn" && err == nil {
		u.opaque = `yarn's Plug'n'Play needs yarn around the program, and yarn keeps the channel. Write exec = ["node", "--require", "./.pnp.cjs", "server.js"]`
		return nil
	}
	switch {
	case verb == "start":
		return u.run(name, "start", rest)
	case verb == "run" || verb == "run-script" || name == "npm" && (verb == "rum" || verb == "urn"):
		rest, odd = skipFlags(rest)
		if odd != "" || len(rest) == 0 {
			return nil // lists the scripts, or does not run one here
		}
		return u.run(name, rest[0].text, rest[1:])
	case verb == "exec" || name == "npm" && verb == "x":
		return u.npx(name+" "+verb, rest)
	case name == "npm":
		return nil // whatever it does, it is no server
	}
	return u.short(name, verb, args)
}

// short is `yarn X` and `pnpm X`: a script, or a program.
func (u *unwrapper) short(manager, verb string, args []word) error {
	m, err := readManifest(u.dir)
	_, script := m.Scripts[verb]
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // another yarn than node's, perhaps
	case err != nil:
		return err
	case script:
		return u.run(manager, verb, args[1:])
	case verb == "node" || u.bin(verb) != "":
		return u.inside(manager+" "+verb, args)
	}
	return nil // one of the manager's own commands
}

// npx runs a program of a package's, if it is installed; what is not installed, npx
// would fetch.
func (u *unwrapper) npx(name string, args []word) error {
	args, odd := skipFlags(args)
	if len(args) > 0 && args[0].text == "--" {
		args = args[1:]
	}
	if odd != "" {
		u.opaque = fmt.Sprintf("baton does not look through %s %s: install the program in the project, and write what runs", name, odd)
		return nil
	}
	if len(args) == 0 {
		return nil
	}
	program := args[0].text
	if program != "node" && u.bin(program) == "" {
		u.opaque = fmt.Sprintf("%s runs %s, which is not in node_modules/.bin, and keeps node's channel to itself: install it in the project", name, program)
		return nil
	}
	return u.inside(name, args)
}

// inside goes on with a program that has node_modules/.bin in its PATH.
func (u *unwrapper) inside(script string, words []word) error {
	u.changed, u.bins = true, true
	if u.script == "" {
		u.script = script
	}
	return u.command(words)
}

// skipFlags passes over flags that do not matter; odd is the first that may.
func skipFlags(args []word) (rest []word, odd string) {
	for len(args) > 0 && strings.HasPrefix(args[0].text, "-") && args[0].text != "--" {
		if !slices.Contains(quietFlags, args[0].text) && odd == "" {
			odd = args[0].text
		}
		args = args[1:]
	}
	return args, odd
}

// hidden keeps the channel from a command that runs before the program.
const hidden = "unset NODE_CHANNEL_FD NODE_CHANNEL_SERIALIZATION_MODE NODE_UNIQUE_ID; "

// run goes on with a script of package.json.
func (u *unwrapper) run(manager, script string, args []word) error {
	m, err := readManifest(u.dir)
	if err != nil {
		return err
	}
	text := m.Scripts[script]
	if text == "" && script == "start" && (manager == "npm" || manager == "pnpm") {
		if _, err := os.Stat(filepath.Join(u.dir, "server.js")); err == nil {
			text = "node server.js" // as npm has it
		}
	}
	if text == "" {
		return fmt.Errorf("%s: no script %q", m.path, script)
	}
	u.script, u.changed, u.bins = script, true, true
	u.variables(&m, manager, script, text)
	pre := m.Scripts["pre"+script]
	if !runsPre(manager, &m, u.dir) {
		pre = ""
	}
	return u.lines(pre, text, u.arguments(manager, args))
}

// lines goes on with the text of a script, and the one that runs before it.
func (u *unwrapper) lines(pre, text string, args []word) error {
	commands := parseScript(text)
	if len(u.assigns) > 0 && (pre != "" || len(commands) != 1) { // they are for all of it
		u.precede("export "+strings.Join(quoted(u.assigns), " "), "&&")
		u.assigns = nil
	}
	if pre != "" {
		u.group("&&")
		u.precede("("+hidden+pre+"\n)", "&&") // its last line may be a comment
	}
	at, ok := u.server(commands)
	if !ok {
		u.group("?") // whatever is between them
		u.whole(text, args)
		return nil
	}
	if len(commands) > 1 {
		u.group(separators(commands)...)
	}
	for _, c := range commands[:at] {
		u.precede(c.apart(), c.then)
	}
	if at < len(commands)-1 {
		u.whole(strings.TrimSpace(text[commands[at].at:]), args)
		return nil
	}
	return u.command(append(commands[at].words, args...))
}

// precede puts a command before all that is to come.
func (u *unwrapper) precede(command, then string) {
	u.lead += command + " " + then + " "
	u.mixed = u.mixed || then != "&&"
}

// group keeps together what comes, with these between its commands, where what is
// before it would be read as one with it.
func (u *unwrapper) group(between ...string) {
	other := func(then string) bool { return then != "&&" && then != "" }
	if u.lead != "" && (u.mixed || slices.ContainsFunc(between, other)) {
		u.lead += "{ "
		u.open++
	}
}

func separators(commands []simple) (between []string) {
	for _, c := range commands[:len(commands)-1] {
		between = append(between, c.then)
	}
	return between
}

// after are programs that a script runs when its server has ended.
var after = []string{"rm", "cat", "cp", "date", "kill", "mkdir", "mv", "sleep", "touch"}

// server finds the command that is to have the channel: the last one, but for what
// cleans up behind it. Not ok: only a shell understands the script, or it may be either
// of two.
func (u *unwrapper) server(commands []simple) (at int, ok bool) {
	if len(commands) == 0 {
		return 0, false
	}
	at = len(commands) - 1
	for at > 0 && (commands[at].inShell() || slices.Contains(after, commands[at].words[0].text)) {
		at--
	}
	if commands[at].inShell() {
		at = len(commands) - 1 // there is no other
	}
	if at > 0 && commands[at-1].then == "||" && u.takesChannel(texts(commands[at].words)) {
		return at, !slices.ContainsFunc(commands[:at], func(c simple) bool { return u.takesChannel(texts(c.words)) })
	}
	return at, true
}

// takesChannel says whether a command starts node, in whatever way.
func (u *unwrapper) takesChannel(words []string) bool {
	return isWrapper(words[0]) || u.startsNode(words)
}

// whole leaves a script to a shell, unless more than one of its commands would take
// the channel.
func (u *unwrapper) whole(text string, args []word) {
	var takers [][]string
	for _, words := range programs(text) {
		if u.takesChannel(words) {
			takers = append(takers, words)
		}
	}
	const instead = `as in exec = ["node", "server.js"]`
	switch {
	case len(takers) > 1:
		u.opaque = fmt.Sprintf("the script %q starts node more than once, in an order that baton cannot tell, and the first keeps the channel: "+
			"join its commands by && or ; with the server as the last one, or write the server alone, %s", u.script, instead)
	case len(takers) == 1 && isWrapper(takers[0][0]):
		u.opaque = fmt.Sprintf("the script %q runs %s among what only a shell understands, and %[2]s keeps the channel: "+
			"write what it runs in the end, %s", u.script, filepath.Base(takers[0][0]), instead)
	}
	for _, a := range args {
		text += " " + a.quoted()
	}
	u.shell = text
}

// arguments are those that the script gets.
func (u *unwrapper) arguments(manager string, args []word) (passed []word) {
	for i, a := range args {
		switch {
		case a.text == "--" && manager != "pnpm":
			return append(passed, args[i+1:]...)
		case manager == "npm" && strings.HasPrefix(a.text, "-") && !slices.Contains(quietFlags, a.text):
			u.notes = append(u.notes, fmt.Sprintf("npm keeps %s for itself: write -- before it", a.text))
		case manager != "npm" || !strings.HasPrefix(a.text, "-"):
			passed = append(passed, a)
		}
	}
	return passed
}

// variables are what npm tells a script, and programs ask for.
func (u *unwrapper) variables(m *manifest, manager, script, text string) {
	command := "run-script"
	if manager == "npm" && script == "start" {
		command = "start"
	}
	u.set("npm_lifecycle_event", script)
	u.set("npm_lifecycle_script", text)
	u.set("npm_command", command)
	u.set("npm_package_json", m.path)
	u.set("npm_package_name", m.Name)
	u.set("npm_package_version", m.Version)
	u.set("INIT_CWD", u.dir)
}

// runsPre says whether the manager runs prestart before start. Node does not, nor
// does yarn from version 2 on.
func runsPre(manager string, m *manifest, dir string) bool {
	if manager == "yarn" {
		if v, ok := strings.CutPrefix(m.PackageManager, "yarn@"); ok {
			return strings.HasPrefix(v, "1.")
		}
		_, err := os.Stat(filepath.Join(dir, ".yarnrc.yml"))
		return err != nil
	}
	return manager != "node --run"
}

// inShell are commands that change the shell they run in, or are part of it.
var inShell = []string{
	".", ":", "[", "alias", "cd", "declare", "echo", "eval", "exit", "export", "false", "printf", "read", "readonly", "set", "shift",
	"shopt", "source", "test", "true", "typeset", "ulimit", "umask", "unset",
}

// inShell says whether it is a shell's own, and has to run in that.
func (c simple) inShell() bool {
	return !slices.ContainsFunc(c.words, func(w word) bool { return !w.assignment() }) ||
		!c.words[0].raw && slices.Contains(inShell, c.words[0].text)
}

// apart is a command that runs before the program, as shell text.
func (c simple) apart() string {
	if c.inShell() {
		return c.text
	}
	return "(" + hidden + c.text + ")"
}

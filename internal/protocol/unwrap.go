package protocol

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Unwrapped is a command without the programs around it that would start node as
// their own child: the outermost node takes the channel to the launcher, and lets
// none of it through.
type Unwrapped struct {
	Exec []string // what to run
	Env  []string // KEY=VALUE, over the worker's environment; PATH among them
	// Note is for the user, whether something changed or not: what will not work, and
	// what to write instead. "" if all is well.
	Note    string
	Changed bool // Exec and Env are not what was given
	// Node: what was changed starts node in the end, as far as can be seen. If not, the
	// program is to be looked at like any other.
	Node bool
}

// Unwrap finds what `npm start`, `npm run X`, `yarn X`, `pnpm X`, `npx X`, `tsx FILE`
// and `node --run X` run in the end, in a directory and with a PATH. A simple command
// is run as it is, one that needs a shell by sh -c, with exec where that keeps the
// meaning. What starts node in some other way comes back unchanged, with a note; what
// has nothing to do with node without one.
//
// The script prestart runs before start and so on, apart from the channel. The
// script poststart does not run: npm starts it only after a server that ends by
// itself, without a signal.
//
// An error is one of package.json: missing, unreadable, or without the script.
func Unwrap(exec []string, dir, path string) (Unwrapped, error) {
	same := Unwrapped{Exec: exec}
	if len(exec) == 0 {
		return same, nil
	}
	if path == "" {
		path = "/usr/local/bin:/usr/bin:/bin"
	}
	u := &unwrapper{dir: dir, path: path, env: map[string]string{}}
	words := make([]word, len(exec))
	for i, s := range exec {
		words[i] = word{text: s}
	}
	err := u.command(words)
	switch {
	case err != nil:
		return same, fmt.Errorf("%s: %w", strings.Join(exec[:min(2, len(exec))], " "), err)
	case u.opaque != "":
		same.Note = u.opaque
		return same, nil
	case !u.changed:
		return same, nil
	}
	out := Unwrapped{Changed: true, Node: u.endsInNode()}
	if bins := binDirs(dir); u.bins && len(bins) > 0 {
		out.Env = append(out.Env, "PATH="+strings.Join(append(bins, path), ":"))
	}
	for _, key := range u.order {
		out.Env = append(out.Env, key+"="+u.env[key])
	}
	var assigned []string
	out.Exec, assigned = u.result()
	out.Env = append(out.Env, assigned...)
	out.Note = strings.Join(u.notes, "; ")
	return out, nil
}

// maxUnwrap bounds scripts that run scripts.
const maxUnwrap = 16

// unwrapper takes one layer after the other off a command.
type unwrapper struct {
	dir     string
	path    string // PATH, without node_modules/.bin
	depth   int
	script  string            // whose command this is: "" outside of package.json
	bins    bool              // node_modules/.bin belongs into its PATH
	env     map[string]string // npm's own variables
	order   []string          // of env
	lead    string            // shell text that runs before, with && or the like at its end
	mixed   bool              // with something else than && in it
	open    int               // braces in it
	assigns []word            // KEY=VALUE before the command
	words   []word            // what is left
	shell   string            // or what only a shell understands
	notes   []string
	opaque  string // why it cannot be seen through
	changed bool
}

func (u *unwrapper) set(key, value string) {
	if _, ok := u.env[key]; !ok {
		u.order = append(u.order, key)
	}
	u.env[key] = value
}

// command takes the outermost layer off words, and goes on with what is below.
func (u *unwrapper) command(words []word) error {
	if u.depth++; u.depth > maxUnwrap {
		return fmt.Errorf("scripts that run each other")
	}
	for u.script != "" && len(words) > 0 && words[0].assignment() {
		u.assigns, words = append(u.assigns, words[0]), words[1:]
	}
	if u.script != "" && len(words) > 1 && words[0].text == "exec" && !strings.HasPrefix(words[1].text, "-") {
		words = words[1:] // a shell's, and done anyway
	}
	u.words = words
	if len(words) == 0 || words[0].raw {
		return nil
	}
	name, args := filepath.Base(words[0].text), words[1:]
	switch name {
	case "npm", "yarn", "pnpm":
		return u.manager(name, args)
	case "npx":
		return u.npx(name, args)
	case "cross-env":
		return u.crossEnv(args)
	case "tsx":
		return u.tsx(args)
	case "node", "nodejs":
		return u.node(args)
	}
	if slices.Contains(opaque, name) {
		u.blocked(name, args)
		return nil
	}
	u.local()
	return nil
}

// opaque are programs that start node as a child of theirs, or nobody knows what.
var opaque = []string{
	"nodemon", "ts-node", "ts-node-esm", "ts-node-dev", "tsnd", "tsc-watch", "babel-node", "nest",
	"concurrently", "npm-run-all", "npm-run-all2", "run-s", "run-p",
	"pm2", "pm2-runtime", "pm2-dev", "pm2-docker", "forever",
	"dotenv", "dotenvx", "env-cmd", "cross-env-shell",
	"turbo", "nx", "lerna", "corepack", "pnpx", "yarnpkg",
}

// blocked says why it ends here.
func (u *unwrapper) blocked(name string, args []word) {
	program := "server.js"
	for _, a := range args {
		if slices.Contains([]string{".js", ".mjs", ".cjs", ".ts", ".mts", ".cts"}, filepath.Ext(a.text)) {
			program = a.text
			break
		}
	}
	instead := fmt.Sprintf(`"node", %q`, program)
	if strings.HasSuffix(program, "ts") {
		instead = fmt.Sprintf(`"node", "--import", "tsx", %q`, program)
	}
	who := name
	if u.script != "" {
		who = fmt.Sprintf("the script %q runs %s, which", u.script, name)
	}
	u.opaque = fmt.Sprintf("%s starts node as a child of its own and keeps the channel: "+
		"listen() does not get the listener, and 'ready' and 'shutdown' do not pass. Write exec = [%s]", who, instead)
	switch name {
	case "dotenv", "dotenvx", "env-cmd":
		u.opaque += ", and command.env_file for the variables"
	case "concurrently", "npm-run-all", "npm-run-all2", "run-p", "pm2", "pm2-runtime", "pm2-docker", "forever":
		u.opaque += ", and one configuration for each program"
	}
}

// local runs a program of node_modules/.bin where there is one of that name.
func (u *unwrapper) local() {
	if strings.ContainsRune(u.words[0].text, '/') || !u.bins {
		return
	}
	if bin := u.bin(u.words[0].text); bin != "" {
		u.words = append([]word{{text: bin}}, u.words[1:]...)
	}
}

// crossEnv makes `cross-env A=b command` plain: that is what a launcher does itself.
func (u *unwrapper) crossEnv(args []word) error {
	for len(args) > 0 && args[0].assignment() {
		u.assigns, args = append(u.assigns, args[0]), args[1:]
	}
	u.changed = true
	if u.script == "" {
		u.script = "cross-env"
	}
	return u.command(args)
}

// tsx is a loader of node's, and a program that starts node with it.
func (u *unwrapper) tsx(args []word) error {
	if len(args) == 0 || args[0].text == "watch" {
		u.blocked("tsx watch", args)
		return nil
	}
	if u.module("tsx") == "" {
		u.blocked("tsx", args)
		u.opaque += ", with tsx installed in the project"
		return nil
	}
	args = u.tsxOptions(args)
	u.words = append([]word{{text: "node"}, {text: "--import"}, {text: "tsx"}}, args...)
	u.changed = true
	return nil
}

// tsxOptions turns tsx's own options into the variables for them; all others are
// node's.
func (u *unwrapper) tsxOptions(args []word) []word {
	for len(args) > 1 {
		flag, value, assigned := strings.Cut(args[0].text, "=")
		raw := args[0].raw
		switch {
		case flag == "--no-cache":
			u.assigns = append(u.assigns, word{text: "TSX_DISABLE_CACHE=1"})
		case flag == "--tsconfig" && assigned:
			u.assigns = append(u.assigns, word{"TSX_TSCONFIG_PATH=" + value, raw})
		case flag == "--tsconfig":
			args = args[1:]
			u.assigns = append(u.assigns, word{"TSX_TSCONFIG_PATH=" + args[0].text, args[0].raw})
		default:
			return args
		}
		args = args[1:]
	}
	return args
}

// node is what is looked for, but for what it does as a wrapper itself.
func (u *unwrapper) node(args []word) error {
	for i, a := range args {
		flag, value, assigned := strings.Cut(a.text, "=")
		switch {
		case flag == "--watch" || flag == "--watch-path":
			u.blocked("node --watch", args[i+1:])
			return nil
		case flag == "--run" && assigned:
			return u.run("node --run", value, args[i+1:])
		case flag == "--run" && i+1 < len(args):
			return u.run("node --run", args[i+1].text, args[i+2:])
		case !strings.HasPrefix(flag, "-"):
			return nil // the program: what follows is its own
		}
	}
	return nil
}

// result is the command as it is started, and the variables before it.
func (u *unwrapper) result() (exec, env []string) {
	raw := func(w word) bool { return w.raw }
	direct := u.shell == "" && u.lead == "" && !slices.ContainsFunc(u.words, raw) && !slices.ContainsFunc(u.assigns, raw)
	if direct {
		for _, w := range u.words {
			exec = append(exec, w.text)
		}
		for _, w := range u.assigns {
			env = append(env, w.text)
		}
		return exec, env
	}
	last := u.shell
	if last == "" {
		parts := []string{"exec"}
		if len(u.assigns) > 0 {
			parts = append(append(parts, "env"), quoted(u.assigns)...)
		}
		last = strings.Join(append(parts, quoted(u.words)...), " ")
	} else {
		u.notes = append(u.notes, "a shell stays around the program, since its script needs one")
	}
	return []string{"sh", "-c", u.lead + last + strings.Repeat("\n}", u.open)}, nil // its last line may be a comment
}

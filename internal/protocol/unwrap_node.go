package protocol

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxScript bounds how much is read of a script that may start node, in bytes.
const maxScript = 64 << 10

var shells = []string{"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash"}

// wrappers are those that are seen through, where a script does not hide them.
var wrappers = []string{"npm", "yarn", "pnpm", "npx", "cross-env", "tsx"}

// isWrapper says whether it would start node as a child of its own.
func isWrapper(word string) bool {
	name := filepath.Base(word)
	return slices.Contains(wrappers, name) || slices.Contains(opaque, name)
}

// endsInNode says whether what is left starts node.
func (u *unwrapper) endsInNode() bool {
	if u.shell != "" {
		return slices.ContainsFunc(programs(u.shell), u.startsNode)
	}
	return u.startsNode(texts(u.words))
}

func texts(words []word) (out []string) {
	for _, w := range words {
		out = append(out, strings.Trim(w.text, `"'`))
	}
	return out
}

// startsNode says whether a command starts node: it is node, a script for node, a
// shell's script that names node, or a program that executes one of these.
func (u *unwrapper) startsNode(words []string) bool {
	if len(words) == 0 {
		return false
	}
	program := words[0]
	name := filepath.Base(program)
	switch {
	case namesNode(words):
		return true
	case slices.Contains(runners, name) || slices.Contains(shells, name):
		for _, w := range words[1:] { // which of them is the program, only it knows
			if slices.ContainsFunc(programs(w), namesNode) || u.isForNode(w) {
				return true
			}
		}
		return false
	}
	return u.isForNode(program)
}

// namesNode says whether a command names node as its program, or behind one that
// executes the next of its arguments.
func namesNode(words []string) bool {
	name := filepath.Base(words[0])
	if isNode(name) || strings.HasPrefix(name, "$") && strings.Contains(strings.ToLower(name), "node") {
		return true
	}
	return slices.Contains(runners, name) &&
		slices.ContainsFunc(words[1:], func(w string) bool { return isNode(filepath.Base(w)) })
}

// isForNode looks into a program: a script for node, or one for a shell that names
// node, as pnpm's programs in node_modules/.bin.
func (u *unwrapper) isForNode(program string) bool {
	if program == "" || strings.HasPrefix(program, "-") {
		return false
	}
	path := u.find(program)
	head, err := readHead(path)
	if err != nil { // it lies elsewhere: the script may have changed its directory
		return strings.Contains(program, "node_modules/") ||
			strings.ContainsRune(program, '/') && slices.Contains([]string{".js", ".cjs", ".mjs"}, filepath.Ext(program))
	}
	name, ok := interpreter(head)
	switch {
	case ok && isNode(name):
		return true
	case ok && !slices.Contains(shells, name), !ok && bytes.IndexByte(head, 0) >= 0:
		return false
	}
	return slices.ContainsFunc(programs(string(head)), namesNode)
}

// find is the path of a program, as the script's shell would find it; "" if it would
// not.
func (u *unwrapper) find(program string) string {
	if filepath.IsAbs(program) {
		return program
	}
	if strings.ContainsRune(program, '/') {
		return filepath.Join(u.dir, program)
	}
	if bin := u.bin(program); bin != "" && u.bins {
		return bin
	}
	for _, dir := range append(filepath.SplitList(u.path), u.dir) { // the last for a shell's script
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

func readHead(path string) ([]byte, error) {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return nil, os.ErrNotExist // a pipe would wait for its writer
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	return io.ReadAll(io.LimitReader(f, maxScript))
}

// programs are the commands of a script, as far as they can be seen without a shell:
// each begins with the word that stands where a program does.
func programs(script string) (commands [][]string) {
	for line := range strings.SplitSeq(script, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		line = strings.NewReplacer("${", "$", "2>&1", "").Replace(line)
		for _, part := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(";&|()`", r) }) {
			words := strings.Fields(part)
			for i := range words {
				words[i] = strings.Trim(words[i], `"'`)
			}
			for len(words) > 0 && (words[0] == "" || words[0] == "exec" || words[0] == "elif" || words[0] == "time" || isReserved(words[0]) || assignment.MatchString(words[0])) {
				words = words[1:]
			}
			if len(words) > 0 {
				commands = append(commands, words)
			}
		}
	}
	return commands
}

package pm2

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// interpreters are those that PM2 takes by the end of a script's name; another end, or
// none, is a program by itself.
var interpreters = map[string]string{
	".js": "node", ".mjs": "node", ".cjs": "node", ".ts": "ts-node", ".tsx": "ts-node",
	".sh": "bash", ".py": "python3", ".rb": "ruby", ".php": "php", ".pl": "perl",
	".coffee": "coffee", ".ls": "lsc",
}

// takeCommand finds the name, the directory and the command.
func (t *taken) takeCommand(names map[string]bool) error {
	script, ok := t.table["script"].(string)
	if words, err := split(script); !ok || err == nil && (len(words) == 0 || words[0] == "") {
		return errors.New("it has no script")
	}
	t.cwd = filepath.Dir(t.File)
	if cwd, ok := t.table["cwd"].(string); ok && cwd != "" {
		if !filepath.IsAbs(cwd) {
			cwd = filepath.Join(t.cwd, cwd)
		}
		t.cwd = filepath.Clean(cwd)
	}
	t.takeName(script, names)
	args, err := t.words("args", "script_args")
	if err != nil {
		return err
	}
	interpreterArgs, err := t.words("node_args", "interpreter_args", "interpreterArgs")
	if err != nil {
		return err
	}
	interpreter := t.interpreter(script)
	switch {
	case interpreter != "":
		t.exec = append([]string{interpreter}, interpreterArgs...)
		t.exec = append(append(t.exec, script), args...)
	case t.there(script):
		t.exec = append([]string{t.within(t.resolved(script))}, args...)
	case strings.ContainsFunc(script, unicode.IsSpace): // a command line, which PM2 gives to a shell
		t.exec = append(t.shell(script), args...)
	default:
		t.exec = append([]string{script}, args...) // from $PATH, or not there: baton check says so
		if strings.Contains(script, "/") {
			t.exec[0] = t.within(t.resolved(script))
		}
	}
	if interpreter == "" && len(interpreterArgs) > 0 {
		t.note("node_args", "there is no interpreter that would take them: put them into exec")
	}
	t.node = runsNode(t.exec)
	return nil
}

// shell takes a command line apart, or leaves that to a shell.
func (t *taken) shell(line string) []string {
	words, err := split(line)
	switch {
	case err == nil && !strings.ContainsAny(line, "$`|&;<>(){}*?~#") && !strings.Contains(words[0], "="):
		return words
	case err == nil && !strings.ContainsAny(line, "`|&;<>()") && !strings.Contains(words[0], "="):
		return []string{"/bin/sh", "-c", "exec " + line}
	}
	t.note("script", "a shell runs the program and gets the signals in its place: name the program alone, if that can be")
	return []string{"/bin/sh", "-c", line}
}

// runsNode reports whether baton will find Node behind a command: it looks through the
// wrappers.
func runsNode(exec []string) bool {
	switch filepath.Base(exec[0]) {
	case "node", "nodejs", "npm", "yarn", "pnpm", "tsx", "ts-node", "cross-env":
		return true
	}
	return false
}

// takeName makes a name that baton takes and no other application of the file has.
func (t *taken) takeName(script string, names map[string]bool) {
	given, _ := t.table["name"].(string)
	if given == "" { // as PM2 has it
		given = strings.TrimSuffix(filepath.Base(script), filepath.Ext(script))
	}
	name := strings.Map(func(c rune) rune {
		if c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("._-", c)) {
			return c
		}
		return '-'
	}, given)
	name = strings.TrimLeft(name, "._-")
	name = name[:min(len(name), 60)]
	if name == "" {
		name = "app"
	}
	t.name = name
	for n := 2; names[t.name]; n++ {
		t.name = fmt.Sprintf("%s-%d", name, n)
	}
	names[t.name] = true
	if t.name != given {
		t.note("name", "%q is called %s here", given, t.name)
	}
}

func (t *taken) resolved(script string) string {
	if filepath.IsAbs(script) {
		return filepath.Clean(script)
	}
	return filepath.Join(t.cwd, script)
}

func (t *taken) there(script string) bool {
	info, err := os.Stat(t.resolved(script))
	return err == nil && info.Mode().IsRegular()
}

// interpreter is what runs a script; "" when it runs by itself.
func (t *taken) interpreter(script string) string {
	given, _ := t.table["interpreter"].(string)
	if given == "" {
		given, _ = t.table["exec_interpreter"].(string)
	}
	switch {
	case given == "none":
		return ""
	case strings.HasPrefix(given, "node@"):
		t.note("interpreter", "baton does not look for %s: give the path of that node in exec", given)
		return "node"
	case strings.HasPrefix(given, "./"), strings.HasPrefix(given, "../"):
		return t.within(t.resolved(given))
	case given != "":
		return given
	case !t.there(script):
		if strings.Contains(script, "/") || interpreters[filepath.Ext(script)] != "" {
			return interpreters[filepath.Ext(script)]
		}
		return ""
	}
	if known := interpreters[filepath.Ext(script)]; known != "" {
		return known
	}
	if t.byItself(script) {
		return ""
	}
	return "node"
}

// byItself reports whether the kernel can execute a file: it is ELF, or names its
// interpreter.
func (t *taken) byItself(script string) bool {
	f, err := os.Open(t.resolved(script))
	if err != nil {
		return true
	}
	defer f.Close() // read only
	begin := make([]byte, 4)
	n, _ := io.ReadFull(f, begin) // a file may be shorter
	head := string(begin[:n])
	return strings.HasPrefix(head, "#!") || head == "\x7fELF"
}

// words are the value of the first of some keys that is there: a list, or a line of
// words.
func (t *taken) words(keys ...string) ([]string, error) {
	for _, key := range keys {
		switch v := t.table[key].(type) {
		case nil:
			continue
		case string:
			words, err := split(v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			return words, nil
		case []any:
			var words []string
			for _, item := range v {
				word, ok := scalar(item)
				if !ok {
					return nil, fmt.Errorf("%s: it holds %s", key, kind(item))
				}
				words = append(words, word)
			}
			return words, nil
		default:
			if word, ok := scalar(v); ok {
				return []string{word}, nil
			}
			return nil, fmt.Errorf("%s is no string and no list, but %s", key, kind(v))
		}
	}
	return nil, nil
}

// split takes a line apart at its blanks, as a shell would that knows quotes and the
// backslash and nothing else.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	begun, quote := false, rune(0)
	runes := []rune(line)
	for i := 0; i < len(runes); i++ {
		switch c := runes[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(runes):
			i++
			word.WriteRune(runes[i])
			begun = true
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case unicode.IsSpace(c):
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed in %q", line)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

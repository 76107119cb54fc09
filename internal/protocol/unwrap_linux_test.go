package protocol

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/testkit"
)

// startUnwrapped runs a command of a project as a worker, as Unwrap has it.
func (s *stand) startUnwrapped(dir, command string, env ...string) *program {
	s.t.Helper()
	u, err := Unwrap(strings.Fields(command), dir, os.Getenv("PATH"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.dir = dir
	return s.start(append(env, u.Env...), u.Exec...)
}

func TestNpmKeepsTheChannelUnlessItIsSeenThrough(t *testing.T) {
	needsNode(t)
	if _, err := exec.LookPath("npm"); err != nil {
		testkit.Lack(t, "needs npm: %v", err)
	}
	dir := project(t, map[string]string{
		"start":    "cross-env TZ=UTC node server.js",
		"prestart": `node -e "if (process.channel) throw 1; require('fs').writeFileSync('built', '')"`,
		"plain":    "node server.js",
		"shell":    "node server.js; echo done",
		"migrate":  `node -e "if (process.channel) throw 1; require('fs').writeFileSync('migrated', '')"; node server.js`,
	})
	web, err := os.ReadFile("testdata/node/web.js")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server.js"), web, 0o600); err != nil {
		t.Fatal(err)
	}
	slot := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, slot)
	for _, command := range []string{"npm start", "yarn plain", "pnpm run shell", "npm run migrate"} {
		p := s.startUnwrapped(dir, command, port(slot.port(t))).ready()
		a := get(t, "tcp", slot.Address, "/")
		if direct := a.PID == p.cmd.Process.Pid; direct != (command != "pnpm run shell") {
			t.Errorf("%s: pid %d answers, %d was started", command, a.PID, p.cmd.Process.Pid)
		}
		p.end()
	}
	if _, err := os.Stat(filepath.Join(dir, "built")); err != nil {
		t.Errorf("prestart did not run: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "migrated")); err != nil {
		t.Errorf("what comes before the server did not run: %v", err)
	}

	s.dir = dir
	p := s.start([]string{port(slot.port(t)), "npm_config_update_notifier=false", "npm_config_cache=" + t.TempDir()}, "npm", "run", "plain")
	eventually(t, "npm itself to come online", func() bool { return strings.Contains(p.link.Hint(), "came online") })
	// The program binds the port itself, which is taken; or its process.send is missing.
	eventually(t, "the program's failure", func() bool {
		return p.out.count("EADDRINUSE") > 0 || p.out.count("process.send is not a function") > 0 || p.out.count("undefined") > 0
	})
	if hint := p.link.Hint(); !strings.Contains(hint, "a wrapper (npm, yarn, tsx, nodemon) seems to have taken the channel") {
		t.Errorf("hint %q", hint)
	}
	if len(p.box) != 0 {
		t.Errorf("ready by mistake: %+v", <-p.box)
	}
}

func TestScriptsRunAsAShellRunsThemInEachOther(t *testing.T) {
	dir := project(t, map[string]string{
		"seq": "echo one; echo two", "pair": "echo one && echo two", "piped": "echo one | cat; echo two",
		"and": "false && npm run seq", "or": "true || npm run pair", "semi": "false; npm run seq", "orelse": "false || npm run pair",
		"prebuilt": "false", "built": "echo one; echo two", "premade": "true", "made": "echo one; false; echo two",
		"show": "printenv A; printenv A | cat; printenv A", "with": "A=b npm run show", "each": "A='b c' npm run twice", "twice": "printenv A; printenv A",
		"shell": "true || npm run piped", "noshell": "false || npm run piped", "local": "A=b; printenv A; echo =$A",
		"late":     "exit 3; echo never",
		"andshell": "false && npm run piped", "orpre": "true || npm run made", "tail": "cat /dev/null; echo one; rm -f x",
	})
	for script, want := range map[string]string{
		"seq": "one two", "pair": "one two", "piped": "one two", "and": "", "or": "", "semi": "one two", "orelse": "one two",
		"built": "", "made": "one two", "with": "b b b", "each": "b c b c", "shell": "", "noshell": "one two", "andshell": "", "orpre": "", "local": "=b", "late": "", "tail": "one",
	} {
		u, err := Unwrap([]string{"npm", "run", script}, dir, os.Getenv("PATH"))
		if err != nil || !u.Changed {
			t.Errorf("%s: %+v, %v", script, u, err)
			continue
		}
		cmd := exec.Command(u.Exec[0], u.Exec[1:]...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), u.Env...)
		out, _ := cmd.Output() // its exit status is the script's own
		if got := strings.Join(strings.Fields(string(out)), " "); got != want {
			t.Errorf("%s: %q, want %q; by %q", script, got, want, u.Exec)
		}
	}
}

func TestTsxIsSeenThrough(t *testing.T) {
	needsNode(t)
	if testing.Short() {
		t.Skip("fetches tsx from the registry")
	}
	dir := project(t, map[string]string{"start": "tsx src/web.ts"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "tsx@4")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		testkit.Lack(t, "needs tsx from npm's registry: %v: %s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "src"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "src", "web.ts"), []byte(`
import { createServer } from 'node:http';
enum Words { Hello = '{"url":"typed"}' }
createServer((request, response) => response.end(Words.Hello as string)).listen(Number(process.env.PORT), (): void => { process.send!('ready'); });
`), 0o600); err != nil {
		t.Fatal(err)
	}
	slot := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, slot)
	p := s.startUnwrapped(dir, "npm start", port(slot.port(t))).ready()
	if a := get(t, "tcp", slot.Address, "/"); a.URL != "typed" {
		t.Errorf("%+v", a)
	}
	within(t, "drained", p.link.Drain())
}

func TestWordsAreThoseOfAShell(t *testing.T) {
	for _, line := range []string{
		`a b  c	d`, `'a b' "c d" e\ f`, `"a\"b\$c\d" 'x"y' \'z`, `a'b'"c"\d`, `'' "" x`, `a=b c={d,e} @f %g`, `x#y a~b`, `"it's"'"'`,
	} {
		out, err := exec.Command("sh", "-c", `for w in `+line+`; do printf '%s\n' "$w"; done`).Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		want := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		commands := parseScript("x " + line)
		if len(commands) != 1 {
			t.Errorf("%s: %+v", line, commands)
			continue
		}
		var got []string
		for _, w := range commands[0].words[1:] {
			got = append(got, w.text)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, a shell says %q", line, got, want)
		}
	}
	for line, want := range map[string]string{
		"a b; c": "[a b] ; [c]", "a;c;": "[a] ; [c] ;", "a && b || c": "[a] && [b] || [c]", "a\n\n b\n": "[a] ; [b] ;", "a &&\n b": "[a] && [b]", "'a;b' c": "[a;b c]",
	} {
		got := ""
		for _, c := range parseScript(line) {
			var words []string
			for _, w := range c.words {
				words = append(words, w.text)
			}
			got += fmt.Sprint(words, " ", c.then, " ")
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
	for _, line := range []string{"a | b", "a;; b", "; a", "a > b", "(a)", "a $(b)", "a `b`", `a "$(b)"`, "a\r\nb", "a \\\nb", "a \"\\\nb\"", "trap a EXIT; b", "exec a; b", "a & b", "# a", "a # b", "if a", "a '", `a "`, `a \`, "a && && b", "&& a", "a &&", "a ||", "a || | b", ""} {
		if got := parseScript(line); got != nil {
			t.Errorf("%s: taken for %+v", line, got)
		}
	}
}

package pm2

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"baton/internal/config"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the expected files under testdata anew")

// valid parses what was written, with a listener where that says that it has none.
func valid(t *testing.T, app App, dir string) {
	t.Helper()
	o := config.Options{}
	if app.Unlistened {
		if _, err := config.Parse(app.TOML, filepath.Join(dir, "x.toml"), o); err == nil {
			t.Errorf("%s is said to have no listener, and is valid", app.Name)
		}
		o.Set = []config.Setting{{Key: "listen", Value: []map[string]any{{"address": ":1"}}, From: "test"}}
	}
	c, err := config.Parse(app.TOML, filepath.Join(dir, "x.toml"), o)
	if err != nil {
		t.Errorf("%s: %v\n%s", app.Name, err, app.TOML)
		return
	}
	if c.Name != app.Name {
		t.Errorf("the name is %q, in the file %q", app.Name, c.Name)
	}
}

// An ecosystem file becomes what stands beside it, which is valid, and every key of it
// is in there or has a note.
func TestEcosystemsBecomeConfigurations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			apps, notes, err := Convert(text, Source{File: "/srv/shop/ecosystem.config.js", Out: "/srv/shop"})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, app := range apps {
				b.WriteString(app.TOML + "\n")
				valid(t, app, "/srv/shop")
			}
			for _, n := range notes {
				b.WriteString("besides: " + n.String() + "\n")
			}
			golden := strings.TrimSuffix(file, ".json") + ".want"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
		})
	}
}

func TestWhatIsNoEcosystem(t *testing.T) {
	for text, want := range map[string]string{
		``:                                   "not JSON",
		`7`:                                  "it is no object and no list, but a number",
		`null`:                               "but null",
		`{}`:                                 "it has no apps, and is no application either",
		`[]`:                                 "it has no applications",
		`{"apps": []}`:                       "it has no applications",
		`{"apps": "x"}`:                      "apps is no list, but a string",
		`{"apps": ["x"]}`:                    "application 1 is no object, but a string",
		`[{"name": "web"}]`:                  "application 1 (web): it has no script",
		`[{"script": "a"}, {"script": 7}]`:   "application 2: it has no script",
		`[{"script": "a", "args": "'x"}]`:    "args: a quote is not closed",
		`[{"script": "a", "args": {}}]`:      "args is no string and no list, but an object",
		`[{"script": "a", "args": [{}]}]`:    "args: it holds an object",
		`[{"script": "a", "node_args": {}}]`: "node_args is no string",
	} {
		if _, _, err := Convert([]byte(text), Source{File: "/x/e.js", Out: "/x"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// one converts a single application in a folder that has these files.
func one(t *testing.T, app string, files map[string]string) App {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	apps, _, err := Convert([]byte(app), Source{File: filepath.Join(dir, "ecosystem.config.js"), Out: dir})
	if err != nil {
		t.Fatal(err)
	}
	valid(t, apps[0], dir)
	return apps[0]
}

func TestThePortIsLookedForInTheScript(t *testing.T) {
	for text, want := range map[string]string{
		"x\napp.listen(process.env.PORT || 8081)":   "# The port is from a.js, line 2: is it the right one?\n[[listen]]\nname = \"http\"\naddress = \":8081\"\n",
		"const PORT = process.env.PORT ?? '8082'":   "address = \":8082\"",
		"server.listen(8083, '127.0.0.1')":          "address = \":8083\"",
		"let port = 8084;\nserver.listen(port)":     "address = \":8084\"",
		"connect({ port: 6379 })":                   "#[[listen]]\n",
		"server.listen(99999)":                      "#[[listen]]\n",
		"server.listen(process.env.PORT || '/a.s')": "#[[listen]]\n",
	} {
		if app := one(t, `{"script": "a.js"}`, map[string]string{"a.js": text}); !strings.Contains(app.TOML, want) {
			t.Errorf("%s:\n%s", text, app.TOML)
		}
	}
	// What the file says wins.
	if app := one(t, `{"script": "a.js", "env": {"PORT": "9"}}`, map[string]string{"a.js": "listen(8083)"}); !strings.Contains(app.TOML, `":9"`) {
		t.Error(app.TOML)
	}
}

func TestWhatRunsAScript(t *testing.T) {
	for app, want := range map[string]string{
		`{"script": "a.js"}`:                            `exec = ["node", "a.js"]`,
		`{"script": "elf"}`:                             `exec = ["./elf"]`,
		`{"script": "bang", "args": "-v"}`:              `exec = ["./bang", "-v"]`,
		`{"script": "plain"}`:                           `exec = ["node", "plain"]`,
		`{"script": "nginx"}`:                           `exec = ["nginx"]`,
		`{"script": "./bin/web"}`:                       `exec = ["./bin/web"]`,
		`{"script": "b.py", "interpreter": "pypy"}`:     `exec = ["pypy", "b.py"]`,
		`{"script": "npm start -- 'a b'"}`:              `exec = ["npm", "start", "--", "a b"]`,
		`{"script": "echo $HOME"}`:                      `exec = ["/bin/sh", "-c", "exec echo $HOME"]`,
		`{"script": "bang", "interpreter": "./plain"}`:  `exec = ["./plain", "bang"]`,
		`{"script": "a.js", "node_args": ["--x", "y"]}`: `exec = ["node", "--x", "y", "a.js"]`,
	} {
		got := one(t, app, map[string]string{"a.js": "", "elf": "\x7fELF...", "bang": "#!/bin/sh\n", "plain": "x"})
		if !strings.Contains(got.TOML, want+"\n") {
			t.Errorf("%s: want %s in\n%s", app, want, got.TOML)
		}
	}
}

func TestSplitIsAsAShellWould(t *testing.T) {
	for line, want := range map[string][]string{
		"":                   nil,
		"  a  b ":            {"a", "b"},
		`'a b' "c d" e\ f`:   {"a b", "c d", "e f"},
		`"" x`:               {"", "x"},
		`a'b'"c" "\"" '\'`:   {"abc", `"`, `\`},
		"--x=\"a b\"\t--y\n": {"--x=a b", "--y"},
	} {
		got, err := split(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}

// Whatever is in it, what is written is valid.
func FuzzConvert(f *testing.F) {
	for _, seed := range []string{ // short ones: Go takes a minute to shorten a long one
		`{"script": "a b\n'\"", "name": "\u0001", "uid": "a b", "watch": [""]}`,
		`[{"script": "x", "env_x": {"PORT": 70000}, "env": {"é": "\u007f", "PORT": 1}}]`,
		`{"apps": [{"script": "a.js", "instances": -1, "stop_exit_codes": [1, "2"]}], "deploy": 1}`,
		`{"script": "a.py", "cwd": "..", "restart_delay": 1e3, "min_uptime": "1h", "max_memory_restart": "1G"}`,
		`{"script": "n", "args": "start -p 80", "kill_timeout": 9, "wait_ready": 1, "nul": "\u0000"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		apps, _, err := Convert(text, Source{File: "/nowhere/e.js", Out: "/nowhere"})
		if err != nil {
			return
		}
		for _, app := range apps {
			valid(t, app, "/nowhere")
		}
	})
}

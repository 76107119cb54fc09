package protocol

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// project makes a folder with a package.json and some programs in node_modules/.bin.
func project(t *testing.T, scripts map[string]string, bins ...string) string {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(map[string]any{"name": "shop", "version": "1.2.3", "scripts": scripts})
	if err != nil {
		t.Fatal(err)
	}
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("package.json", string(data), 0o600)
	for _, bin := range bins {
		write("node_modules/.bin/"+bin, "#!/usr/bin/env node\n", 0o700)
		write("node_modules/"+bin+"/package.json", "{}", 0o600)
	}
	return dir
}

var scripts = map[string]string{
	"start":         "node server.js",
	"prod":          "NODE_ENV=production TZ='Europe/Vienna' node \"my server.js\" --a=\\$5",
	"cross":         "cross-env NODE_ENV=production A=\"b c\" node server.js",
	"nested":        "npm run cross -- --deep",
	"port":          "node server.js --port $PORT *.txt",
	"crossport":     "cross-env A=$B node server.js",
	"pipe":          "node server.js | pino-pretty",
	"chain":         "cd app && tsc -p . && NODE_ENV=x node server.js",
	"built":         "node server.js",
	"prebuilt":      "tsc # done",
	"postbuilt":     "echo bye",
	"shellbuilt":    "node a.js; node b.js",
	"preshellbuilt": "tsc",
	"ts":            "tsx --tsconfig tsconfig.app.json --env-file=.env src/index.ts",
	"dev":           "nodemon --inspect server.js",
	"watch":         "tsx watch src/index.ts",
	"nodewatch":     "node --watch server.js",
	"next":          "next start -p 3000",
	"execed":        "exec node server.js",
	"loop":          "npm run loop",
	"broken":        "node 'server.js",
	"empty":         "",
	"pm":            "pm2-runtime start app.js",
	"vars":          "dotenv -e .env -- node app.mjs",
	"viaNode":       "node --run start",
	"migrate":       "node migrate.js; npm run x;node server.js;",
	"lines":         "A=b\n\nnode migrate.js || exit 1\nnode server.js --a $A\n",
	"inner":         "tsc && npm run migrate",
	"bye":           "node migrate.js; node server.js; echo done; rm -f pid",
	"both":          "node a.js & node b.js",
	"piped":         "NODE_ENV=x node a.js 2>&1 | next --pretty",
	"either":        "node a.js || node b.js",
	"deep":          "npm start > log",
	"deepbye":       "npm start; echo bye",
	"saying":        "echo node, then node && node server.js | tee log",
	"trapped":       "trap 'rm pid' EXIT; node server.js",
}

func TestWhatAWrapperRunsInTheEnd(t *testing.T) {
	dir := project(t, scripts, "tsx", "next")
	bin := filepath.Join(dir, "node_modules", ".bin")
	const unset = "(unset NODE_CHANNEL_FD NODE_CHANNEL_SERIALIZATION_MODE NODE_UNIQUE_ID; "
	for command, want := range map[string]struct {
		exec []string
		env  []string // of the script itself
		note string
	}{
		"npm start":                    {exec: []string{"node", "server.js"}},
		"/usr/bin/npm start":           {exec: []string{"node", "server.js"}},
		"npm --silent start":           {exec: []string{"node", "server.js"}},
		"npm run start":                {exec: []string{"node", "server.js"}},
		"npm run-script -s start":      {exec: []string{"node", "server.js"}},
		"npm start -- --port 3":        {exec: []string{"node", "server.js", "--port", "3"}},
		"npm start x --port 3":         {exec: []string{"node", "server.js", "x", "3"}, note: "npm keeps --port for itself"},
		"yarn start --port 3":          {exec: []string{"node", "server.js", "--port", "3"}},
		"yarn run start":               {exec: []string{"node", "server.js"}},
		"yarn node server.js":          {exec: []string{"node", "server.js"}},
		"pnpm start -- x":              {exec: []string{"node", "server.js", "--", "x"}},
		"pnpm run start":               {exec: []string{"node", "server.js"}},
		"pnpm next x":                  {exec: []string{bin + "/next", "start", "-p", "3000", "x"}},
		"pnpm tsx a.ts":                {exec: []string{"node", "--import", "tsx", "a.ts"}},
		"pnpm exec next start":         {exec: []string{bin + "/next", "start"}},
		"npm exec -- next start":       {exec: []string{bin + "/next", "start"}},
		"npx next start":               {exec: []string{bin + "/next", "start"}},
		"npx -y tsx src/a.ts x":        {exec: []string{"node", "--import", "tsx", "src/a.ts", "x"}},
		"tsx src/a.ts":                 {exec: []string{"node", "--import", "tsx", "src/a.ts"}},
		"node --run start":             {exec: []string{"node", "server.js"}},
		"node --run=start -- a":        {exec: []string{"node", "server.js", "a"}},
		"yarn prod":                    {exec: []string{"node", "my server.js", "--a=$5"}, env: []string{"NODE_ENV=production", "TZ=Europe/Vienna"}},
		"npm run cross":                {exec: []string{"node", "server.js"}, env: []string{"NODE_ENV=production", "A=b c"}},
		"npm run nested":               {exec: []string{"node", "server.js", "--deep"}, env: []string{"NODE_ENV=production", "A=b c"}},
		"cross-env A=b node server.js": {exec: []string{"node", "server.js"}, env: []string{"A=b"}},
		"npx cross-env-x":              {note: "not in node_modules/.bin"},
		"npm run port":                 {exec: []string{"sh", "-c", "exec node server.js --port $PORT *.txt"}},
		"npm run port -- it's":         {exec: []string{"sh", "-c", `exec node server.js --port $PORT *.txt 'it'\''s'`}},
		"npm run crossport":            {exec: []string{"sh", "-c", "exec env A=$B node server.js"}},
		"npm run pipe":                 {exec: []string{"sh", "-c", "node server.js | pino-pretty"}, note: "a shell stays"},
		"npm run chain":                {exec: []string{"sh", "-c", "cd app && " + unset + "tsc -p .) && exec env NODE_ENV=x node server.js"}},
		"npm run built":                {exec: []string{"sh", "-c", unset + "tsc # done\n) && exec node server.js"}},
		"node --run built":             {exec: []string{"node", "server.js"}},
		"npm run shellbuilt":           {exec: []string{"sh", "-c", unset + "tsc\n) && { " + unset + "node a.js) ; exec node b.js\n}"}},
		"npm run migrate":              {exec: []string{"sh", "-c", unset + "node migrate.js) ; " + unset + "npm run x) ; exec node server.js"}},
		"npm run lines":                {exec: []string{"sh", "-c", "A=b ; " + unset + "node migrate.js) || exit 1 ; exec node server.js --a $A"}},
		"npm run inner":                {exec: []string{"sh", "-c", unset + "tsc) && { " + unset + "node migrate.js) ; " + unset + "npm run x) ; exec node server.js\n}"}},
		"npm run bye -- x":             {exec: []string{"sh", "-c", unset + "node migrate.js) ; node server.js; echo done; rm -f pid x"}, note: "a shell stays"},
		"npm run both":                 {note: `the script "both" starts node more than once`},
		"npm run piped":                {note: `the script "piped" starts node more than once`},
		"npm run either":               {note: `the script "either" starts node more than once`},
		"npm run deep":                 {note: `the script "deep" runs npm`},
		"npm run deepbye":              {note: `the script "deepbye" runs npm`},
		"npm run saying":               {exec: []string{"sh", "-c", "echo node, then node && node server.js | tee log"}, note: "a shell stays"},
		"npm run trapped":              {exec: []string{"sh", "-c", "trap 'rm pid' EXIT; node server.js"}, note: "a shell stays"},
		"npm run ts":                   {exec: []string{"node", "--import", "tsx", "--env-file=.env", "src/index.ts"}, env: []string{"TSX_TSCONFIG_PATH=tsconfig.app.json"}},
		"npm run next":                 {exec: []string{bin + "/next", "start", "-p", "3000"}},
		"npm run execed":               {exec: []string{"node", "server.js"}},
		"npm run viaNode":              {exec: []string{"node", "server.js"}},
		"npm run broken":               {exec: []string{"sh", "-c", "node 'server.js"}, note: "a shell stays"},
		"npm run dev":                  {note: `the script "dev" runs nodemon, which starts node as a child of its own`},
		"npm run watch":                {note: `"node", "--import", "tsx", "src/index.ts"`},
		"npm run nodewatch":            {note: `exec = ["node", "server.js"]`},
		"npm run pm":                   {note: "one configuration for each program"},
		"npm run vars":                 {note: `["node", "app.mjs"], and command.env_file`},
		"nodemon server.js":            {note: "nodemon starts node as a child"},
		"pm2 start app.js":             {note: `exec = ["node", "app.js"]`},
		"npm --prefix app start":       {note: "does not look through npm --prefix"},
		"npx -p tsx tsx a.ts":          {note: "does not look through npx -p"},
		"npm ci":                       {},
		"npm":                          {},
		"yarn install":                 {},
		"node server.js --watch":       {},
		"node server.js":               {},
		"python3 app.py":               {},
		"./server":                     {},
		"sh -c npm":                    {},
	} {
		got, err := Unwrap(strings.Fields(command), dir, "/bin")
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		changed := want.exec != nil
		if !changed {
			want.exec = strings.Fields(command)
		}
		if !slices.Equal(got.Exec, want.exec) || got.Changed != changed {
			t.Errorf("%s: %q, changed %v; want %q", command, got.Exec, got.Changed, want.exec)
		}
		if (want.note == "") != (got.Note == "") || !strings.Contains(got.Note, want.note) {
			t.Errorf("%s: note %q, want %q", command, got.Note, want.note)
		}
		if !changed && got.Env != nil {
			t.Errorf("%s: environment %q", command, got.Env)
		}
		if own := got.Env[len(got.Env)-len(want.env):]; !slices.Equal(own, want.env) {
			t.Errorf("%s: environment %q, want %q at the end", command, got.Env, want.env)
		}
	}
}

func TestAScriptGetsWhatNpmGivesIt(t *testing.T) {
	dir := project(t, scripts, "next")
	got, err := Unwrap([]string{"npm", "start"}, dir, "/usr/bin:/bin")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"PATH=" + dir + "/node_modules/.bin:/usr/bin:/bin",
		"npm_lifecycle_event=start", "npm_lifecycle_script=node server.js", "npm_command=start",
		"npm_package_json=" + dir + "/package.json", "npm_package_name=shop", "npm_package_version=1.2.3",
		"INIT_CWD=" + dir,
	}
	if !slices.Equal(got.Env, want) {
		t.Errorf("%q, want %q", got.Env, want)
	}
	if got, err := Unwrap([]string{"cross-env", "A=b", "node", "x"}, dir, "/bin"); err != nil || !slices.Equal(got.Env, []string{"A=b"}) {
		t.Errorf("without npm: %q, %v", got.Env, err)
	}
}

func TestWhatIsWrongWithAPackageIsSaid(t *testing.T) {
	dir := project(t, scripts)
	for command, want := range map[string]string{
		"npm run missing": `npm run: ` + dir + `/package.json: no script "missing"`,
		"yarn run empty":  `yarn run: ` + dir + `/package.json: no script "empty"`,
		"npm run loop":    "npm run: scripts that run each other",
	} {
		if _, err := Unwrap(strings.Fields(command), dir, ""); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", command, err, want)
		}
	}
	empty := t.TempDir()
	if _, err := Unwrap([]string{"npm", "start"}, empty, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without package.json: %v", err)
	}
	if got, err := Unwrap([]string{"yarn", "resourcemanager"}, empty, ""); err != nil || got.Changed {
		t.Errorf("another yarn: %+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(empty, "package.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"npm start", "pnpm serve"} {
		if _, err := Unwrap(strings.Fields(command), empty, ""); err == nil || !strings.Contains(err.Error(), "package.json: unexpected end of JSON input") {
			t.Errorf("%s: %v", command, err)
		}
	}
	// npm's own default.
	if err := os.WriteFile(filepath.Join(empty, "package.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap([]string{"npm", "start"}, empty, ""); err == nil {
		t.Error("neither a script nor server.js, and no error")
	}
	if err := os.WriteFile(filepath.Join(empty, "server.js"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Unwrap([]string{"npm", "start"}, empty, ""); err != nil || !slices.Equal(got.Exec, []string{"node", "server.js"}) {
		t.Errorf("%q, %v", got.Exec, err)
	}
}

func TestNodeIsSeenInWhatACommandComesDownTo(t *testing.T) {
	dir := project(t, nil, "next")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write("server", elf("TABLEFLIP_HAS_PARENT_7DIU3"))
	write("app.py", "#!/usr/bin/env python3\nimport node\n")
	write("cli", "#!/usr/bin/env -S node --no-warnings\n")
	write("start.sh", "#!/bin/sh\nset -e\nexec env A=b node server.js\n")
	write("go.sh", "#!/bin/sh\n# not; node\necho node\nexec ./server\n")
	write("plain", "cd x\nnode server.js\n") // a shell's, without saying so
	write("node_modules/.bin/shim", "#!/bin/sh\nbasedir=$(dirname \"$0\")\nif [ -x \"$basedir/node\" ]; then\n  exec \"$basedir/node\" \"$basedir/../x\" \"$@\"\nfi\n")
	write("node_modules/.bin/binary", "\x7fELF\x00\nnode server.js\n")
	for script, want := range map[string]bool{
		"node server.js": true, "/opt/node-20 server.js": true, "A=b node --port $PORT": true, "next start": true, "./node_modules/.bin/next": true,
		"shim start": true, "./cli": true, "./start.sh": true, "sh start.sh": true, "./plain": true, "cli": true, // in PATH
		"node server.js | tee log": true, "node server.js; echo done": true, "cd app && ../node_modules/.bin/elsewhere $A": true, "cd app && ./main.js": true,
		"dumb-init -- node server.js": true, "sh -c 'exec node server.js'": true, "${NODE:-node} server.js": true, "if true; then node server.js; fi": true,
		"node migrate.js; node server.js": true,

		"./server": false, "./server --port $PORT": false, "python3 app.py": false, "./app.py node": false, "./go.sh": false, "binary": false,
		"node build.js && ./server": false, "node build.js; ./server": false, "npm run build; ./server": false, "./server | tee node": false, "dumb-init ./server": false, "missing": false, "sh -c ./server": false,
		"cat start.sh": false, "cd app && ./missing": false,
	} {
		data, err := json.Marshal(map[string]any{"scripts": map[string]string{"start": script, "prestart": "node build.js"}})
		if err != nil {
			t.Fatal(err)
		}
		write("package.json", string(data))
		got, err := Unwrap([]string{"npm", "start"}, dir, dir+":/usr/bin:/bin")
		if err != nil || !got.Changed || got.Node != want {
			t.Errorf("%s: node %v, want %v; %+v, %v", script, got.Node, want, got, err)
		}
	}
	if got, err := Unwrap([]string{"node", "server.js"}, dir, "/bin"); err != nil || got.Node {
		t.Errorf("nothing was around it: %+v, %v", got, err)
	}
}

// FuzzUnwrapScript: whatever a script says, a shell gets the words back that were
// cut out of it.
func FuzzUnwrapScript(f *testing.F) {
	for _, s := range scripts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		for _, c := range parseScript(script) {
			if len(c.words) == 0 {
				t.Fatalf("%q: a command without words", script)
			}
			for _, w := range c.words {
				if w.raw {
					continue
				}
				again := parseScript("x " + w.quoted())
				if len(again) != 1 || len(again[0].words) != 2 || again[0].words[1] != w {
					t.Fatalf("%q: the word %q is %+v when quoted", script, w.text, again)
				}
			}
		}
	})
}

package protocol

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestThePreloadCanBeReadByAllAndGoesWithTheHub(t *testing.T) {
	publicTemp(t)
	hub := NewHub(HubOptions{})
	options := func() string {
		t.Helper()
		env := hub.node.nodeOptions([]string{"NODE_OPTIONS=--first", "A=b", "NODE_OPTIONS=--title=x"}, slog.New(slog.DiscardHandler))
		if len(env) != 1 || !strings.HasSuffix(env[0], "/drain.cjs --title=x") {
			t.Fatalf("%q", env)
		}
		return env[0]
	}
	first := options()
	if again := options(); again != first {
		t.Errorf("%q, then %q", first, again)
	}
	path := strings.TrimSuffix(strings.TrimPrefix(first, "NODE_OPTIONS=--require="), " --title=x")
	for name, want := range map[string]os.FileMode{path: 0o444, filepath.Dir(path): 0o755 | os.ModeDir} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	// Somebody cleans up; the next worker needs it all the same.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if again := options(); again == first {
		t.Errorf("still %q", again)
	}
	path = hub.node.preload.dirs.now.join(preloadName)
	// Somebody cleans up only the file.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	options()
	if text, err := os.ReadFile(path); err != nil || string(text) != string(drainScript) {
		t.Errorf("%q, %v", text, err)
	}
	if err := hub.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestNodeRunsWhereThePreloadCannotBeWritten(t *testing.T) {
	node := needsNode(t)
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	s.hub.node.preload.dirs.bases = []string{filepath.Join(t.TempDir(), "missing")}
	for range 2 {
		s.start([]string{port(web.port(t))}, node, "testdata/node/web.js").ready().end()
	}
	if s.log.count("without its preload") != 1 || s.log.count("no such file or directory") != 1 {
		t.Errorf("log: %s", s.log)
	}
}

func TestThePreloadIsTheWorkersAlone(t *testing.T) {
	node := needsNode(t)
	// A path that has to be quoted, with what ends a quotation in it.
	odd := publicTemp(t) + `/a "b\ c`
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", odd)
	for _, c := range []struct{ before, left string }{{"", "undefined"}, {"--no-warnings --stack-trace-limit=7", "--no-warnings --stack-trace-limit=7"}} {
		s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
		p := s.start([]string{"NODE_OPTIONS=" + c.before}, node, script(t, "children.js", `
const { Worker, isMainThread } = require('worker_threads');
console.log('mine', process.env.NODE_OPTIONS);
console.log(require('child_process').execFileSync(process.execPath, ['-p', '"child " + process.env.NODE_OPTIONS + Object.hasOwn(require("http").Server.prototype, "listen")'], { encoding: 'utf8' }).trim());
new Worker('console.log("thread", process.env.NODE_OPTIONS)', { eval: true }).on('exit', (code) => { console.log('exit', code); process.send('ready'); });
`)).ready()
		p.says("mine " + c.left)
		p.says("child " + c.left + "false")
		p.says("thread " + c.left)
		p.says("exit 0")
	}
}

func TestAProgramOfModulesIsDrainedPolitely(t *testing.T) {
	node := needsNode(t)
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	p := s.start([]string{port(web.port(t))}, node, script(t, "web.mjs", `
import { createServer } from 'node:http';
createServer((request, response) => response.end('ok')).listen(process.env.PORT, () => process.send('ready'));
`)).ready()
	k := keepAlive(t, web.Address, nil)
	if k.get(t, "/") {
		t.Error("closed before the drain")
	}
	drained := p.link.Drain()
	p.closes()
	if !k.get(t, "/") {
		t.Error("kept alive")
	}
	k.over(t)
	within(t, "drained", drained)
}

func TestAServerThatListensAgainKeepsConnectionsAlive(t *testing.T) {
	node := needsNode(t)
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	s.start([]string{port(web.port(t))}, node, script(t, "again.js", `
const server = require('http').createServer((request, response) => response.end('ok'));
const listen = (then) => server.listen(process.env.PORT, then);
listen(() => server.close(() => listen(() => process.send('ready'))));
`)).ready()
	k := keepAlive(t, web.Address, nil)
	for range 2 {
		if k.get(t, "/") {
			t.Error("closed by a server that serves")
		}
	}
}

func TestNodeOptionsAreQuotedAsNodeReadsThem(t *testing.T) {
	for path, want := range map[string]string{
		"/tmp/x/drain.cjs":   `--require=/tmp/x/drain.cjs --more`,
		"/a b/drain.cjs":     `--require="/a b/drain.cjs" --more`,
		`/a"b\c/drain.cjs`:   `--require="/a\"b\\c/drain.cjs" --more`,
		"/tmp/ü/drain.cjs":   `--require=/tmp/ü/drain.cjs --more`,
		"/tmp/x;y/drain.cjs": `--require=/tmp/x;y/drain.cjs --more`,
	} {
		if got := withPreload(path, "--more"); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got := withPreload("/d/drain.cjs", ""); got != "--require=/d/drain.cjs" {
		t.Error(got)
	}
}

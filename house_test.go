package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The house's own tests hold true what no compiler checks: which room may import
// which, who owns a library, that a package says what it is for, and that the
// documents point at something. They read sources and never run them.

const module = "baton"

// room is one package and the packages of ours that its code may import. A room
// that is not in the table fails the test: it gets a row here and one in
// docs/design.md, or it has no place.
type room struct {
	dir   string
	may   []string
	tests []string // its tests may besides
}

// What the rooms of the engine stand on. These import nothing of ours but what
// their own row says.
var foundations = []string{
	"handoff/machine", "health", "internal/cgroup", "internal/event", "internal/keep",
	"internal/process", "internal/protocol", "internal/socket",
}

// What the command line wires together; the engine's inside is not part of it.
var services = []string{
	"handoff", "health", "internal/apps", "internal/brief", "internal/cgroup", "internal/config", "internal/control", "internal/demo", "internal/event",
	"internal/hooks", "internal/keep", "internal/launcher", "internal/logs", "internal/pm2", "internal/process", "internal/socket", "internal/systemd",
	"internal/tui", "internal/upgrade", "internal/watch",
}

var rooms = []room{
	{dir: ".", may: []string{"internal/cli", "internal/process"}},
	{dir: "internal/cli", may: services},
	{dir: "internal/demo", may: []string{"handoff", "internal/config", "internal/event", "internal/launcher",
		"internal/load", "internal/process"}},
	{dir: "internal/launcher", may: append([]string{"handoff", "internal/config", "internal/control", "internal/hooks", "internal/logs",
		"internal/systemd", "internal/upgrade", "internal/watch"}, foundations...)},
	{dir: "internal/tui", may: []string{"internal/brief", "internal/control", "internal/event"}},
	{dir: "internal/control", may: []string{"internal/event", "internal/keep"}},
	{dir: "internal/upgrade", may: []string{"internal/event", "internal/keep", "internal/process"}},
	{dir: "handoff", may: foundations, tests: []string{"internal/logs"}},
	{dir: "handoff/machine"},
	{dir: "health"},
	{dir: "internal/apps"},
	{dir: "internal/brief"},
	{dir: "internal/cgroup", may: []string{"internal/process"}},
	{dir: "internal/config"},
	{dir: "internal/e2e", tests: []string{"internal/keep"}},
	{dir: "internal/event"},
	{dir: "internal/hooks", may: []string{"internal/event", "internal/process"}},
	{dir: "internal/keep"},
	{dir: "internal/load"},
	{dir: "internal/logs", may: []string{"internal/keep"}},
	{dir: "internal/pm2", may: []string{"internal/config"}},
	{dir: "internal/process", may: []string{"internal/keep", "internal/thread"}, tests: []string{"internal/protocol"}},
	{dir: "internal/protocol", may: []string{"internal/keep"}},
	{dir: "internal/socket", may: []string{"internal/keep", "internal/socket/diag", "internal/thread"}},
	{dir: "internal/socket/diag"},
	{dir: "internal/systemd", may: []string{"internal/keep"}},
	{dir: "internal/thread"},
	{dir: "internal/watch"},
	{dir: "internal/testkit/boot", may: []string{"internal/testkit"}},
	{dir: "internal/testkit/plain", may: []string{"internal/testkit"}},
	{dir: "internal/testkit/wire", may: []string{"internal/testkit"}},
	{dir: "internal/testkit", may: []string{"internal/load", "internal/process"}},
	{dir: "examples"}, // not one line but for its tests
	{dir: "examples/go-plain"},
	{dir: "examples/go-systemd"},
	{dir: "examples/go-tableflip"},
	{dir: "examples/go-worker", may: []string{"worker"}},
	{dir: "worker"}, // for other people's servers: nothing of ours, nothing of others
	{dir: "bench", may: []string{"internal/event", "internal/load"}},
	{dir: "bench/server"},
}

// Tests may stand on these besides, wherever they live.
var forTests = []string{"internal/event", "internal/load", "internal/process", "internal/testkit", "internal/testkit/boot", "internal/testkit/wire"}

// owners says which rooms may import a module that is not the standard library.
// The owner "tests" means every test and what only tests import, and no code that
// is shipped.
var owners = map[string][]string{
	"github.com/urfave/cli/v2":        {"internal/cli"},
	"github.com/BurntSushi/toml":      {"internal/config"},
	"github.com/cloudflare/tableflip": {"internal/upgrade", "examples/go-tableflip", "tests"},
	"github.com/lmittmann/tint":       {"internal/launcher", "internal/cli"},
	"github.com/google/renameio/v2":   {"internal/apps", "internal/cli", "internal/control", "internal/upgrade"},
	"github.com/mdlayher/netlink":     {"internal/socket", "internal/socket/diag"},
	"github.com/vishvananda/netlink":  {"internal/socket", "internal/socket/diag", "tests"},
	"github.com/vishvananda/netns":    {"tests"},
	"github.com/prometheus/procfs":    {"internal/process", "tests"},
	"github.com/cenkalti/backoff/v5":  {"handoff"},
	"golang.org/x/net":                {"internal/socket", "internal/socket/diag", "tests"},
	"golang.org/x/sync":               {"handoff", "internal/launcher", "internal/load", "tests"},
	"golang.org/x/sys": {"handoff", "internal/cgroup", "internal/config", "internal/control", "internal/logs", "internal/process", "internal/protocol", "internal/socket",
		"internal/socket/diag", "internal/systemd", "internal/upgrade", "bench", "tests"},
	"github.com/rogpeppe/go-internal":   {"tests"},
	"github.com/google/go-cmp":          {"tests"},
	"go.uber.org/goleak":                {"tests"},
	"go.yaml.in/yaml/v3":                {"tests"}, // reads the Deployment among the examples
	"pgregory.net/rapid":                {"tests"},
	"github.com/coreos/go-systemd/v22":  {"internal/systemd", "examples/go-systemd"},
	"github.com/fsnotify/fsnotify":      {"internal/logs", "internal/watch"},
	"github.com/elastic/go-seccomp-bpf": {"internal/process"},
	// Not charm.land/lipgloss/v2, nor bubbles, which needs it: before main it looks for
	// colours, for which it may run tmux, in each launcher and each worker's shim.
	"charm.land/bubbletea/v2":               {"internal/tui"},
	"github.com/charmbracelet/colorprofile": {"internal/tui"},
	"github.com/charmbracelet/x/ansi":       {"internal/tui"},
	"github.com/charmbracelet/x/term":       {"internal/tui"},
}

// source is one parsed file of the tree, whatever system it is built for.
type source struct {
	file  string // from the top, with slashes
	dir   string
	test  bool
	lines int
	set   *token.FileSet
	tree  *ast.File
}

func (s source) at(n ast.Node) string {
	return s.file + ":" + strconv.Itoa(s.set.Position(n.Pos()).Line)
}

// testing says whether only tests import the file's package.
func (s source) testing() bool {
	return s.dir == "internal/testkit" || strings.HasPrefix(s.dir, "internal/testkit/")
}

// files lists what lies in the tree under a suffix; hidden folders (.git) and
// testdata hold no code or pages of ours.
func files(t *testing.T, suffix string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, suffix):
			found = append(found, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sources parses every Go file of the main module; tools/ and examples/ may hold
// modules of their own and are skipped where they do.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, name := range files(t, ".go") {
		if ownModule(path.Dir(name)) {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{
			file: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"),
			lines: strings.Count(string(text), "\n"), set: set, tree: tree,
		})
	}
	if len(all) == 0 {
		t.Fatal("no Go file found: the test does not run at the top of the module")
	}
	return all
}

// ownModule reports whether dir, or a folder above it short of the top, has a go.mod.
func ownModule(dir string) bool {
	for ; dir != "." && dir != "/"; dir = path.Dir(dir) {
		if _, err := os.Stat(path.Join(dir, "go.mod")); err == nil {
			return true
		}
	}
	return false
}

func TestRoomsImportOneWay(t *testing.T) {
	table := map[string]room{}
	for _, r := range rooms {
		table[r.dir] = r
	}
	for _, s := range sources(t) {
		if strings.HasPrefix(s.dir, "examples/") {
			continue // programs for users: they show targets and import nothing of ours
		}
		r, known := table[s.dir]
		if !known {
			t.Errorf("%s: the room %s is in no table: give it a row in house_test.go and docs/design.md", s.file, s.dir)
			continue
		}
		for _, spec := range s.tree.Imports {
			name := importPath(t, spec)
			ours, inside := strings.CutPrefix(name, module+"/")
			if !inside || ours == s.dir || slices.Contains(r.may, ours) {
				continue
			}
			if s.test && (slices.Contains(forTests, ours) || slices.Contains(r.tests, ours)) {
				continue
			}
			t.Errorf("%s: %s may not import %s; it may import %v", s.at(spec), s.dir, ours, r.may)
		}
	}
}

func TestRoomsHaveNoCycle(t *testing.T) {
	may := map[string][]string{}
	for _, r := range rooms {
		may[r.dir] = r.may
	}
	var walk func(dir string, trail []string)
	walk = func(dir string, trail []string) {
		if slices.Contains(trail, dir) {
			t.Fatalf("the table goes round: %v -> %s", trail, dir)
		}
		for _, next := range may[dir] {
			if _, known := may[next]; !known {
				t.Errorf("%s may import %s, which has no row of its own", dir, next)
			}
			walk(next, append(slices.Clone(trail), dir))
		}
	}
	for _, r := range rooms {
		walk(r.dir, nil)
	}
}

func TestLibrariesHaveOwners(t *testing.T) {
	for _, s := range sources(t) {
		for _, spec := range s.tree.Imports {
			name := importPath(t, spec)
			first, _, _ := strings.Cut(name, "/")
			if !strings.Contains(first, ".") { // the standard library, or ours
				continue
			}
			lib, rooms := owner(name)
			switch {
			case lib == "":
				t.Errorf("%s: %s has no owner: name the room that uses it in house_test.go", s.at(spec), name)
			case slices.Contains(rooms, s.dir), (s.test || s.testing()) && slices.Contains(rooms, "tests"):
			default:
				t.Errorf("%s: %s belongs to %v, not to %s", s.at(spec), lib, rooms, s.dir)
			}
		}
	}
}

// owner finds the module that name belongs to, or "".
func owner(name string) (string, []string) {
	for lib, rooms := range owners {
		if name == lib || strings.HasPrefix(name, lib+"/") {
			return lib, rooms
		}
	}
	return "", nil
}

func importPath(t *testing.T, spec *ast.ImportSpec) string {
	t.Helper()
	name, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// The rules stay a reducer: no clock, no I/O, no goroutine, so that a text history
// replays to the same actions every time.
func TestRulesArePure(t *testing.T) {
	allowed := []string{"cmp", "errors", "fmt", "iter", "maps", "math", "slices", "sort", "strconv", "strings", "time"}
	for _, s := range sources(t) {
		if s.dir != "handoff/machine" || s.test {
			continue
		}
		for _, spec := range s.tree.Imports {
			if name := importPath(t, spec); !slices.Contains(allowed, name) {
				t.Errorf("%s: the rules import %s, which may do I/O or depend on chance", s.at(spec), name)
			}
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType, *ast.SendStmt:
				t.Errorf("%s: the rules use a goroutine or a channel", s.at(n))
			case *ast.SelectorExpr:
				if selects(n, "time", "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick") {
					t.Errorf("%s: the rules read a clock: time.%s", s.at(n), n.Sel.Name)
				}
			}
			return true
		})
	}
}

func selects(n *ast.SelectorExpr, pkg string, names ...string) bool {
	id, ok := n.X.(*ast.Ident)
	return ok && id.Name == pkg && slices.Contains(names, n.Sel.Name)
}

// calls are the system calls that belong to a room, whichever package offers them.
var calls = []struct {
	name  string
	from  []string // packages, by the name they go by
	match *regexp.Regexp
	rooms []string
}{
	{
		"a socket's", []string{"syscall", "unix"},
		regexp.MustCompile(`^(Socket|Socketpair|Bind|Listen|Connect|Accept4?|Shutdown|Setsockopt.*)$`),
		[]string{"internal/socket", "internal/socket/diag", "internal/protocol"},
	},
	{
		"a process's", []string{"syscall", "unix", "os", "exec"},
		regexp.MustCompile(`^(ForkExec|StartProcess|Exec|Command(Context)?|Wait4|Waitid|Kill|Pidfd.*|Prlimit|Setrlimit|Setpgid|Setsid|Set(res|re)?[ug]id|Setgroups|CloseRange)$`),
		[]string{"internal/process", "bench"},
	},
}

func TestSystemCallsHaveRooms(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.testing() || strings.HasPrefix(s.dir, "examples/") {
			continue
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			for _, c := range calls {
				if ok && slices.Contains(c.from, pkg.Name) && c.match.MatchString(sel.Sel.Name) && !slices.Contains(c.rooms, s.dir) {
					t.Errorf("%s: %s.%s is %s system call, which belongs to %v", s.at(sel), pkg.Name, sel.Sel.Name, c.name, c.rooms)
				}
			}
			return true
		})
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	docs := map[string]string{}  // of each folder, the longest
	names := map[string]string{} // of its package
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		names[s.dir] = s.tree.Name.Name
		if doc := s.tree.Doc.Text(); len(doc) > len(docs[s.dir]) {
			docs[s.dir] = doc
		}
	}
	for dir, name := range names {
		want := "Package " + name + " "
		if name == "main" {
			want = "Command "
		}
		if doc := docs[dir]; !strings.HasPrefix(doc, want) {
			t.Errorf("%s: the package's comment begins %q, not %q", dir, firstLine(doc), want)
		}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// net.Listener's File clears O_NONBLOCK on the description that all generations
// share (docs/design.md, shared mode), so nothing that is shipped may call it.
func TestNoListenerIsTurnedIntoAFile(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.dir != "handoff" && !strings.HasPrefix(s.dir, "internal/") {
			continue
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && len(call.Args) == 0 {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "File" {
					t.Errorf("%s: .File() changes the listener for every generation", s.at(n))
				}
			}
			return true
		})
	}
}

func TestTestsWaitForConditions(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		ast.Inspect(s.tree, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && selects(sel, "time", "Sleep") {
				t.Errorf("%s: a test sleeps; wait for what it waits for", s.at(sel))
			}
			return true
		})
	}
}

// docs/security.md says nothing that no test holds: each one it names is there.
func TestSecurityPageNamesTestsThatAreThere(t *testing.T) {
	there := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.tree.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test {
				there[f.Name.Name] = true
			}
		}
	}
	page, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`").FindAllSubmatch(page, -1)
	if len(names) == 0 {
		t.Error("docs/security.md names no test")
	}
	for _, m := range names {
		if name := string(m[1]); !there[name] && name != "TestName" {
			t.Errorf("docs/security.md: there is no %s", name)
		}
	}
}

// Beyond 500 lines a file is a question to its author; beyond 700 it is an answer.
func TestFilesStayShort(t *testing.T) {
	for _, s := range sources(t) {
		switch {
		case s.lines > 700:
			t.Errorf("%s has %d lines: it holds more than one thing", s.file, s.lines)
		case s.lines > 500:
			t.Logf("%s has %d lines: does it hold more than one thing?", s.file, s.lines)
		}
	}
}

// Where the kernel is not Linux baton says so in an error; it must still compile
// and vet, so that callers never ask which system they are on.
func TestOtherSystemsBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: compiles everything twice over")
	}
	for _, c := range []struct{ env, verb string }{{"GOOS=darwin", "vet"}, {"GOARCH=arm64", "build"}} {
		t.Run(c.env, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "go", c.verb, "./...")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", c.env)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s go %s ./...: %v\n%s", c.env, c.verb, err, out)
			}
		})
	}
}

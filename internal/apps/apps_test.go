package apps

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"baton/internal/process"

	"github.com/google/go-cmp/cmp"
)

func web() App {
	return App{Name: "web", Args: []string{"--listen", ":8080", "--", "./server", ""}, Directory: "/srv", Env: []string{"A=b c"},
		Started: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Saved: true, Unit: "/etc/systemd/system/baton-web.service"}
}

func TestWhatIsPutIsThereForNobodyElse(t *testing.T) {
	r := In(filepath.Join(t.TempDir(), "a", "lib"))
	if all, err := r.List(); err != nil || len(all) != 0 {
		t.Fatalf("nothing is there: %v, %v", all, err)
	}
	if _, err := r.Get("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of what is not known: %v", err)
	}
	want := web()
	for range 2 { // the second over the first
		if err := r.Put(want); err != nil {
			t.Fatal(err)
		}
		want.Saved = !want.Saved
	}
	want.Saved = !want.Saved
	got, err := r.Get("web")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for path, mode := range map[string]fs.FileMode{r.Path("web"): 0o600, r.dir: fs.ModeDir | 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	api := App{Name: "api", Directory: "/"}
	if err := r.Put(api); err != nil {
		t.Fatal(err)
	}
	if all, err := r.List(); err != nil || len(all) != 2 || all[0].Name != "api" || all[1].Name != "web" {
		t.Errorf("list: %v, %v", all, err)
	}
	if _, err := r.WriteEnvironment(want); err != nil {
		t.Fatal(err)
	}
	for range 2 { // of one that is not known, no error
		if err := r.Remove("web"); err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(r.dir + "/*"); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A file that a full disk or another hand has spoiled hides none of the others.
func TestABrokenFileHidesNoOther(t *testing.T) {
	r := In(t.TempDir())
	if err := r.Put(web()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(r.Path("web"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"half": string(whole[:len(whole)/2]), "empty": "", "other": string(whole), "list": "[]",
		"relative": `{"name":"relative","directory":"srv"}`, "env": `{"name":"env","directory":"/","env":["A"]}`,
		"nul": `{"name":"nul","directory":"/","args":["\u0000"]}`, ".hidden": "{}", "huge": strings.Repeat(" ", maxSize+1),
	} {
		if err := os.WriteFile(r.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.dir, ".web.json123"), nil, 0o600); err != nil { // renameio's, of a writer that was killed
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(r.Path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := r.List()
	if len(all) != 1 || all[0].Name != "web" {
		t.Errorf("list: %v", all)
	}
	for _, name := range []string{"half", "empty", "other", "list", "relative", "env", "nul", "huge", "pipe"} {
		if err == nil || !strings.Contains(err.Error(), r.Path(name)+": ") {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
}

func TestNoNameLeadsElsewhere(t *testing.T) {
	r := In(t.TempDir())
	for _, name := range []string{"", ".", "..", "../web", "a/b", ".web", "a\x00"} {
		a := web()
		a.Name = name
		_, got := r.Get(name)
		for what, err := range map[string]error{"put": r.Put(a), "get": got, "remove": r.Remove(name)} {
			if err == nil || !strings.Contains(err.Error(), "is no name") {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
}

// What is written is read by baton itself as systemd reads it.
func TestTheEnvironmentIsReadAsItWas(t *testing.T) {
	r := In(t.TempDir())
	a := web()
	a.Env = []string{"PLAIN=/bin:/usr/bin", "EMPTY=", "QUOTES=it's \"so\" `now` $HOME \\n", "LINES=a\nb\tc", "TAIL=a\\",
		"BASH_FUNC_x%%=() { :; }", "1A=x", "CONTROL=\x1b[31m"}
	left, err := r.WriteEnvironment(a)
	if err != nil || !cmp.Equal(left, []string{"BASH_FUNC_x%%", "1A", "CONTROL"}) {
		t.Errorf("left out: %q, %v", left, err)
	}
	info, err := os.Stat(r.Environment("web"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	release, err := process.Resolve(process.Command{Exec: []string{"/bin/sh"}, Base: []string{}, EnvFile: []string{r.Environment("web")}})
	if err != nil {
		t.Fatal(err)
	}
	defer release.Close()
	if diff := cmp.Diff(a.Env[:5], release.Env()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatWouldBeChangedIsNotKept(t *testing.T) {
	r := In(t.TempDir())
	for _, change := range []func(*App){
		func(a *App) { a.Args = append(a.Args, "\xff") }, func(a *App) { a.Env = append(a.Env, "A=\xff") }, func(a *App) { a.Directory = "/\xff" },
	} {
		a := web()
		change(&a)
		if err := r.Put(a); err == nil {
			t.Errorf("kept: %+v", a)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"name":"web","args":["--","x"],"directory":"/","env":["A=b"],"saved":true}`))
	f.Add([]byte(`{"name":"web","directory":"/","started":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"name":"web"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parse(text, "web")
		if err != nil {
			return
		}
		if a.Name != "web" || !filepath.IsAbs(a.Directory) {
			t.Errorf("taken: %+v", a)
		}
		r := In(t.TempDir()) // what is taken can be kept, and is the same again
		if err := r.Put(a); err != nil {
			t.Fatal(err)
		}
		if again, err := r.Get("web"); err != nil || again.Directory != a.Directory || len(again.Args) != len(a.Args) {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

// Commands that change different things of an application at once lose none of them.
func TestChangesAtOnceLoseNothing(t *testing.T) {
	r := In(filepath.Join(t.TempDir(), "lib"))
	if err := r.Put(App{Name: "web", Directory: "/"}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if err := r.Change("web", func(a App) App {
				a.Args = append(a.Args, strconv.Itoa(i))
				return a
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if a, err := r.Get("web"); err != nil || len(a.Args) != 40 {
		t.Errorf("%v, %d of 40", err, len(a.Args))
	}
}

// A change that leaves nothing forgets; one of what is not there, or cannot be read, that
// makes nothing of it leaves it alone.
func TestAChangeForgetsOnlyWhatItSaw(t *testing.T) {
	r := In(filepath.Join(t.TempDir(), "lib"))
	nothing := func(App) App { return App{} }
	if err := r.Change("web", nothing); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path("web"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Change("web", nothing); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.Path("web")); err != nil {
		t.Errorf("what cannot be read: %v", err)
	}
	if err := r.Change("web", func(App) App { return web() }); err != nil {
		t.Fatal(err)
	}
	if err := r.Change("web", nothing); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("forgotten: %v", err)
	}
}

package watch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"baton/internal/testkit"
)

func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func TestAFileThatIsWrittenOrReplacedIsToldOfOnce(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"in place", "echo more >>server"},
		{"from its beginning", "echo other >server"},
		{"by a rename", "echo other >server.new; mv server.new server"},
		{"by a rename from elsewhere", "mkdir -p out; echo other >out/server; mv out/server server"},
		{"by a link", "echo other >out; ln -f out server; rm out"},
		{"as sed does", "sed -i s/before/other/ server"},
		{"as vim does", "touch 4913; rm 4913; : >.server.swp; mv server server~; echo other >server; sync server; chmod 755 server; rm server~ .server.swp"},
		{"as emacs does", `ln -s me@here.1 .#server; echo x >'#server#'; mv server server~; echo other >server; rm .#server '#server#'`},
		{"as install does", "echo other >out; install -m 755 out server"},
		{"removed and back", "rm server; echo other >server"},
		{"in pieces", "for n in 1 2 3 4 5 6 7 8 9; do echo $n >>server; sleep 0.01; done"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, "server")
			w := watch(t, dir+"/server")
			shell(t, dir, c.script)
			w.tells(dir+"/server", "it was replaced")
			shell(t, dir, c.script) // the one that is there now is watched too
			w.tells(dir+"/server", "it was replaced again")
			w.silent("it was told of")
		})
	}
}

func TestAProgramThatIsBuiltIsToldOf(t *testing.T) {
	dir := tree(t)
	write(t, dir+"/go.mod", "module made\n")
	main := func(exit string) {
		write(t, dir+"/main.go", "package main\nimport \"os\"\nfunc main() { os.Exit("+exit+") }\n")
	}
	main("3")
	w := watch(t, dir+"/bin/server")
	for _, c := range []struct{ exit, want string }{{"3", "bin"}, {"4", "bin/server"}} {
		main(c.exit)
		shell(t, dir, "go build -o bin/server .")
		w.tells(dir+"/"+c.want, "go build")
		if err := exec.CommandContext(t.Context(), dir+"/bin/server").Run(); err == nil || err.Error() != "exit status "+c.exit {
			t.Errorf("when it was told of, the program was not complete: %v", err)
		}
	}
}

func TestADirectoryIsWatchedWithAllBelowIt(t *testing.T) {
	dir := tree(t, "config/main.toml", "config/old/deep/er/file")
	w := watch(t, dir+"/config")
	for _, c := range []struct{ script, want string }{
		{"echo x >config/main.toml", "main.toml"},
		{"echo x >config/old/deep/er/file", "old/deep/er/file"},
		{"echo x >config/added", "added"},
		{"mkdir -p config/a/b/c; echo x >config/a/b/c/file", "a"},
		{"echo x >config/a/b/c/file", "a/b/c/file"},
		{"mkdir config/a/b/c/d", "a/b/c/d"},
		{"echo x >config/a/b/c/d/file", "a/b/c/d/file"},
		{"rm config/main.toml", "main.toml"},
		{"mv config/a config/z", "a"},
		{"echo x >config/z/b/c/d/file", "z/b/c/d/file"},
		{"echo x >config/.env", ".env"},
		{"rm -r config/z/b/c/d", "z/b/c/d/file"},
		{"mv config/z gone", "z"},
		{"echo x >gone/b/c/file", ""},
		{"mkdir config/z", "z"},
		{"echo x >config/z/file", "z/file"},
	} {
		shell(t, dir, c.script)
		if c.want == "" {
			w.silent(c.script)
		} else {
			w.tells(dir+"/config/"+c.want, c.script)
		}
	}
	w.silent("all was told of")
}

// Directories that are made while the tree is being looked at have sent no event of
// their own.
func TestADirectoryThatAppearsDuringALookIsWatched(t *testing.T) {
	testkit.Leaks(t)
	dir := tree(t)
	for n := range 500 { // so that a look takes a while
		must(t, os.Mkdir(fmt.Sprintf("%s/a%d", dir, n), 0o755))
	}
	told := make(chan string, 100)
	w, err := New(Options{Paths: []string{dir}, Quiet: 10 * time.Millisecond,
		Changed: func(path string) { told <- path }, Failed: func(err error) { t.Error(err) }})
	must(t, err)
	defer w.Close()
	for n := range 30 {
		below := fmt.Sprintf("%s/%d/below", dir, n)
		must(t, os.Mkdir(filepath.Dir(below), 0o755))
		<-time.After(time.Duration(n) * time.Millisecond) // the look begins meanwhile, or not
		must(t, os.Mkdir(below, 0o755))
		<-told
		testkit.Wait(t, func() bool { // until nothing more is told of that
			select {
			case <-told:
				return false
			case <-time.After(100 * time.Millisecond):
				return true
			}
		}, "quiet")
		write(t, below+"/file", "x")
		select {
		case <-told:
		case <-time.After(30 * time.Second):
			t.Fatalf("a file in %s was not seen", below)
		}
	}
}

func TestWhatIsNoChangeIsNotToldOf(t *testing.T) {
	dir := tree(t, "bin/server", "config/main.toml", "config/.git/HEAD", "config/node_modules/a/index.js", "config/sub/file")
	w := watch(t, dir+"/bin/server", dir+"/config")
	for _, script := range []string{
		"chmod 700 bin/server config/main.toml config/sub config bin",
		"touch -a bin/server config/main.toml",
		"cat bin/server config/main.toml config/sub/file; ls -R config",
		"ln config/main.toml elsewhere; rm elsewhere",
		"echo x >bin/other; mkdir bin/more; rm -r bin/other bin/more",
		"echo x >config/.main.toml.swp; echo x >config/.main.toml.swx; echo x >config/main.toml~; echo x >config/4913; rm config/4913",
		"ln -s me@here.1 config/.#main.toml; echo x >'config/sub/#file#'; rm 'config/sub/#file#'",
		"mkdir config/old~; echo x >config/old~/file; rm -r config/old~",
		"echo x >config/.git/HEAD; mkdir config/.git/refs; rm -r config/.git/refs",
		"echo x >config/node_modules/a/index.js; mkdir config/node_modules/b",
		"mkdir -p config/sub/.git/objects config/sub/node_modules/c; echo x >config/sub/.git/HEAD; echo x >config/sub/node_modules/c/index.js",
	} {
		shell(t, dir, script)
		w.silent(script)
	}
	shell(t, dir, "echo x >config/sub/file")
	w.tells(dir+"/config/sub/file", "a real change")
	w.silent("it was told of")
}

func TestALinkThatLeadsElsewhereIsToldOf(t *testing.T) {
	dir := tree(t, "releases/1/bin/server", "releases/2/bin/server", "releases/3/bin/server", "current -> releases/1", "middle -> current", "live -> middle")
	w := watch(t, dir+"/live/bin/server")
	for _, c := range []struct{ script, want string }{
		{"echo x >releases/1/bin/server", "releases/1/bin/server"},
		{"ln -sfn releases/2 current", "current"},
		{"echo x >releases/2/bin/server", "releases/2/bin/server"},
		{"ln -s releases/3 new; mv -T new current", "current"},
		{"echo x >releases/3/bin/server", "releases/3/bin/server"},
		{"rm live; ln -s $PWD/releases/1 live", "live"},
		{"echo x >releases/1/bin/server", "releases/1/bin/server"},
	} {
		shell(t, dir, c.script)
		w.tells(dir+"/"+c.want, c.script)
	}
	shell(t, dir, "echo x >releases/2/bin/server; echo x >releases/3/bin/server; ln -sfn releases/1 current; rm -r releases/2")
	w.silent("changes of what the link does not lead to")
}

func TestAPathThatLeadsNowhereIsWaitedFor(t *testing.T) {
	dir := tree(t, "dangling -> nowhere/at/all", "a -> b", "b -> a", "file")
	w := watch(t, dir+"/x/y/server", dir+"/dangling", dir+"/a", dir+"/file/below")
	for _, c := range []struct{ script, want string }{
		{"mkdir x", ""},
		{"mkdir x/y", ""},
		{"echo x >x/y/server", "x/y/server"},
		{"rm -r x", ""},
		{"mkdir -p x/y", ""},
		{"echo x >x/y/server.new; mv x/y/server.new x/y/server", "x/y/server"},
		{"rm x/y/server", ""},
		{"echo x >x/y/server", "x/y/server"},
		{"mkdir -p nowhere/at", ""},
		{"echo x >nowhere/at/all", "nowhere/at/all"},
		{"rm dangling", ""},
		{"ln -s b c", ""},
		{"rm b; echo x >b", "b"},
		{"rm file; mkdir file; echo x >file/below", "file"},
	} {
		shell(t, dir, c.script)
		if c.want == "" {
			w.silent(c.script)
		} else {
			w.tells(dir+"/"+c.want, c.script)
		}
	}
}

func TestADirectoryOnTheWayMayBeExchanged(t *testing.T) {
	dir := tree(t, "app/bin/server", "app/config/main.toml", "app.new/bin/server", "app.new/config/main.toml")
	w := watch(t, dir+"/app/bin/server", dir+"/app/config")
	shell(t, dir, "mv app app.old; mv app.new app")
	w.tells(dir+"/app", "the exchange")
	shell(t, dir, "echo x >app.old/bin/server; echo x >app.old/config/main.toml")
	w.silent("changes of what was there before")
	for _, path := range []string{"app/bin/server", "app/config/main.toml"} {
		shell(t, dir, "echo x >"+path)
		w.tells(dir+"/"+path, "a change of "+path)
	}
	// The inode of a directory that is removed is often the next one's.
	for range 5 {
		shell(t, dir, "rm -r app/config; mkdir app/config")
		w.tells(dir+"/app/config/main.toml", "the directory was made anew")
		shell(t, dir, "echo x >app/config/main.toml")
		w.tells(dir+"/app/config/main.toml", "a change in it")
	}
	w.silent("all was told of")
	if kernel, ours := inotifyWatches(t), len(w.fs.WatchList()); kernel != ours {
		t.Errorf("the kernel keeps %d watches, of which %d are used", kernel, ours)
	}
}

// inotifyWatches counts what the kernel keeps for this process (proc_pid_fdinfo(5)).
func inotifyWatches(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fdinfo")
	must(t, err)
	for _, e := range all {
		text, _ := os.ReadFile("/proc/self/fdinfo/" + e.Name()) // one is gone: the listing's own
		n += strings.Count(string(text), "inotify wd:")
	}
	return n
}

func TestLinksInADirectoryAreFollowed(t *testing.T) {
	dir := tree(t, "secrets/tls/key", "shared/sub/file", "config/main.toml", "config/.git/HEAD",
		"config/key -> ../secrets/tls/key", "config/shared -> "+"../shared",
		"config/up -> ..", "config/root -> /", "config/self -> .", "shared/back -> ../config")
	w := watch(t, dir+"/config")
	for _, c := range []struct{ script, want string }{
		{"echo x >secrets/tls/key", "secrets/tls/key"},
		{"mv secrets/tls secrets/old; mkdir secrets/tls; echo x >secrets/tls/key", "secrets/tls"},
		{"echo x >secrets/tls/key", "secrets/tls/key"},
		{"echo x >shared/sub/file", "shared/sub/file"},
		{"echo x >shared/sub/more", "shared/sub/more"},
		{"rm config/key config/shared", "config/key"},
		{"ln -sfn sub config/sub; ln -s ../secrets config/secrets", "config/sub"},
		{"echo x >secrets/new", "secrets/new"},
	} {
		shell(t, dir, c.script)
		w.tells(dir+"/"+c.want, c.script)
	}
	shell(t, dir, "echo x >elsewhere; rm elsewhere; mkdir etc; echo x >etc/file")
	w.silent("changes above")
	shell(t, dir, "rm config/secrets")
	w.tells(dir+"/config/secrets", "a link was removed")
	shell(t, dir, "echo x >secrets/tls/key; echo x >shared/sub/file")
	w.silent("changes where links have led")
}

// Kubernetes mounts a ConfigMap so, and changes all of it by one rename.
func TestAConfigMapIsToldOf(t *testing.T) {
	dir := tree(t, "config/..1/main.toml", "config/..data -> ..1", "config/main.toml -> ..data/main.toml")
	w := watch(t, dir+"/config")
	shell(t, dir, `mkdir config/..2; echo x >config/..2/main.toml; ln -s ..2 config/..data_tmp; mv -T config/..data_tmp config/..data; rm -r config/..1`)
	w.tells(dir+"/config/..data_tmp", "the change")
	shell(t, dir, `mkdir config/..3; echo x >config/..3/main.toml`)
	w.silent("what nothing leads to yet")
}

func TestAPathThatIsGivenIsWatchedWhateverItsName(t *testing.T) {
	dir := tree(t, ".config/app/main.toml", "node_modules/app/index.js", "notes~")
	w := watch(t, dir+"/.config/app", dir+"/node_modules", dir+"/notes~")
	for _, path := range []string{".config/app/main.toml", "node_modules/app/index.js", "notes~"} {
		shell(t, dir, "echo x >"+path)
		w.tells(dir+"/"+path, "a change of "+path)
	}
}

// steadily writes to a file until the test says stop.
func steadily(t *testing.T, path string) (stop func()) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	done := make(chan struct{})
	var ends sync.WaitGroup
	ends.Go(func() { // ends with stop
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_, _ = io.WriteString(f, "x") // an error would show in what is told
			}
		}
	})
	return func() {
		close(done)
		ends.Wait()
		f.Close()
	}
}

func TestAChangeIsToldOfWhenItHasBeenQuiet(t *testing.T) {
	dir := tree(t, "server")
	w := watch(t, dir+"/server")
	stop := steadily(t, dir+"/server")
	testkit.Wait(t, func() bool {
		info, err := os.Stat(dir + "/server")
		return err == nil && info.Size() > 100
	}, "some of the file")
	if len(w.told) > 0 {
		t.Log("the machine was too busy for this")
	}
	stop()
	last := time.Now()
	w.next()
	if early := quiet - time.Since(last); early > 20*time.Millisecond {
		t.Errorf("it was told of %v before it had been quiet for %v", early, quiet)
	}
	w.silent("it was told of")
}

func TestWhatNeverRestsIsToldOfAllTheSame(t *testing.T) {
	dir := tree(t, "server")
	w := watch(t, dir+"/server")
	begin := time.Now()
	stop := steadily(t, dir+"/server")
	defer stop()
	for n := range 2 {
		if got := w.next(); got != dir+"/server" {
			t.Errorf("it told of %s", got)
		}
		t.Logf("told for the %d. time after %v", n+1, time.Since(begin))
	}
}

func TestSetGivesOtherPaths(t *testing.T) {
	dir := tree(t, "one", "two/file")
	w := watch(t, dir+"/one")
	w.Set([]string{w.extra, dir + "/two"})
	testkit.Wait(t, func() bool { // it takes effect soon
		write(t, dir+"/two/file", "x")
		select {
		case got := <-w.told:
			return got == dir+"/two/file"
		case <-time.After(2 * quiet):
			return false
		}
	}, "a change of the other path")
	testkit.Wait(t, func() bool { // the last of what was written above may be told of again
		w.n++
		write(t, w.extra, strings.Repeat("x", w.n))
		return w.next() == w.extra
	}, "quiet")
	write(t, dir+"/one", "x")
	w.silent("a change of what is not watched any more")
}

func TestAChangeWhileOneIsToldIsToldAfterIt(t *testing.T) {
	testkit.Leaks(t)
	dir := tree(t, "server")
	told, hold := make(chan string), make(chan struct{})
	w, err := New(Options{Paths: []string{dir + "/server"}, Quiet: 10 * time.Millisecond,
		Changed: func(path string) { told <- path; <-hold }, Failed: func(err error) { t.Error(err) }})
	must(t, err)
	defer w.Close()
	defer close(hold)
	for range 3 {
		write(t, dir+"/server", "x")
		<-told
		write(t, dir+"/server", "y") // while it is told
		hold <- struct{}{}
		<-told
		hold <- struct{}{}
	}
}

func TestItMayBeClosedAtAnyMoment(t *testing.T) {
	testkit.Leaks(t)
	dir := tree(t)
	for n := range 100 {
		must(t, os.Mkdir(fmt.Sprintf("%s/a%d", dir, n), 0o755))
	}
	for n := range 40 {
		w, err := New(Options{Paths: []string{dir}, Quiet: time.Millisecond,
			Changed: func(string) {}, Failed: func(err error) { t.Error(err) }})
		must(t, err)
		must(t, os.Mkdir(fmt.Sprintf("%s/b%d", dir, n), 0o755)) // it looks again
		<-time.After(time.Duration(n) * time.Millisecond / 10)
		w.Close()
		w.Close()
	}
}

// More events than the kernel keeps: those that are lost may have been of any path.
func TestLostEventsAreTakenForAChangeOfEverything(t *testing.T) {
	testkit.Leaks(t)
	dir := tree(t, "server", "begin")
	told, hold := make(chan string, 10), make(chan struct{})
	w, err := New(Options{Paths: []string{dir + "/begin", dir + "/server"}, Quiet: 10 * time.Millisecond,
		Changed: func(path string) { told <- path; <-hold }, Failed: func(err error) { t.Error(err) }})
	must(t, err)
	defer w.Close()
	defer close(hold)
	write(t, dir+"/begin", "x")
	<-told
	// Events that concern nobody fill the queue; equal ones in a row would be merged.
	a, err := os.Create(dir + "/a")
	must(t, err)
	defer a.Close()
	b, err := os.Create(dir + "/b")
	must(t, err)
	defer b.Close()
	for range 40_000 { // 16,384 is what a queue has by default
		_, _ = a.Write([]byte{1})
		_, _ = b.Write([]byte{1})
	}
	write(t, dir+"/server", "lost")
	hold <- struct{}{}
	if got := <-told; got != dir+"/begin" { // the first of all
		t.Errorf("it told of %s", got)
	}
}

// What was written before the watch was there is told when it is asked for, and once.
func TestWhatHasChangedSinceATimeIsTold(t *testing.T) {
	dir := tree(t, "app/server", "app/sub/a", "app/.git/x", "one", "link -> app/server")
	old := time.Now().Add(-time.Hour)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, old, old))
	}))
	w := watch(t, filepath.Join(dir, "app"), filepath.Join(dir, "one"))
	// As before New returned: the times are set, of which no event is told.
	touch := func(path string) {
		path = filepath.Join(dir, path)
		must(t, os.Chtimes(path, time.Now(), time.Now()))
	}
	since := time.Now()
	must(t, os.Chtimes(w.extra, old, old))
	w.Since(since)
	w.silent("nothing")
	must(t, os.Chtimes(w.extra, old, old))
	touch("app/.git/x")
	w.Since(since)
	w.silent("a change in .git")
	for _, path := range []string{"app/sub/a", "one"} {
		must(t, os.Chtimes(w.extra, old, old))
		touch(path)
		w.Since(since)
		w.tells(filepath.Join(dir, path), "a change before the watch")
		w.silent("its being told")
		must(t, os.Chtimes(filepath.Join(dir, path), old, old))
	}
}

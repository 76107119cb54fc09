package process

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func copyOf(t testing.TB, from, to string) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, to, string(b), 0o755)
}

// versions deploys two releases in two folders, as deployment tools do, with the
// link "current" to the first. Each program tells its version and directory.
func versions(t *testing.T) (root, link string) {
	t.Helper()
	root = t.TempDir()
	for _, v := range []string{"v1", "v2"} {
		dir := filepath.Join(root, v)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "version"), v+"\n", 0o644)
		write(t, filepath.Join(dir, "app"), "#!/bin/sh\necho "+v+" $(cat version)\n", 0o755)
	}
	link = filepath.Join(root, "current")
	if err := os.Symlink("v1", link); err != nil {
		t.Fatal(err)
	}
	return root, link
}

func relink(t *testing.T, link, to string) {
	t.Helper()
	if err := os.Symlink(to, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
}

func TestAReleaseStaysWhatItWasWhenTheLinkMoves(t *testing.T) {
	_, link := versions(t)
	c := Command{Exec: []string{"./app"}, Dir: link}
	old := resolve(t, c)
	if got := start(t, old).line(t); got != "v1 v1" {
		t.Errorf("before: %s", got)
	}
	relink(t, link, "v2")
	if got := start(t, old).line(t); got != "v1 v1" {
		t.Errorf("the old release after the link moved: %s", got)
	}
	if got := start(t, resolve(t, c)).line(t); got != "v2 v2" {
		t.Errorf("resolved afresh: %s", got)
	}
}

func TestAReplacedMovedOrDeletedExecutableStillRuns(t *testing.T) {
	for name, happens := range map[string]func(t *testing.T, path string){
		"replaced": func(t *testing.T, path string) {
			write(t, path+".new", "#!/bin/sh\necho new\n", 0o755)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"moved": func(t *testing.T, path string) {
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
		},
		"deleted": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"deleted with its folder": func(t *testing.T, path string) {
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run("program "+name, func(t *testing.T) {
			dir := t.TempDir() + "/bin"
			os.Mkdir(dir, 0o755)
			path := copyOf(t, "/bin/sh", filepath.Join(dir, "oldsh"))
			r := resolve(t, Command{Exec: []string{path, "-c", `[ -e /proc/$$/fd/3 ] && echo stray; echo old "$0"`, "zero"}})
			happens(t, path)
			if got := start(t, r).line(t); got != "old zero" {
				t.Errorf("%s, want the old program, and no descriptor 3", got)
			}
		})
		t.Run("script "+name, func(t *testing.T) {
			dir := t.TempDir() + "/bin"
			os.Mkdir(dir, 0o755)
			path := write(t, filepath.Join(dir, "app"), "#!/bin/sh\necho old \"$1\"\n", 0o755)
			r := resolve(t, Command{Exec: []string{path, "one"}})
			happens(t, path)
			fd, _ := socket(t)
			if got := start(t, r, func(s *Spec) { s.Files = []int{fd} }).line(t); got != "old one" {
				t.Errorf("%s, want the old script", got)
			}
		})
	}
}

func TestAnotherUserRunsADeletedScript(t *testing.T) {
	asRoot(t)
	path := write(t, t.TempDir()+"/app", "#!/bin/sh\nid -u\n", 0o755)
	r := resolve(t, Command{Exec: []string{path}, User: "nobody"})
	os.Remove(path)
	if got := start(t, r).line(t); got != "65534" {
		t.Errorf("uid %s", got)
	}
}

func TestTheFirstArgumentStaysWhatWasConfigured(t *testing.T) {
	dir := t.TempDir()
	self(t, dir, "real")
	if err := os.Symlink("real", filepath.Join(dir, "alias")); err != nil {
		t.Fatal(err)
	}
	r := resolve(t, Command{Exec: []string{"./alias"}, Dir: dir, Env: []string{behaviour + "=view"}})
	if r.Path() != dir+"/alias" || r.Real() != dir+"/real" || r.Dir() != dir {
		t.Errorf("path %s, real %s, dir %s", r.Path(), r.Real(), r.Dir())
	}
	v := start(t, r).view(t)
	if v.Args[0] != "./alias" || v.Comm != "alias" {
		t.Errorf("argv[0] %s, comm %s; want ./alias, alias", v.Args[0], v.Comm)
	}
	os.Remove(filepath.Join(dir, "alias"))
	if v := start(t, r).view(t); v.Args[0] != "./alias" || v.Comm != "real" {
		t.Errorf("without the link: argv[0] %s, comm %s; want ./alias, real", v.Args[0], v.Comm)
	}
}

func TestAScriptSeesTheBestNameThereIs(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "real"), "#!/bin/sh\necho \"$0\"\n", 0o755)
	link := filepath.Join(dir, "link")
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	r := resolve(t, Command{Exec: []string{link}})
	if got := start(t, r).line(t); got != link {
		t.Errorf("$0 is %s, want the path as configured, %s", got, link)
	}
	os.Remove(link)
	if got := start(t, r).line(t); got != dir+"/real" {
		t.Errorf("$0 is %s without the link, want %s/real", got, dir)
	}
	os.Remove(dir + "/real")
	fd, _ := socket(t)
	got := start(t, r, func(s *Spec) { s.Files = []int{fd, fd} }).line(t)
	if got != "/dev/fd/5" {
		t.Errorf("$0 is %s of a deleted script, want /dev/fd/5, behind the named descriptors", got)
	}
}

func TestTheProgramIsLookedUpInTheResultingPath(t *testing.T) {
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, filepath.Join(a, "tool"), "#!/bin/sh\n", 0o644) // not executable: passed over
	os.Mkdir(filepath.Join(b, "tool"), 0o755)
	want := write(t, filepath.Join(c, "tool"), "#!/bin/sh\n", 0o755)
	path := func(p string) Command {
		return Command{Exec: []string{"tool"}, Base: []string{"PATH=/nowhere"}, Env: []string{"PATH=" + p}}
	}
	if got := resolve(t, path(a+":"+b+":"+c)).Path(); got != want {
		t.Errorf("found %s, want %s", got, want)
	}
	if _, err := Resolve(path(a + ":" + b)); err == nil ||
		err.Error() != "exec "+a+"/tool: not executable (mode 0644): permission denied" {
		t.Errorf("%v", err)
	}
	t.Chdir(c)
	_, err := Resolve(path(".::relative"))
	if err == nil || err.Error() != "exec tool: no such file or directory in $PATH" || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("relative entries: %v", err)
	}
	if _, err := Resolve(Command{Exec: []string{"sh"}, Base: []string{}}); err != nil {
		t.Errorf("without PATH: %v", err)
	}
}

func TestARelativeProgramIsRelativeToTheDirectory(t *testing.T) {
	root, _ := versions(t)
	t.Chdir(root)
	if got := start(t, resolve(t, Command{Exec: []string{"./app"}, Dir: "v2"})).line(t); got != "v2 v2" {
		t.Errorf("relative to Dir: %s", got)
	}
	t.Chdir(filepath.Join(root, "v1"))
	if got := start(t, resolve(t, Command{Exec: []string{"../v2/app"}})).line(t); got != "v2 v1" {
		t.Errorf("relative to the launcher's directory: %s", got)
	}
}

func TestResolveNamesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	bad := write(t, filepath.Join(dir, "bad.env"), "A=1\nnonsense\n", 0o644)
	umask := 0o1000
	for want, c := range map[string]Command{
		"exec: no command given":                                      {},
		"chdir /no/such: no such file or directory":                   {Exec: []string{"sh"}, Dir: "/no/such"},
		"chdir /etc/passwd: not a directory":                          {Exec: []string{"sh"}, Dir: "/etc/passwd"},
		"user no-such: no such user":                                  {Exec: []string{"sh"}, User: "no-such"},
		"user 54321: no such user, and no group is named":             {Exec: []string{"sh"}, User: "54321"},
		"user 4294967295: no such user":                               {Exec: []string{"sh"}, User: "4294967295", Group: "0"},
		"group 4294967295: no such group":                             {Exec: []string{"sh"}, Group: "4294967295"},
		"user no-such-user: no such user":                             {Exec: []string{"sh"}, User: "no-such-user", Group: "0"},
		"group no-such: no such group":                                {Exec: []string{"sh"}, Group: "no-such"},
		`env "NOVALUE": not KEY=VALUE`:                                {Exec: []string{"sh"}, Env: []string{"NOVALUE"}},
		"env A: a NUL byte in it":                                     {Exec: []string{"sh"}, Env: []string{"A=\x00"}},
		"exec sh: a NUL byte in argument \"\\x00\"":                   {Exec: []string{"sh", "\x00"}},
		"env file " + dir + "/none: no such file or directory":        {Exec: []string{"sh"}, EnvFile: []string{dir + "/none"}},
		"env file " + dir + ": is a directory":                        {Exec: []string{"sh"}, EnvFile: []string{"-" + dir}},
		"env file " + bad + ":2: \"nonsense\" is not KEY=VALUE":       {Exec: []string{"sh"}, EnvFile: []string{bad}},
		"umask 01000: not between 0 and 0777":                         {Exec: []string{"sh"}, Umask: &umask},
		"limit nofile=x: \"x\" is not a number, a size, or unlimited": {Exec: []string{"sh"}, Limits: map[string]string{"nofile": "x"}},
		"limit core=2:1: the soft limit is above the hard one":        {Exec: []string{"sh"}, Limits: map[string]string{"core": "2:1"}},
		"limit core=99999999999T: \"99999999999T\" is too large":      {Exec: []string{"sh"}, Limits: map[string]string{"core": "99999999999T"}},
		"limit files: no such limit (there are as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack)": {Exec: []string{"sh"}, Limits: map[string]string{"files": "1"}},
	} {
		r, err := Resolve(c)
		if err == nil {
			r.Close()
		}
		if err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

func TestAClosedReleaseIsNotStarted(t *testing.T) {
	r := resolve(t, Command{Exec: []string{"/bin/true"}, Dir: "/"})
	r.Close()
	r.Close()
	if _, err := tryStart(t, r); err == nil || err.Error() != "exec /bin/true: the release is closed" {
		t.Error(err)
	}
}

func TestEnvFiles(t *testing.T) {
	text := "\ufeff# comment\n; another = one\n\n" +
		"A=1\r\n" +
		"  export B = two words  # no comment \n" +
		"exportC=3\n" +
		"D='single \"$x\" \\n'\n" +
		"E=\"double \\\"q\\\" \\$x \\\\ \\n\"\n" +
		"F=\"two\nlines\"\n" +
		"G=joined\\\nline\n" +
		"H=a'b'\"c\"d  \n" +
		"I=\n" +
		"J=' kept '  \n" +
		"K=a=b\n" +
		"L=back\\\\slash\\ \n" +
		"A=again"
	want := [][2]string{
		{"A", "1"}, {"B", "two words  # no comment"}, {"exportC", "3"}, {"D", `single "$x" \n`},
		{"E", `double "q" $x \ \n`}, {"F", "two\nlines"}, {"G", "joinedline"}, {"H", "abcd"}, {"I", ""},
		{"J", " kept "}, {"K", "a=b"}, {"L", `back\slash `}, {"A", "again"},
	}
	got, err := parseEnvFile(text)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\ngot  %q\nwant %q", err, got, want)
	}
	for text, want := range map[string]string{
		"A=1\n\nB='x\n":   "3: B: a single quote is never closed",
		"A=\"x\n\ny":      "1: A: a double quote is never closed",
		"A=\"x\\":         "1: A: a double quote is never closed",
		"A=\"a\nb\"\nC D": `3: "C D" is not KEY=VALUE`,
		"A B=1":           `1: "A B" is not a name`,
		"=1":              `1: "" is not a name`,
		"A=1\x00":         "1: A: a NUL byte in it",
	} {
		if _, err := parseEnvFile(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// FuzzEnvFile: whatever a file holds, reading it ends, without a panic, and what it
// yields can be an environment.
func FuzzEnvFile(f *testing.F) {
	for _, s := range []string{"A=1\n", "export A='x'", "A=\"\\", "A='", "\\", "=\n=", "A=\\\n\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pairs, err := parseEnvFile(text)
		if err != nil && pairs != nil {
			t.Error("both an error and values")
		}
		for _, kv := range pairs {
			if kv[0] == "" || strings.ContainsAny(kv[0], "=\x00\n") || strings.Contains(kv[1], "\x00") {
				t.Errorf("not for an environment: %q", kv)
			}
		}
	})
}

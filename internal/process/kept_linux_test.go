package process

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"baton/internal/protocol"
)

// keeps checks what a release says that it would bring back.
func keeps(t *testing.T, r *Release, want string) {
	t.Helper()
	if words, err := r.Kept(); err != nil || words != want {
		t.Errorf("it keeps %q, %v; want %q", words, err, want)
	}
}

// aged is a copy of sh, written an hour ago, that says what it was given to say.
func aged(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	copyOf(t, "/bin/sh", path)
	return ages(t, path)
}

func ages(t *testing.T, path string) string {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAKeptReleaseIsWholeWhateverLiesAtItsPath(t *testing.T) {
	for name, happens := range map[string]func(t *testing.T, dir string) error{
		"nothing": func(*testing.T, string) error { return nil },
		"overwritten by rename": func(t *testing.T, dir string) error {
			write(t, dir+"/v1/new", "#!/bin/sh\necho new\n", 0o755)
			return os.Rename(dir+"/v1/new", dir+"/v1/app")
		},
		"deleted": func(_ *testing.T, dir string) error { return os.Remove(dir + "/v1/app") },
		"moved":   func(_ *testing.T, dir string) error { return os.Rename(dir+"/v1/app", dir+"/v1/old") },
		"linked to and changed in its mode": func(_ *testing.T, dir string) error {
			if err := os.Chmod(dir+"/v1/app", 0o555); err != nil {
				return err
			}
			return os.Link(dir+"/v1/app", dir+"/v1/other")
		},
		"the link of its directory moved": func(t *testing.T, dir string) error {
			aged(t, dir+"/v2/app")
			relink(t, dir+"/current", "v2")
			return nil
		},
		"its directory renamed": func(_ *testing.T, dir string) error { return os.Rename(dir+"/v1", dir+"/v0") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			aged(t, dir+"/v1/app")
			write(t, dir+"/v1/version", "one\n", 0o644)
			if err := os.Symlink("v1", dir+"/current"); err != nil {
				t.Fatal(err)
			}
			r := resolve(t, Command{Exec: []string{"./app", "-c", "read v <version; echo old $v $KEPT"}, Dir: dir + "/current",
				Env: []string{"KEPT=env"}})
			if got := start(t, r).line(t); got != "old one env" {
				t.Fatalf("at first: %s", got)
			}
			if err := happens(t, dir); err != nil {
				t.Fatal(err)
			}
			keeps(t, r, "")
			if got := start(t, r).line(t); got != "old one env" {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
}

// refuses checks that a release says that it is another by now.
func refuses(t *testing.T, r *Release, want string) {
	t.Helper()
	words, err := r.Kept()
	if err == nil || words != "" || !regexp.MustCompile("^"+want+"$").MatchString(err.Error()) {
		t.Errorf("%q, %v\nwant %s", words, err, want)
	}
}

func TestAKeptReleaseThatWasWrittenIntoIsRefused(t *testing.T) {
	path := aged(t, t.TempDir()+"/app")
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const stamp = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+`
	r := resolve(t, Command{Exec: []string{path, "-c", "exit 0"}})
	start(t, r).ended(t)
	keeps(t, r, "")
	write(t, path, "#!/bin/sh\necho new\n", 0o755) // the same inode
	refuses(t, r, fmt.Sprintf("exec %s: the file was written into since it first ran: %d bytes then, 19 now", path, len(was)))
	write(t, path, strings.Repeat("x", len(was)), 0o755) // and of the same size
	refuses(t, r, fmt.Sprintf("exec %s: the file was written into since it first ran: modified %s then, %[2]s now", path, stamp))

	script := ages(t, write(t, t.TempDir()+"/app", "#!/bin/sh\nexit 0\n", 0o755))
	s := resolve(t, Command{Exec: []string{script}})
	write(t, script, "#!/bin/sh\nexit 33\n", 0o755)
	refuses(t, s, fmt.Sprintf("exec %s: the file was written into since it was resolved: 17 bytes then, 18 now", script))
	s.Close()
	refuses(t, s, "exec "+script+": the release is closed")
}

// A start waits for who still writes the file, so what counts is what was executed.
func TestAReleaseThatWasStillBeingWrittenIsWhatRanInTheEnd(t *testing.T) {
	path := aged(t, t.TempDir()+"/app")
	r := resolve(t, Command{Exec: []string{path, "-c", "exit 0"}})
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if s := start(t, r).ended(t); s.Code != 0 {
		t.Fatal(s)
	}
	keeps(t, r, "")
	if f, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("and more"); err != nil {
		t.Fatal(err)
	}
	refuses(t, r, `.*since it first ran: \d+ bytes then, \d+ now`)
}

func TestOfWhatIsInterpretedOnlyDirectoryAndEnvironmentAreKept(t *testing.T) {
	dir := t.TempDir()
	app := write(t, dir+"/app", "#!/bin/sh\nread v <version; echo old $v $0\n", 0o755)
	write(t, dir+"/version", "one\n", 0o644)
	r := resolve(t, Command{Exec: []string{"./app"}, Dir: dir})
	keeps(t, r, "only the directory and the environment: app is interpreted by sh")
	write(t, dir+"/new", "#!/bin/sh\necho new\n", 0o755)
	if err := os.Rename(dir+"/new", app); err != nil {
		t.Fatal(err)
	}
	keeps(t, r, "only the directory and the environment: app is interpreted by sh, under the name /dev/fd/N as its file is no longer where it was")
	if got := start(t, r).line(t); got != "old one /dev/fd/3" {
		t.Errorf("it says %s", got)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	keeps(t, r, "only the environment: the directory was removed, and app is interpreted by sh, under the name /dev/fd/N as its file is no longer where it was")

	for line, want := range map[string]string{
		"/usr/bin/env python3": "python3", "/usr/bin/env -S A=b /opt/node --x": "node", "/usr/bin/env": "env", " /bin/bash -e": "bash",
		"": "nothing",
	} {
		script := write(t, t.TempDir()+"/app", "#!"+line+"\n", 0o755)
		keeps(t, resolve(t, Command{Exec: []string{script}}), "only the directory and the environment: app is interpreted by "+want)
	}
}

func TestOfAProgramWhoseDirectoryWasRemovedTheRestIsKept(t *testing.T) {
	dir := t.TempDir() + "/v1"
	aged(t, dir+"/app")
	r := resolve(t, Command{Exec: []string{"./app", "-c", "echo old"}, Dir: dir})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	keeps(t, r, "all but the directory, which was removed")
	if got := start(t, r).line(t); got != "old" {
		t.Errorf("it says %s", got)
	}
}

func TestInterpretersAreKnownByName(t *testing.T) {
	dir := t.TempDir()
	python := aged(t, dir+"/python3.12")
	if err := os.Symlink("python3.12", dir+"/py"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{python, dir + "/py"} {
		keeps(t, resolve(t, Command{Exec: []string{path, "app.py"}}), "only the directory and the environment: python3.12 runs what lies on disk now")
	}
	for name, want := range map[string]bool{
		"node": true, "nodejs": true, "node-20": true, "php8.2": true, "sh": true, "su-exec": true, "tini": true, "beam.smp": true,
		"server": false, "nodes": false, "": false, "3": false, "env2server": false, "nginx": false,
	} {
		if got := interprets(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	// The protocols cannot look into these either.
	for _, name := range []string{"python3", "java", "bash", "beam.smp", "tini", "sudo", "Rscript"} {
		c, err := protocol.Choose(protocol.Settings{}, protocol.Program{
			Args: []string{name}, Path: "/bin/" + name, Real: "/bin/" + name,
			Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("\x7fELF")), nil },
		})
		if err != nil || !strings.Contains(fmt.Sprint(c.Why), "cannot be looked into") || !interprets(name) {
			t.Errorf("%s: %v, %v", name, c.Why, err)
		}
	}
}

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestATargetSeesWhatWasConfigured(t *testing.T) {
	dir := t.TempDir()
	umask := 0o027
	c := target(t, "view", "one", "", "b\xffd")
	c.Dir = dir
	c.Base = []string{"KEEP=base", "OVER=base", "bogus"}
	c.Env = append(c.Env, "OVER=env", "BYTES=\xff\xfe", "FILE=env")
	c.EnvFile = []string{write(t, filepath.Join(dir, "env"), "FILE=file\n", 0o600), "-missing"}
	c.Umask = &umask
	c.Limits = map[string]string{"fsize": "1G:3G", "nofile": "512:600"}
	r := resolve(t, c)
	p := start(t, r, func(s *Spec) { s.Env = append(s.Env, "LISTEN_PID=self", "WATCHDOG_PID=self", "PID=self") })
	v := p.view(t)

	if v.PID != p.PID() || v.PGID != p.PID() || v.PPID != os.Getpid() {
		t.Errorf("pid %d, group %d, parent %d; want %d, the same, %d", v.PID, v.PGID, v.PPID, p.PID(), os.Getpid())
	}
	if want := []string{exe(t), "one", "", "b\ufffdd"}; !slices.Equal(v.Args, want) {
		t.Errorf("args %q, want %q", v.Args, want)
	}
	// JSON in the test's own report turns bytes that are no UTF-8 into U+FFFD, one
	// each; had the shim done so, there would be three bytes for each of them.
	want := []string{"KEEP=base", "OVER=env", "PWD=" + dir, behaviour + "=view", "BYTES=\ufffd\ufffd",
		"FILE=file", fmt.Sprintf("LISTEN_PID=%d", p.PID()), fmt.Sprintf("WATCHDOG_PID=%d", p.PID()), "PID=self"}
	if !slices.Equal(v.Env, want) {
		t.Errorf("environment %q, want %q", v.Env, want)
	}
	if v.Dir != dir {
		t.Errorf("directory %s, want %s", v.Dir, dir)
	}
	if v.Umask != umask {
		t.Errorf("umask %#o, want %#o", v.Umask, umask)
	}
	if want := (syscall.Rlimit{Cur: 1 << 30, Max: 3 << 30}); v.Fsize != want {
		t.Errorf("fsize limit %v, want %v", v.Fsize, want)
	}
	if want := (syscall.Rlimit{Cur: 512, Max: 600}); v.Nofile != want {
		t.Errorf("nofile limit %v, want %v", v.Nofile, want)
	}
	if s := p.ended(t); s.Code != 0 || s.String() != "exit status 0" || s.MaxRSS < 1<<20 {
		t.Errorf("status %+v", s)
	}
}

func TestBytesThatAreNoUTF8ReachTheTarget(t *testing.T) {
	r := resolve(t, Command{Exec: []string{"sh", "-c", `printf '%s|%s\n' "$0" "$V"`, "a\xffz"}, Env: []string{"V=\xfe"}})
	if got, want := start(t, r).line(t), "a\xffz|\xfe"; got != want {
		t.Errorf("the target saw %q, want %q", got, want)
	}
}

func TestAStartMayHaveArgumentsOfItsOwn(t *testing.T) {
	r := resolve(t, Command{Exec: []string{"sh", "-c", "echo its own"}})
	p := start(t, r, func(s *Spec) { s.Args = []string{"sh", "-c", `echo "$0"`, "another"} })
	if got := p.line(t); got != "another" {
		t.Errorf("the target said %q", got)
	}
	if got := start(t, r).line(t); got != "its own" {
		t.Errorf("the next start said %q: the release was changed", got)
	}
}

func TestANumberCanBeLeftClosed(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r := resolve(t, Command{Exec: []string{"sh", "-c", `for n in 3 4 5; do if [ -e /proc/self/fd/$n ]; then printf "$n "; fi; done; echo`}})
	p := start(t, r, func(s *Spec) { s.Files = []int{int(null.Fd()), -1, int(null.Fd())} })
	if got := p.line(t); got != "3 5 " {
		t.Errorf("open in the target: %q, want 3 and 5", got)
	}
}

func TestTheExecutableCanBeReadAfterItWasReplaced(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "app"), "#!/bin/sh\nfirst", 0o755)
	r := resolve(t, Command{Exec: []string{path}})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "another", 0o755)
	f, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); string(b) != "#!/bin/sh\nfirst" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestTheExitIsToldAsItWas(t *testing.T) {
	for script, want := range map[string]string{
		"exit 7": "exit status 7", "kill -9 $$": "signal: killed", "kill -HUP $$": "signal: hangup",
	} {
		p := start(t, resolve(t, Command{Exec: []string{"/bin/sh", "-c", script}}))
		if got := p.ended(t).String(); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
		if p.Group() {
			t.Errorf("%s: the group outlives its only process", script)
		}
		if err := p.Kill(); err != nil {
			t.Errorf("%s: signalling a process that is gone: %v", script, err)
		}
	}
}

func TestAnExitBeforeStartReturnsIsReportedOnce(t *testing.T) {
	r := resolve(t, target(t, "exit", "3"))
	for range 200 {
		p := start(t, r)
		if s := p.ended(t); s.Code != 3 {
			t.Fatalf("%v, want exit status 3", s)
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID())); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("pid %d is not reaped after Done: %v", p.PID(), err)
		}
	}
}

func TestAPipeHeldByAGrandchildDoesNotHoldUpTheExit(t *testing.T) {
	p := start(t, resolve(t, target(t, "parent", "leave")))
	grandchild := p.number(t)
	p.line(t) // the grandchild is up, and has our pipes
	if s := p.ended(t); s.Code != 0 {
		t.Fatal(s)
	}
	if !p.Group() || !p.Contains(grandchild) || !slices.Equal(p.PIDs(), []int{grandchild}) {
		t.Errorf("group %v, contains %v, pids %v: the grandchild %d is left",
			p.Group(), p.Contains(grandchild), p.PIDs(), grandchild)
	}
	if p.Contains(p.PID()) {
		t.Error("it contains the main process, which is gone")
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grandchild is gone", func() bool { return !p.Group() })
}

func TestTheEndOfTheContextEndsAStart(t *testing.T) {
	dir := t.TempDir()
	path := self(t, dir, "busy")
	held := holdForWriting(t, path)
	defer held.Close()
	r := resolve(t, Command{Exec: []string{path}, Env: []string{behaviour + "=wait"}})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("enough"))
	defer cancel()
	begin := time.Now()
	_, err := Start(ctx, Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: -1, Stderr: 2})
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("it took %v: the shim was left to give up by itself", took)
	}
	if err == nil || err.Error() != "exec "+path+": enough" {
		t.Errorf("%v, want the context's cause", err)
	}
	if _, err := Start(ctx, Spec{Release: r}); err == nil || err.Error() != "enough" {
		t.Errorf("a start after its context ended: %v", err)
	}
}

// holdForWriting makes an executable of its own inode that is open for writing.
func holdForWriting(t *testing.T, path string) *os.File {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path) // it may be a link to the running test binary
	write(t, path, string(b), 0o755)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAnExecutableBeingWrittenIsWaitedFor(t *testing.T) {
	path := self(t, t.TempDir(), "busy")
	f := holdForWriting(t, path)
	r := resolve(t, Command{Exec: []string{path, "5"}, Env: []string{behaviour + "=exit"}})
	begin := time.Now()
	time.AfterFunc(150*time.Millisecond, func() { f.Close() })
	p := start(t, r)
	if took := time.Since(begin); took < 150*time.Millisecond {
		t.Errorf("started after %v, while it was being written", took)
	}
	if s := p.ended(t); s.Code != 5 {
		t.Error(s)
	}

	defer holdForWriting(t, path).Close()
	_, err := tryStart(t, resolve(t, Command{Exec: []string{path}}))
	if !errors.Is(err, syscall.ETXTBSY) || !strings.Contains(err.Error(), path+": text file busy (still open for writing after 1s)") {
		t.Errorf("%v, want text file busy", err)
	}
}

func TestWhatCannotRunSaysWhy(t *testing.T) {
	dir := t.TempDir()
	elf, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "plain"), "#!/bin/sh\n", 0o644)
	write(t, filepath.Join(dir, "empty"), "", 0o755)
	write(t, filepath.Join(dir, "truncated"), string(elf[:40]), 0o755)
	write(t, filepath.Join(dir, "text"), "echo no interpreter line\n", 0o755)
	write(t, filepath.Join(dir, "orphan"), "#!/no/such/interpreter -x\necho\n", 0o755)
	os.Mkdir(filepath.Join(dir, "folder"), 0o755)
	unix.Mkfifo(filepath.Join(dir, "pipe"), 0o755)
	for name, want := range map[string]struct {
		errno syscall.Errno
		text  string
	}{
		"missing":   {syscall.ENOENT, "no such file or directory"},
		"plain/x":   {syscall.ENOTDIR, "not a directory"},
		"plain":     {syscall.EACCES, "not executable (mode 0644): permission denied"},
		"folder":    {syscall.EISDIR, "is a directory"},
		"pipe":      {syscall.EACCES, "not a regular file: permission denied"},
		"empty":     {syscall.ENOEXEC, "exec format error (the file is empty)"},
		"truncated": {syscall.ENOEXEC, "exec format error (neither a complete program for this machine nor a script with #!)"},
		"text":      {syscall.ENOEXEC, "exec format error (neither a complete program for this machine nor a script with #!)"},
		"orphan":    {syscall.ENOENT, "no such file or directory (its interpreter is missing: /no/such/interpreter -x)"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			r, err := Resolve(Command{Exec: []string{path}})
			if err == nil {
				defer r.Close()
				_, err = tryStart(t, r)
			}
			if err == nil || err.Error() != "exec "+path+": "+want.text || !errors.Is(err, want.errno) {
				t.Errorf("%v\nwant exec %s: %s", err, path, want.text)
			}
		})
	}
}

func TestAStepThatIsNotAllowedIsNamed(t *testing.T) {
	r := resolve(t, Command{Exec: []string{"/bin/true"}, Limits: map[string]string{"nofile": "unlimited"}})
	_, err := tryStart(t, r) // beyond fs.nr_open, for root as well
	if err == nil || err.Error() != "setrlimit nofile: operation not permitted" || !errors.Is(err, syscall.EPERM) {
		t.Errorf("%v", err)
	}
}

func TestAUserWhoMayNotExecuteIsNamed(t *testing.T) {
	asRoot(t)
	path := write(t, filepath.Join(t.TempDir(), "app"), "#!/bin/sh\n", 0o700)
	_, err := tryStart(t, resolve(t, Command{Exec: []string{path}, User: "nobody"}))
	if err == nil || err.Error() != "exec "+path+": permission denied (as user nobody)" || !errors.Is(err, syscall.EACCES) {
		t.Errorf("%v", err)
	}
}

func TestAnEnvironmentThatIsTooLongIsNamed(t *testing.T) {
	// One string may have 32 pages (MAX_ARG_STRLEN, execve(2)).
	_, err := tryStart(t, resolve(t, Command{Exec: []string{"/bin/true"}, Env: []string{"A=" + strings.Repeat("x", 1<<20)}}))
	want := "exec /bin/true: argument list too long (arguments and environment together, or one of them alone)"
	if err == nil || err.Error() != want || !errors.Is(err, syscall.E2BIG) {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestStatusReadsAsAPersonWouldSayIt(t *testing.T) {
	for want, s := range map[string]Status{
		"exit status 1":                           {Code: 1},
		"signal: killed":                          {Code: -1, Signal: syscall.SIGKILL},
		"signal: aborted (core dumped)":           {Code: -1, Signal: syscall.SIGABRT, CoreDumped: true},
		"exit status unknown: no child processes": statusOf(0, unix.Rusage{}, unix.ECHILD),
	} {
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

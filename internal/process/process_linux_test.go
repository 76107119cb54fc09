package process

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is shim, target and grandchild in turn: the launcher's own way of
// starting things is what is tested.
const behaviour = "PROCESS_TEST_TARGET"

func TestMain(m *testing.M) {
	Main()
	if name, ok := os.LookupEnv(behaviour); ok {
		do, ok := targets[name]
		if !ok {
			fmt.Fprintln(os.Stderr, "no such target:", name)
			syscall.Exit(99)
		}
		// Not os.Exit: under the race detector that takes a second.
		do(os.Args[1:])
		syscall.Exit(0)
	}
	os.Exit(m.Run())
}

// view is what a target finds itself to be.
type view struct {
	PID, PGID, PPID  int
	UID, GID         int
	Groups           []int
	Args, Env        []string
	Dir              string
	Umask            int
	Nofile, Fsize    syscall.Rlimit
	FDs              map[int]string // readlink of /proc/self/fd
	CloseOnExec      []int
	Ignored, Blocked string // signal sets of /proc/self/status
	Comm             string
}

var targets = map[string]func(args []string){
	"exit": func(args []string) {
		code, _ := strconv.Atoi(args[0])
		syscall.Exit(code)
	},
	// Is a launcher that never comes to list the process that it starts.
	"lists": func([]string) {
		r, err := Resolve(Command{Exec: []string{"sleep", "600"}})
		if err != nil {
			panic(err)
		}
		_, _ = Start(context.Background(), Spec{Release: r, Stdin: -1, Stdout: -1, Stderr: 2, Listed: func(pid int) {
			fmt.Println(pid)
			select {} // until it is killed
		}})
	},
	"view": func([]string) {
		b, err := json.Marshal(look())
		if err != nil {
			panic(err)
		}
		os.Stdout.Write(b)
	},
	// Says that it is up, then waits for the end of its stdin.
	"wait": func([]string) {
		fmt.Println("up")
		io.Copy(io.Discard, os.Stdin)
	},
	// Ignores TERM; says so; ends with stdin.
	"stubborn": func([]string) {
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("up")
		io.Copy(io.Discard, os.Stdin)
	},
	// Starts a grandchild that waits, tells its pid, and waits (or exits).
	"parent": func(args []string) {
		os.Setenv(behaviour, "wait")
		attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
		if len(args) > 1 && args[1] == "own-group" {
			attr.Sys = &syscall.SysProcAttr{Setsid: true}
		}
		g, err := os.StartProcess("/proc/self/exe", os.Args[:1], attr)
		if err != nil {
			panic(err)
		}
		fmt.Println(g.Pid)
		if args[0] == "stay" {
			g.Wait()
		}
	},
}

func look() view {
	v := view{
		PID: os.Getpid(), PGID: unix.Getpgrp(), PPID: os.Getppid(), UID: os.Getuid(), GID: os.Getgid(),
		Args: os.Args, Env: os.Environ(), FDs: map[int]string{},
	}
	v.Groups, _ = os.Getgroups()
	sort.Ints(v.Groups)
	v.Dir, _ = os.Readlink("/proc/self/cwd")
	v.Umask = syscall.Umask(0)
	// Not Getrlimit alone: Go has raised its own soft limit by now.
	v.Nofile = original()
	syscall.Getrlimit(syscall.RLIMIT_FSIZE, &v.Fsize)
	for fd := range 1024 {
		if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
			v.FDs[fd] = to
			if fl, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); fl&unix.FD_CLOEXEC != 0 {
				v.CloseOnExec = append(v.CloseOnExec, fd)
			}
		}
	}
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if s, ok := strings.CutPrefix(line, "SigIgn:\t"); ok {
			v.Ignored = s
		}
		if s, ok := strings.CutPrefix(line, "SigBlk:\t"); ok {
			v.Blocked = s
		}
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	v.Comm = strings.TrimSpace(string(comm))
	return v
}

// original is the soft limit of descriptors as it was before Go raised it.
func original() (l syscall.Rlimit) {
	restoreNofile()
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return l
}

// self is a copy of the test binary, where a test may move and replace it.
func self(t testing.TB, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.Link(exe(t), path); err == nil {
		return path
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b), 0o755)
	return path
}

func exe(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t testing.TB, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // WriteFile's is subject to umask
		t.Fatal(err)
	}
	return path
}

func resolve(t testing.TB, c Command) *Release {
	t.Helper()
	r, err := Resolve(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// target is a Command that runs the test binary with that behaviour.
func target(t testing.TB, name string, args ...string) Command {
	return Command{
		Exec: append([]string{exe(t)}, args...),
		Env:  []string{behaviour + "=" + name},
	}
}

// talk is a process with pipes on its stdin and stdout.
type talk struct {
	*Process
	in, out *os.File
}

// start starts a release with pipes; they and it are gone when the test ends.
func start(t testing.TB, r *Release, change ...func(*Spec)) talk {
	t.Helper()
	p, err := tryStart(t, r, change...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryStart(t testing.TB, r *Release, change ...func(*Spec)) (talk, error) {
	t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Raw numbers: a Fd() of these pipes is nobody else's.
	s := Spec{Release: r, Env: r.Env(), Stdin: int(inR.Fd()), Stdout: int(outW.Fd()), Stderr: 2}
	for _, f := range change {
		f(&s)
	}
	p, err := Start(t.Context(), s)
	inR.Close()
	outW.Close()
	tk := talk{p, inW, outR}
	t.Cleanup(func() {
		inW.Close()
		if p != nil {
			p.Kill()
			<-p.Done()
		}
		outR.Close()
	})
	return tk, err
}

// line reads one line of what the process says.
func (k talk) line(t testing.TB) string {
	t.Helper()
	k.out.SetReadDeadline(time.Now().Add(time.Minute))
	var b []byte
	for one := make([]byte, 1); ; {
		if _, err := k.out.Read(one); err != nil {
			t.Fatalf("reading a line after %q: %v", b, err)
		}
		if one[0] == '\n' {
			return string(b)
		}
		b = append(b, one[0])
	}
}

func (k talk) number(t testing.TB) int {
	t.Helper()
	n, err := strconv.Atoi(k.line(t))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// view reads what the target "view" found.
func (k talk) view(t testing.TB) (v view) {
	t.Helper()
	k.out.SetReadDeadline(time.Now().Add(time.Minute))
	b, err := io.ReadAll(k.out)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	return v
}

func (k talk) ended(t testing.TB) Status {
	t.Helper()
	select {
	case <-k.Done():
	case <-time.After(time.Minute):
		t.Fatal("the process has not ended within a minute")
	}
	return k.Status()
}

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func asRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it changes users")
	}
}

func BenchmarkStart(b *testing.B) {
	r := resolve(b, Command{Exec: []string{"/bin/true"}})
	b.Run("shim", func(b *testing.B) {
		for b.Loop() {
			p, err := Start(context.Background(), Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: 1, Stderr: 2})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			<-p.Done()
			b.StartTimer()
		}
	})
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			p.Wait()
			b.StartTimer()
		}
	})
	runtime.KeepAlive(r)
}

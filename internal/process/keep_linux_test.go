package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

func init() {
	// Ends with 7 when it is told to end.
	targets["obedient"] = func([]string) {
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		fmt.Println("up")
		<-told
		syscall.Exit(7)
	}
	// Starts an obedient child, says what the next launcher has to know, and obeys.
	targets["former launcher"] = func([]string) {
		estate := inherit()
		text, err := json.Marshal(estate)
		must(err)
		fmt.Printf("%s\n", text)
		io.Copy(io.Discard, os.Stdin)
	}
	// Does the same, and becomes another program, which finds its child.
	targets["launcher that execs"] = func([]string) {
		estate := inherit()
		estate.Numbers = map[string]int{}
		estate.files.Each(func(name string, fd int) {
			estate.Numbers[name] = fd
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
			must(err)
		})
		text, err := json.Marshal(estate)
		must(err)
		os.Setenv(behaviour, "launcher that was execed")
		must(syscall.Exec("/proc/self/exe", []string{os.Args[0], string(text)}, os.Environ()))
	}
	targets["launcher that was execed"] = func(args []string) {
		var s estate
		must(json.Unmarshal([]byte(args[0]), &s))
		for name, fd := range s.Numbers {
			s.files.Put(name, fd)
		}
		p, err := ResumeProcess(s.Process, "w1", &s.files)
		must(err)
		r, err := ResumeRelease(s.Release, "r1", &s.files)
		must(err)
		fmt.Println(p.PID(), s.files.Len(), p.foreign, p.Contains(p.PID()), p.PIDs(), p.Ending(), p.Group())
		must(p.Signal(syscall.SIGTERM))
		<-p.Done()
		fmt.Println(p.Status(), p.Status().MaxRSS > 1<<20, p.Group())
		again, err := Start(context.Background(), Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: 1, Stderr: 2})
		must(err)
		must(again.Kill())
		<-again.Done()
		fmt.Println(again.Status())
	}
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		syscall.Exit(98)
	}
}

// estate is what a launcher of these tests leaves behind.
type estate struct {
	Process ProcessState
	Release ReleaseState
	Numbers map[string]int

	files keep.Files
}

func inherit() *estate {
	self, err := os.Executable()
	must(err)
	r, err := Resolve(Command{Exec: []string{self}, Env: []string{behaviour + "=obedient"}})
	must(err)
	said, out, err := os.Pipe()
	must(err)
	p, err := Start(context.Background(), Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: int(out.Fd()), Stderr: 2})
	must(err)
	_, err = said.Read(make([]byte, 3))
	must(err)
	s := &estate{}
	s.Process, s.Release = p.Keep("w1", &s.files), r.Keep("r1", &s.files)
	return s
}

// predecessor is a launcher with a child, and the child's state; that one is gone at the
// end of the test.
func predecessor(t *testing.T) (talk, ProcessState) {
	t.Helper()
	launcher := start(t, resolve(t, target(t, "former launcher")))
	var s estate
	if err := json.Unmarshal([]byte(launcher.line(t)), &s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := (Mark{PID: s.Process.PID, Start: s.Process.Start}).Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	return launcher, s.Process
}

// adopt resumes with a pidfd, as it comes back from systemd.
func adopt(t *testing.T, s ProcessState) talk {
	t.Helper()
	fd, err := unix.PidfdOpen(s.PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	var f keep.Files
	f.Put("w1.pid", fd)
	p, err := ResumeProcess(s, "w1", &f)
	if err != nil {
		t.Fatal(err)
	}
	return talk{Process: p}
}

func TestALauncherThatExecsKeepsItsChild(t *testing.T) {
	p := start(t, resolve(t, target(t, "launcher that execs")))
	var child, left int
	var rest string
	if _, err := fmt.Sscanf(p.line(t), "%d %d %s", &child, &left, &rest); err != nil || left != 0 || rest != "false" {
		t.Fatalf("child %d, %d descriptors left, foreign %s, %v", child, left, rest, err)
	}
	for _, want := range []string{"exit status 7 true false", "signal: killed"} {
		if got := p.line(t); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if s := p.ended(t); s.Code != 0 {
		t.Error(s)
	}
}

func TestAProcessOfAnotherLauncherIsSignalledAndMeasured(t *testing.T) {
	launcher, s := predecessor(t)
	p := adopt(t, s)
	if err := launcher.Kill(); err != nil { // the child leads a group of its own
		t.Fatal(err)
	}
	<-launcher.Done()
	select {
	case <-p.Done():
		t.Fatal("it ended with its launcher")
	default:
	}
	if u, err := p.Usage(0); err != nil || u.Processes != 1 || u.Resident < 1<<20 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if !p.Contains(s.PID) || p.Contains(os.Getpid()) || !p.Group() || p.Ending() {
		t.Error("it is not seen as what it is")
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.ended(t)
	if len(p.PIDs()) > 0 || !p.Ending() || p.Group() { // whoever has it now may leave a zombie
		t.Error("it is seen after its end")
	}
}

// tellsExits: the kernel tells how a process ended that is not ours.
func tellsExits(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 15
}

func TestHowAnotherLaunchersChildEndedIsKnownWhenSomebodyWaited(t *testing.T) {
	if tellsExits(t) { // else nothing more comes to be known
		before := reapTime
		defer func() { reapTime = before }()
		reapTime = time.Minute // whoever waits may be slow on a busy machine
	}
	for signal, want := range map[syscall.Signal]string{syscall.SIGTERM: "exit status 7", syscall.SIGKILL: "signal: killed"} {
		_, s := predecessor(t) // which waits for its child
		p := adopt(t, s)
		if err := p.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if !tellsExits(t) {
			want = "exit status unknown: it was not this process's child"
		}
		if got := p.ended(t); got.String() != want {
			t.Errorf("after %v: %v, want %s", signal, got, want)
		}
	}
}

func TestTheEndIsToldAlthoughNobodyWaits(t *testing.T) {
	launcher, s := predecessor(t)
	p := adopt(t, s)
	if err := launcher.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := func() bool {
		m, _, err := readStat(launcher.PID())
		return err == nil && m.state == 'T'
	}
	eventually(t, "the launcher stands still", stopped)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := p.ended(t); got.Code != -1 || got.String() != "exit status unknown: it was not this process's child" {
		t.Errorf("%+v", got)
	}
	if p.Group() {
		t.Error("a zombie counts as its group")
	}
}

func TestManyOfAnothersProcessesNeedNoThreads(t *testing.T) {
	_, s := predecessor(t)
	before := threads(t)
	var all []talk
	for range 64 {
		all = append(all, adopt(t, s))
	}
	if now := threads(t); now > before+16 {
		t.Errorf("%d threads before, %d now", before, now)
	}
	if err := all[0].Kill(); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		p.ended(t)
	}
}

func threads(t *testing.T) int {
	t.Helper()
	_, n, _, err := readTimes(os.Getpid(), make([]byte, 2048))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWithoutItsDescriptorAProcessIsKnownByTheTimeOfItsStart(t *testing.T) {
	_, s := predecessor(t)
	same, err := ResumeProcess(s, "w1", &keep.Files{})
	if err != nil {
		t.Fatal(err)
	}
	if same.fd.n.Load() < 0 || !same.Contains(s.PID) {
		t.Error("it was not found")
	}
	// The number was given to another one.
	other := s
	other.Start++
	p, err := ResumeProcess(other, "w1", &keep.Files{})
	if err != nil {
		t.Fatal(err)
	}
	if got := (talk{Process: p}).ended(t); got.String() != "exit status unknown: it ended before this process could see it" {
		t.Error(got)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if err := same.Signal(0); err != nil || same.Ending() {
		t.Errorf("a stranger was hit: %v", err)
	}
	if err := same.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	talk{Process: same}.ended(t)
}

func TestAnEndThatWasKnownIsKept(t *testing.T) {
	p := start(t, resolve(t, target(t, "exit", "5")))
	p.ended(t)
	var f keep.Files
	text, err := json.Marshal(p.Keep("w1", &f))
	if err != nil {
		t.Fatal(err)
	}
	var s ProcessState
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	again, err := ResumeProcess(s, "w1", &keep.Files{})
	if err != nil {
		t.Fatal(err)
	}
	if got := (talk{Process: again}).ended(t); got != p.Status() {
		t.Errorf("%+v, want %+v", got, p.Status())
	}
	s.Ended.Lost = "somebody else waited"
	if again, err = ResumeProcess(s, "w1", &keep.Files{}); err != nil || again.Status().String() != "exit status unknown: somebody else waited" {
		t.Errorf("%v, %v", again.Status(), err)
	}
}

func TestStatesOfProcessesThatCannotBeTakenUp(t *testing.T) {
	other, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		s    ProcessState
		fd   int
		want string
	}{
		{ProcessState{}, -1, "no process of a worker"},
		{ProcessState{PID: 1, Start: 1}, -1, "no process of a worker"},
		{ProcessState{PID: -4, Start: 1}, -1, "no process of a worker"},
		{ProcessState{PID: 1 << 40, Start: 1}, -1, ""}, // no process has that number
		{ProcessState{PID: 4242}, -1, "neither a descriptor nor the time"},
		{ProcessState{PID: os.Getpid() + 1, Start: 1}, other, "it is of process " + strconv.Itoa(os.Getpid())},
		{ProcessState{PID: 4242, Start: 1}, null, "it is no pidfd"},
	} {
		var f keep.Files
		if test.fd >= 0 {
			f.Put("w1.pid", test.fd)
		}
		p, err := ResumeProcess(test.s, "w1", &f)
		switch {
		case test.want == "" && err == nil:
			talk{Process: p}.ended(t)
		case test.want == "" || err == nil || !strings.Contains(err.Error(), test.want):
			t.Errorf("%+v: %v, want %q", test.s, err, test.want)
		}
	}
}

func FuzzResumeProcess(f *testing.F) {
	f.Add(`{"pid":7,"start":3,"ended":{"Code":1,"lost":"x"},"gone":true}`, `{"paths":"L2EAL2EAAA==","args":"YQA=","executable":{}}`)
	f.Add(`{"pid":1000000,"start":3}`, `{"paths":"L2EAL2EAAA==","args":"YQA=","closed":true,"who":{"uid":1},"limits":[{"name":"core"}]}`)
	f.Fuzz(func(t *testing.T, process, release string) {
		var p ProcessState
		var r ReleaseState
		if json.Unmarshal([]byte(process), &p) == nil && p.PID != os.Getpid() {
			_, _ = ResumeProcess(p, "a", &keep.Files{})
		}
		if json.Unmarshal([]byte(release), &r) == nil {
			if r, err := ResumeRelease(r, "a", &keep.Files{}); err == nil {
				_, _ = r.Kept()
				_ = r.Close()
			}
		}
	})
}

// handed is what the next launcher gets of a release: its state by way of JSON, and
// duplicates of its descriptors.
func handed(t *testing.T, r *Release) (s ReleaseState, f *keep.Files) {
	t.Helper()
	var old keep.Files
	text, err := json.Marshal(r.Keep("r1", &old))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if f, err = old.Dup(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return s, f
}

func TestAReleaseIsAllThatItWas(t *testing.T) {
	dir := t.TempDir()
	program := self(t, dir, "app")
	umask := 0o027
	c := Command{
		Exec: []string{program, "one", "", "b\xffd"}, Dir: dir, Umask: &umask, Env: []string{behaviour + "=view", "BYTES=\xff"},
		Limits: map[string]string{"core": "0", "fsize": "1G:unlimited"}, Confine: confinable() == nil,
	}
	if os.Geteuid() == 0 {
		c.User, c.Group, c.Ambient = "nobody", "0", []string{"net_bind_service"}
	}
	r := resolve(t, c)
	first := start(t, r).view(t)
	s, f := handed(t, r)
	if err := os.Rename(program, program+".old"); err != nil {
		t.Fatal(err)
	}
	write(t, program, "#!/bin/false\n", 0o755)
	_ = r.Close() // only read from
	again, err := ResumeRelease(s, "r1", f)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, fd := range []int{again.exeFD, again.wdFD} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d: flags %d, %v", fd, flags, err)
		}
	}
	if again.Path() != r.Path() || again.Real() != r.Real() || again.Dir() != r.Dir() ||
		!slices.Equal(again.Args(), r.Args()) || !slices.Equal(again.Env(), r.Env()) {
		t.Errorf("%+v, want %+v", again, r)
	}
	if len(Changes(r.Env(), again.Env())) > 0 {
		t.Error("its environment has changed")
	}
	if once, _ := handed(t, again); !reflect.DeepEqual(once, s) || s.Confine != c.Confine || len(s.Limits) != 2 || s.Rights.NoNew != (c.User != "") {
		t.Errorf("kept %+v, and then %+v", s, once)
	}
	second := start(t, again).view(t)
	for _, v := range []*view{&first, &second} {
		v.PID, v.PGID, v.Comm, v.FDs, v.CloseOnExec = 0, 0, "", nil, nil
	}
	if !reflect.DeepEqual(first, second) {
		t.Errorf("started from what was kept:\n%+v\nbefore:\n%+v", second, first)
	}
	if words, err := again.Kept(); words != "" || err != nil {
		t.Errorf("kept: %q, %v", words, err)
	}
}

// Whoever gives a Release another field has to keep it too.
func TestEveryFieldOfAReleaseIsKept(t *testing.T) {
	for of, fields := range map[reflect.Type][]string{
		reflect.TypeFor[Release]():  {"path", "real", "dir", "args", "env", "dev", "ino", "umask", "limits", "who", "rights", "confine", "mu", "exeFD", "wdFD", "was", "hasRun"},
		reflect.TypeFor[identity](): {"UID", "GID", "Groups", "name", "home", "shell"},
		reflect.TypeFor[rights]():   {"Bare", "NoNew", "Ambient"},
		reflect.TypeFor[limit]():    {"Name", "Resource", "Soft", "Max"},
		reflect.TypeFor[content]():  {"size", "modified"},
	} {
		for i := range of.NumField() {
			if name := of.Field(i).Name; !slices.Contains(fields, name) {
				t.Errorf("%v.%s: see that ReleaseState has it, and add it here", of, name)
			}
		}
	}
}

func TestAReleaseWhoseDescriptorsAreLostIsFoundByItsPath(t *testing.T) {
	dir := t.TempDir()
	program := write(t, filepath.Join(dir, "app"), "#!/bin/sh\necho $PWD\n", 0o755)
	s, _ := handed(t, resolve(t, Command{Exec: []string{program}, Dir: dir}))
	again, err := ResumeRelease(s, "r1", &keep.Files{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := start(t, again).line(t); got != dir {
		t.Errorf("it said %q", got)
	}
	refuses := func(what string) {
		t.Helper()
		if r, err := ResumeRelease(s, "r1", &keep.Files{}); err == nil || !errors.Is(err, keep.ErrMissing) || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v, %v; want %q", r, err, what)
		}
	}
	write(t, program, "#!/bin/sh\necho another\n", 0o755)
	refuses("written into since it was resolved")
	if err := os.Rename(program, program+".old"); err != nil {
		t.Fatal(err)
	}
	refuses("no such file")
	write(t, program, "#!/bin/sh\necho $PWD\n", 0o755)
	refuses("it is another file now")
}

func TestStatesOfReleasesThatCannotBeTakenUp(t *testing.T) {
	good, _ := handed(t, resolve(t, Command{Exec: []string{"sh"}, Dir: "/", User: strconv.Itoa(os.Getuid()), Group: strconv.Itoa(os.Getgid())}))
	one, umask := 1, 0o1000
	for want, spoil := range map[string]func(*ReleaseState){
		"were not kept":              func(s *ReleaseState) { *s = ReleaseState{} },
		"paths and arguments":        func(s *ReleaseState) { s.Args = nil },
		"umask 01000":                func(s *ReleaseState) { s.Umask = &umask },
		"limit none":                 func(s *ReleaseState) { s.Limits = []LimitState{{Name: "none"}} },
		"whom it runs as":            func(s *ReleaseState) { s.Who = &IdentityState{UID: &one} },
		"what rights it has":         func(s *ReleaseState) { s.Rights = nil },
		"capability 64":              func(s *ReleaseState) { s.Rights = &RightsState{Ambient: []int{64}} },
		"directory /: it was not":    func(s *ReleaseState) { s.Directory = nil },
		"executable: descriptor":     func(s *ReleaseState) { s.Executable.Inode = 0 },
		"directory /: descriptor \"": func(s *ReleaseState) { s.Directory.Inode = 0 },
	} {
		s := good
		d := *good.Directory
		s.Directory = &d
		spoil(&s)
		if r, err := ResumeRelease(s, "r1", &keep.Files{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v, %v; want %q", r, err, want)
		}
	}
	closed := resolve(t, Command{Exec: []string{"sh"}})
	_ = closed.Close() // only read from
	s, f := handed(t, closed)
	r, err := ResumeRelease(s, "r1", f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryStart(t, r); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
}

func BenchmarkKeepProcess(b *testing.B) {
	r := resolve(b, target(b, "wait"))
	p := start(b, r)
	p.line(b)
	for b.Loop() {
		var f keep.Files
		p.Keep("w1", &f)
		r.Keep("r1", &f)
	}
}

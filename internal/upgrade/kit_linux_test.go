package upgrade

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/testkit"
)

// The test binary is a small launcher, its helper, its prover and what it becomes. Where
// its control socket lies is in this variable, by which its processes are found too.
const home = "UPGRADE_TEST_HOME"

// How a program that is proved, or became another one, behaves: words, parted by commas.
const behaviour = "UPGRADE_TEST_BEHAVIOUR"

func behaves(word string) bool {
	return slices.Contains(strings.Split(os.Getenv(behaviour), ","), word)
}

func TestMain(m *testing.M) {
	process.Main()
	if len(os.Args) > 1 && os.Args[1] == proverCommand {
		misbehave()
	}
	Main(Prover{Version: "v2", Check: check, Answers: answers, Patience: patience()})
	if os.Getenv(home) != "" {
		serve()
		syscall.Exit(0)
	}
	os.Exit(m.Run())
}

func patience() time.Duration {
	if behaves("deaf") {
		return time.Second
	}
	return 0
}

func misbehave() {
	switch {
	case behaves("hang"):
		select {}
	case behaves("crash"):
		fmt.Fprintln(os.Stderr, "about to go")
		panic("as it was told")
	case behaves("no ptrace"):
		forbidPtrace(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	case behaves("deadly ptrace"):
		forbidPtrace(0x80000000) // SECCOMP_RET_KILL_PROCESS
	}
}

// forbidPtrace filters it for every thread (seccomp(2)).
func forbidPtrace(action uint32) {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // nr of seccomp_data
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PTRACE, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: action},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000}, // SECCOMP_RET_ALLOW
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	must(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, 1 /* SET_MODE_FILTER */, 1 /* TSYNC */, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		must(errno)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "launcher:", err)
		syscall.Exit(99)
	}
}

func must1[T any](v T, err error) T { must(err); return v }

// state is what the small launcher leaves to the next one.
type state struct {
	Version int
	Count   int // upgrades so far
	Left    int // upgrades that it shall still do by itself
	Path    string
	Child   int
}

func check(b []byte, files *keep.Files) (what string, err error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return "", err
	}
	if s.Version != 1 {
		return "", fmt.Errorf("state: version %d is too new for this program", s.Version)
	}
	if files.Len() != 7 {
		return "", fmt.Errorf("state: %d descriptors", files.Len())
	}
	fd, err := files.Take("control")
	if err != nil {
		return "", err
	}
	if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || n != 1 {
		return "", fmt.Errorf("control: not a listener: %w", err)
	}
	return fmt.Sprint("count ", s.Count), nil
}

// answers asks the control socket who is there.
func answers(ctx context.Context, what string) error {
	if !strings.HasPrefix(what, "count ") {
		return fmt.Errorf("asked about %q", what)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", os.Getenv(home)+"/control")
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetReadDeadline(deadline)
	_, err = io.ReadFull(c, make([]byte, 2))
	return err
}

// small is the small launcher.
type small struct {
	state state
	files keep.Files // its own, by their names
	proof *Proof
}

var signals = []syscall.Signal{
	syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU,
}

func serve() {
	b, files, ok, err := Resumed()
	must(err)
	must(process.Catch(func(c process.Caught) { fmt.Println(process.SignalName(c.Signal), c.PID) }, signals...))
	l := &small{state: state{Version: 1}}
	if ok {
		must(json.Unmarshal(b, &l.state))
		l.state.Count++
		files.Each(l.files.Put)
	} else {
		l.begin()
	}
	control, _ := fdOf(&l.files, "control")
	if !behaves("deaf") || l.state.Count == 0 {
		go answer(must1(unix.FcntlInt(uintptr(control), unix.F_DUPFD_CLOEXEC, 0)))
	}
	fmt.Println("up", l.state.Count, os.Getpid(), os.Getenv(variable))
	for l.state.Left > 0 {
		l.state.Left--
		l.upgrade(l.state.Path)
	}
	if ok && l.state.Path != "" {
		fmt.Println("over")
	}
	for {
		words := strings.Fields(line())
		if len(words) == 0 {
			return
		}
		l.do(words)
	}
}

// line reads no byte too many: the next program reads on.
func line() string {
	var line []byte
	var b [1]byte
	for {
		if n, err := unix.Read(0, b[:]); err != unix.EINTR && (n != 1 || b[0] == '\n') {
			return string(line)
		} else if n == 1 {
			line = append(line, b[0])
		}
	}
}

func (l *small) begin() {
	var pipes [2][2]int
	must(unix.Pipe2(pipes[0][:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	must(unix.Pipe2(pipes[1][:], unix.O_CLOEXEC))
	fd := must1(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))
	must(unix.Bind(fd, &unix.SockaddrUnix{Name: os.Getenv(home) + "/control"}))
	must(unix.Listen(fd, 128))
	l.files.Put("control", fd)
	l.files.Put("w1.out", pipes[0][0])
	l.files.Put("w1.in", pipes[0][1])
	l.files.Put("w2.out", pipes[1][0])
	l.files.Put("w2.in", pipes[1][1])
	l.files.Put("r1.exe", must1(unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)))
	l.files.Put("w1.pid", must1(unix.PidfdOpen(os.Getpid(), 0)))
}

func fdOf(files *keep.Files, name string) (found int, ok bool) {
	files.Each(func(n string, fd int) {
		if n == name {
			found, ok = fd, true
		}
	})
	return found, ok
}

func answer(fd int) {
	f := os.NewFile(uintptr(fd), "control")
	l := must1(net.FileListener(f))
	must(f.Close())
	for {
		c, err := l.Accept()
		must(err)
		c.Write([]byte("ok"))
		c.Close()
	}
}

func (l *small) do(words []string) {
	switch words[0] {
	case "upgrade": // PATH [BEHAVIOUR]
		if len(words) > 2 {
			os.Setenv(behaviour, strings.Join(words[2:], " "))
		}
		l.upgrade(words[1])
	case "loop": // PATH TIMES [BEHAVIOUR]
		l.state.Path, l.state.Left = words[1], must1(strconv.Atoi(words[2]))-1
		if len(words) > 3 {
			os.Setenv(behaviour, strings.Join(words[3:], " "))
		}
		l.upgrade(words[1])
	case "version":
		l.state.Version = must1(strconv.Atoi(words[1]))
		fmt.Println("ok")
	case "child": // ends with status 7 in the exec
		var p [2]int
		must(unix.Pipe2(p[:], unix.O_CLOEXEC))
		l.state.Child = must1(syscall.ForkExec("/bin/sh", []string{"sh", "-c", "cat; exit 7"},
			&syscall.ProcAttr{Files: []uintptr{uintptr(p[0]), 1, 2}}))
		must(unix.Close(p[0]))
		fmt.Println("ok")
	case "wait":
		var status syscall.WaitStatus
		pid := must1(syscall.Wait4(l.state.Child, &status, 0, nil))
		fmt.Println(pid == l.state.Child, status.ExitStatus())
	case "reap":
		var status syscall.WaitStatus
		_, err := syscall.Wait4(-1, &status, 0, nil)
		fmt.Println(status.ExitStatus(), err)
	case "prove":
		l.prove(words[1])
		fmt.Println(l.proof.Version, l.proof.prover.PID())
	case "exec":
		l.exec(os.Environ())
	case "exec-too-big":
		l.exec(append(os.Environ(), "BIG="+strings.Repeat("x", 1<<20)))
	case "look":
		fmt.Println(l.look())
	case "limit":
		fmt.Println(limit())
	}
}

func (l *small) prove(path string) bool {
	var err error
	b := must1(json.Marshal(l.state))
	l.proof, err = Prove(context.Background(), Options{Path: path, State: b, Files: &l.files, Timeout: 5 * time.Second, Warn: func(err error) {
		fmt.Fprintln(os.Stderr, "warning:", err)
	}})
	if err != nil {
		fmt.Println("refused:", err)
	}
	return err == nil
}

func (l *small) upgrade(path string) {
	if l.prove(path) {
		l.exec(os.Environ())
		l.proof.Close()
	}
}

func (l *small) exec(env []string) {
	goOn := process.PauseCaught()
	defer goOn()
	err := l.proof.Exec(os.Args, env, must1(json.Marshal(l.state)), &l.files)
	fmt.Println("not replaced:", err)
}

// look is what is open, with the flags of the description, but for what the runtime
// opens when it likes.
func (l *small) look() string {
	names := map[int]string{}
	l.files.Each(func(name string, fd int) { names[fd] = name })
	var open []string
	for _, e := range must1(os.ReadDir("/proc/self/fd")) {
		fd := must1(strconv.Atoi(e.Name()))
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(to, "anon_inode:[event") {
			continue
		}
		flags := must1(unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0))
		closes := must1(unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0))
		what, _, _ := strings.Cut(to, ":")
		open = append(open, fmt.Sprintf("%s%s=%o/%d", names[fd], what, flags, closes))
	}
	slices.Sort(open)
	return strings.Join(open, " ")
}

// limit is what the process itself was started with, as its own children get it.
func limit() string {
	out, err := exec.Command("sh", "-c", "ulimit -Sn").Output()
	must(err)
	return strings.TrimSpace(string(out))
}

// running is a small launcher that runs.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	dir   string
	in    io.WriteCloser
	out   *bufio.Scanner
	err   *os.File
	lines chan string
	// killed: that it has not ended well is the test's doing.
	killed bool
}

// launch starts one, through a command if there is one.
func launch(t *testing.T, through ...string) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "up") // a unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self := must1(os.Executable())
	args := append(slices.Clone(through), self)
	r := &running{t: t, cmd: exec.Command(args[0], args[1:]...), dir: dir}
	r.cmd.Env = append(os.Environ(), home+"="+dir)
	r.err = must1(os.Create(filepath.Join(dir, "stderr")))
	r.cmd.Stderr = r.err
	r.in = must1(r.cmd.StdinPipe())
	r.out = bufio.NewScanner(must1(r.cmd.StdoutPipe()))
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.lines = make(chan string, 100)
	go func() { // ends with its output
		for r.out.Scan() {
			r.lines <- r.out.Text()
		}
		close(r.lines)
	}()
	t.Cleanup(r.end)
	return r
}

func (r *running) end() {
	r.in.Close()
	for range r.lines {
		continue
	}
	err := r.cmd.Wait()
	if err != nil && !r.killed && !r.t.Failed() {
		r.t.Errorf("the launcher: %v; %s", err, r.words())
	}
	if r.t.Failed() {
		r.t.Log(r.words())
	}
	testkit.Wait(r.t, func() bool { return len(r.processes()) == 0 }, "no process left behind")
	r.err.Close()
}

func (r *running) words() string {
	b, _ := os.ReadFile(r.err.Name())
	return string(b)
}

// processes are those that have the launcher's environment.
func (r *running) processes() (pids []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range found {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), home+"="+r.dir) {
			pids = append(pids, must1(strconv.Atoi(filepath.Base(filepath.Dir(file)))))
		}
	}
	return pids
}

func (r *running) line() string {
	r.t.Helper()
	select {
	case line, ok := <-r.lines:
		if !ok {
			r.t.Fatal("the launcher has ended: ", r.words())
		}
		return line
	case <-time.After(time.Minute):
		r.t.Fatal("the launcher says nothing: ", r.words())
	}
	return ""
}

func (r *running) want(line string) {
	r.t.Helper()
	if got := r.line(); got != line {
		r.t.Fatalf("%q, want %q; %s", got, line, r.words())
	}
}

func (r *running) says(words ...any) {
	r.t.Helper()
	if _, err := fmt.Fprintln(r.in, words...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) asks(words ...any) string {
	r.t.Helper()
	r.says(words...)
	return r.line()
}

// looks waits until what is open is that; a connection to the control socket comes and
// goes.
func (r *running) looks(want string) {
	r.t.Helper()
	got := ""
	defer func() {
		if got != want {
			r.t.Logf("open:\n%s\nwant:\n%s", got, want)
		}
	}()
	testkit.WaitFor(r.t, 10*time.Second, func() bool { got = r.asks("look"); return got == want }, "the same open files")
}

func (r *running) signal(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Fatal(err)
	}
}

func (r *running) pid() int { return r.cmd.Process.Pid }

// runSelf runs the test binary with a hidden command.
func runSelf(command string) (string, error) {
	out, err := exec.Command(must1(os.Executable()), command).CombinedOutput()
	return string(out), err
}

package process_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/process"
	"baton/internal/testkit"
)

// group starts a shell that leads a process group and has a child in it, and returns
// both.
func group(t *testing.T) (leader *exec.Cmd, child int) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may be gone
		_ = cmd.Wait()
	})
	return cmd, child
}

func mark(t *testing.T, pid int) process.Mark {
	t.Helper()
	m, ok, err := process.MarkOf(pid)
	if err != nil || !ok {
		t.Fatalf("mark of %d: %v, %v", pid, ok, err)
	}
	return m
}

func TestAMarkIsOfOneProcess(t *testing.T) {
	leader, child := group(t)
	m := mark(t, leader.Process.Pid)
	session, err := unix.Getsid(0) // 0 where its leader is outside our pid namespace
	if err != nil {
		t.Fatal(err)
	}
	if m.Parent != os.Getpid() || m.Group != m.PID || m.Session != session {
		t.Errorf("mark %+v", m)
	}
	other := m
	other.Start++
	if err := other.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if left, err := process.Left([]process.Mark{other}); err != nil || len(left) != 0 {
		t.Errorf("left of another that had its number: %v, %v", left, err)
	}
	if left, err := process.Left([]process.Mark{m}); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
	// The leader's end leaves the child, which is still known by its group and session.
	if err := m.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = leader.Wait() // it was killed
	if _, ok, err := process.MarkOf(m.PID); ok || err != nil {
		t.Errorf("mark of one that has ended: %v, %v", ok, err)
	}
	left, err := process.Left([]process.Mark{m})
	if err != nil || len(left) != 1 || left[0].PID != child {
		t.Fatalf("left: %v, %v; the child is %d", left, err, child)
	}
	elsewhere := m
	elsewhere.Session, elsewhere.PID = 1, 1<<22+1
	if left, err := process.Left([]process.Mark{elsewhere}); err != nil || len(left) != 0 {
		t.Errorf("left in another session: %v, %v", left, err)
	}
	if err := left[0].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { left, err := process.Left([]process.Mark{m}); return err == nil && len(left) == 0 }, "the child to end")
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("signal to one that has ended: %v", err)
	}
}

func TestWhoRanAtATime(t *testing.T) {
	leader, _ := group(t)
	pid := leader.Process.Pid
	if !process.RanAt(pid, time.Now()) || process.RanAt(pid, time.Now().Add(-time.Hour)) || process.RanAt(1<<22+1, time.Now()) {
		t.Error("who runs since a moment did not run an hour ago, and who does not run never did")
	}
}

func TestTheCommandLineOfAProcess(t *testing.T) {
	leader, _ := group(t)
	args, dir, err := process.CommandLine(leader.Process.Pid)
	wd, _ := os.Getwd()
	if err != nil || len(args) != 3 || args[1] != "-c" || dir != wd {
		t.Errorf("%q in %s, %v", args, dir, err)
	}
}

// What runs in the background has a session of its own, /dev/null as input, and no
// descriptor but those named for it.
func TestInTheBackground(t *testing.T) {
	if os.Getenv("BATON_TEST_BACKGROUND") != "" {
		background()
		return
	}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// One that this process was given itself, without close-on-exec.
	lock, err := syscall.Dup(int(log.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(lock)
	b := process.Background{
		Args: []string{"test", "-test.run=^TestInTheBackground$"}, Env: append(os.Environ(), "BATON_TEST_BACKGROUND=1"),
		Dir: dir, Output: int(log.Fd()), Told: int(w.Fd()),
	}
	begun, err := b.Start()
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // the other has its own
	said, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Split(strings.TrimSpace(string(said)), "|")
	if len(fields) != 4 {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("said %q\n%s", said, text)
	}
	pid := strconv.Itoa(begun.PID)
	if fields[0] != pid || fields[1] != pid || fields[2] != "/dev/null" || strings.Contains(fields[3], filepath.Base(log.Name())+" "+strconv.Itoa(lock)) {
		t.Errorf("%v of %d, which had %d", fields, begun.PID, lock)
	}
	if code := begun.Code(); code != 7 {
		t.Errorf("exit code %d", code)
	}
}

// background tells session, group, standard input, and which descriptors lead to the log.
func background() {
	told := process.Inherited(3)
	m, _, err := process.MarkOf(os.Getpid())
	if err != nil || told == nil {
		os.Exit(1)
	}
	in, _ := os.Readlink("/proc/self/fd/0")
	var logs []string
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && filepath.Base(to) == "log" {
			logs = append(logs, "log "+filepath.Base(link))
		}
	}
	_, _ = told.WriteString(strings.Join([]string{strconv.Itoa(m.Session), strconv.Itoa(m.Group), in, strings.Join(logs, ",")}, "|") + "\n")
	os.Exit(7)
}

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// socket is a bare listening socket, made as the launcher makes them.
func socket(t testing.TB) (fd int, inode uint64) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return fd, st.Ino
}

func TestTheSpawnLeavesASharedListenersNonblockAsItWas(t *testing.T) {
	for _, want := range []bool{true, false} {
		fd, _ := socket(t)
		if err := unix.SetNonblock(fd, want); err != nil {
			t.Fatal(err)
		}
		p := start(t, resolve(t, target(t, "wait")), func(s *Spec) { s.Files = []int{fd} })
		p.line(t)
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := flags&unix.O_NONBLOCK != 0; got != want {
			t.Errorf("O_NONBLOCK is %v after the spawn, was %v", got, want)
		}
	}
}

func TestOnlyNamedDescriptorsReachTheTarget(t *testing.T) {
	// What the launcher itself was left with by whoever started it: not close-on-exec,
	// low and high.
	for _, at := range []int{40, 900} {
		if err := unix.Dup2(1, at); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(at)
	}
	a, inodeA := socket(t)
	b, inodeB := socket(t)
	p := start(t, resolve(t, target(t, "view")), func(s *Spec) { s.Files = []int{b, a}; s.Stdin = -1 })
	v := p.view(t)
	for fd, want := range map[int]string{
		0: "/dev/null", 3: fmt.Sprintf("socket:[%d]", inodeB), 4: fmt.Sprintf("socket:[%d]", inodeA),
	} {
		if v.FDs[fd] != want {
			t.Errorf("descriptor %d is %s, want %s", fd, v.FDs[fd], want)
		}
		delete(v.FDs, fd)
	}
	delete(v.FDs, 1)
	delete(v.FDs, 2)
	for fd, to := range v.FDs {
		// Opened by the target's own Go runtime, which watches its processor quota.
		if !strings.HasPrefix(to, "/sys/fs/cgroup/") || !slices.Contains(v.CloseOnExec, fd) {
			t.Errorf("descriptor %d is a stray: %s", fd, to)
		}
	}
	for fd := range 5 {
		if slices.Contains(v.CloseOnExec, fd) {
			t.Errorf("descriptor %d would not survive an exec of the target", fd)
		}
	}
}

func TestAStartChangesNoDescriptorOfTheLauncher(t *testing.T) {
	fd, _ := socket(t)
	flags := func() int {
		f, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	before := flags()
	start(t, resolve(t, target(t, "exit", "0")), func(s *Spec) { s.Files = []int{fd, fd, fd} })
	if after := flags(); after != before || after != unix.FD_CLOEXEC {
		t.Errorf("descriptor flags %#x, were %#x", after, before)
	}
}

func TestUserGroupAndSupplementaryGroups(t *testing.T) {
	asRoot(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	daemon, err := user.LookupGroup("daemon")
	if err != nil {
		t.Skip(err)
	}
	other, _ := strconv.Atoi(daemon.Gid)
	for name, c := range map[string]struct {
		user, group string
		uid, gid    int
		groups      []int
		home        string
	}{
		"user by name":           {"nobody", "", uid, gid, []int{gid}, nobody.HomeDir},
		"user by number":         {nobody.Uid, "", uid, gid, []int{gid}, nobody.HomeDir},
		"user and group":         {"nobody", "daemon", uid, other, []int{other}, nobody.HomeDir},
		"user and group number":  {"nobody", daemon.Gid, uid, other, []int{other}, nobody.HomeDir},
		"group alone":            {"", "daemon", 0, other, []int{other}, os.Getenv("HOME")},
		"a number without entry": {"54321", "54322", 54321, 54322, []int{54322}, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := target(t, "view")
			cmd.User, cmd.Group = c.user, c.group
			v := start(t, resolve(t, cmd)).view(t)
			if v.UID != c.uid || v.GID != c.gid || !slices.Equal(v.Groups, c.groups) {
				t.Errorf("uid %d gid %d groups %v, want %d %d %v", v.UID, v.GID, v.Groups, c.uid, c.gid, c.groups)
			}
			if !slices.Contains(v.Env, "HOME="+c.home) {
				t.Errorf("HOME is not %s in %q", c.home, v.Env)
			}
			if c.user == "nobody" {
				for _, kv := range []string{"USER=nobody", "LOGNAME=nobody", "SHELL=" + loginShell("nobody")} {
					if !slices.Contains(v.Env, kv) {
						t.Errorf("no %s in %q", kv, v.Env)
					}
				}
			}
		})
	}
}

func TestSupplementaryGroupsAreTheUsers(t *testing.T) {
	asRoot(t)
	name, want := memberOfMany(t)
	c := target(t, "view")
	c.User = name
	v := start(t, resolve(t, c)).view(t)
	if !slices.Equal(v.Groups, want) {
		t.Errorf("groups of %s: %v, want %v", name, v.Groups, want)
	}
}

// memberOfMany is a user of this machine that a group lists, as id(1) tells it.
func memberOfMany(t *testing.T) (string, []int) {
	t.Helper()
	b, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Skip(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Split(line, ":")
		if len(f) < 4 || f[3] == "" {
			continue
		}
		name, _, _ := strings.Cut(f[3], ",")
		out, err := exec.Command("id", "-G", name).Output()
		if err != nil || name == "root" {
			continue
		}
		var groups []int
		for _, g := range strings.Fields(string(out)) {
			n, _ := strconv.Atoi(g)
			groups = append(groups, n)
		}
		slices.Sort(groups)
		return name, groups
	}
	t.Skip("no group of this machine lists a user")
	return "", nil
}

func TestAnUnprivilegedLauncherMayNameItsOwnUserOnly(t *testing.T) {
	asRoot(t)
	// The launcher here is a process of its own: this test binary as nobody.
	out := asNobody(t, "TestHelperUnprivileged")
	if !strings.Contains(out, "itself: exit status 0") ||
		!strings.Contains(out, "daemon: setgroups: operation not permitted") {
		t.Errorf("got %s", out)
	}
}

// asNobody runs one test of this binary as nobody and returns what it printed.
func asNobody(t *testing.T, test string) string {
	t.Helper()
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+test+"$", "-test.v")
	cmd.Env = []string{"PROCESS_TEST_HELPER=1", "PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestHelperUnprivileged(t *testing.T) {
	if os.Getenv("PROCESS_TEST_HELPER") == "" {
		t.Skip("run by TestAnUnprivilegedLauncherMayNameItsOwnUserOnly")
	}
	for name, u := range map[string]string{"itself": "nobody", "daemon": "daemon"} {
		p, err := tryStart(t, resolve(t, Command{Exec: []string{"true"}, User: u}))
		if err != nil {
			fmt.Printf("%s: %v\n", name, err)
			continue
		}
		fmt.Printf("%s: %v\n", name, p.ended(t))
	}
}

func TestTheTargetFindsSignalsAtTheirDefaults(t *testing.T) {
	// The launcher under nohup, ignoring more, with signals blocked in the thread
	// that forks.
	ignored := []os.Signal{syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGTSTP, syscall.SIGUSR1}
	signal.Ignore(ignored...)
	defer signal.Reset(ignored...)
	held := lockedMask(t, syscall.SIGTERM, syscall.SIGCHLD, syscall.Signal(40))
	defer held()
	// Not a Go program: Go changes its own signals before one can look.
	p := start(t, resolve(t, Command{Exec: []string{"grep", "^Sig", "/proc/self/status"}}))
	var got []string
	for range 5 {
		got = append(got, strings.Join(strings.Fields(p.line(t)), " "))
	}
	none := strings.Repeat("0", 16)
	for _, want := range []string{"SigBlk: " + none, "SigIgn: " + none} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

func TestTheSoftLimitOfDescriptorsIsNotGosOwn(t *testing.T) {
	// Two launchers between here and the target: sh sets the limit, this binary is
	// the launcher (Go raises its soft limit), sh is the target.
	cmd := exec.Command("sh", "-c", `ulimit -S -n 300; exec "$0" -test.run='^TestHelperNofile$' -test.v`, exe(t))
	cmd.Env = []string{"PROCESS_TEST_HELPER=1", "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !bytes.Contains(out, []byte("path 300\n")) || !bytes.Contains(out, []byte("descriptor 300\n")) {
		t.Errorf("soft limit of the target, want 300 both ways: %s", out)
	}
}

func TestHelperNofile(t *testing.T) {
	if os.Getenv("PROCESS_TEST_HELPER") == "" {
		t.Skip("run by TestTheSoftLimitOfDescriptorsIsNotGosOwn")
	}
	path := copyOf(t, "/bin/sh", t.TempDir()+"/sh")
	r := resolve(t, Command{Exec: []string{path, "-c", "ulimit -S -n"}})
	fmt.Println("path " + start(t, r).line(t))
	os.Remove(path)
	fmt.Println("descriptor " + start(t, r).line(t))
}

func TestALimitOnMemoryIsTheTargetsAndNotTheShims(t *testing.T) {
	for _, as := range []string{"16M", "64M"} {
		asRootUser := ""
		if os.Geteuid() == 0 {
			asRootUser = "nobody" // changing users needs memory too
		}
		r := resolve(t, Command{
			Exec: []string{"sh", "-c", "ulimit -v"}, User: asRootUser,
			Limits: map[string]string{"as": as, "stack": "1M", "data": "16M", "nproc": "2000", "fsize": "1G:unlimited"},
		})
		want := map[string]string{"16M": "16384", "64M": "65536"}[as]
		for range 20 {
			if got := start(t, r).line(t); got != want {
				t.Fatalf("address space %s KiB, want %s", got, want)
			}
		}
	}
}

func TestAHardLimitIsRaisedForAnotherUser(t *testing.T) {
	asRoot(t)
	// In a process of its own: a lowered hard limit may be for good.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelperRaise$", "-test.v")
	cmd.Env = []string{"PROCESS_TEST_HELPER=1", "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if bytes.Contains(out, []byte("may not raise")) {
		t.Skip("needs CAP_SYS_RESOURCE, which root has not got here")
	}
	if !bytes.Contains(out, []byte("fsize limit {2147483648 4294967296}\n")) {
		t.Errorf("want {2147483648 4294967296}: %s", out)
	}
}

func TestHelperRaise(t *testing.T) {
	if os.Getenv("PROCESS_TEST_HELPER") == "" {
		t.Skip("run by TestAHardLimitIsRaisedForAnotherUser")
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 30, Max: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 30, Max: 2 << 30}); err != nil {
		fmt.Println("may not raise:", err)
		return
	}
	c := target(t, "view")
	c.User, c.Limits = "nobody", map[string]string{"fsize": "2G:4G"}
	fmt.Println("fsize limit", start(t, resolve(t, c)).view(t).Fsize)
}

func TestAnEnvironmentLargerThanAPipeArrives(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	c := Command{Exec: []string{"sh", "-c", `echo ${#A} ${#B} ${#C} ${#D}`}}
	for _, k := range []string{"A", "B", "C", "D"} {
		c.Env = append(c.Env, k+"="+big)
	}
	if got := start(t, resolve(t, c)).line(t); got != "100000 100000 100000 100000" {
		t.Errorf("lengths %s", got)
	}
}

func TestTheHiddenCommandIsOfNoUseByHand(t *testing.T) {
	for _, args := range [][]string{{hidden}, {hidden, "x"}, {hidden, "1"}, {hidden, "3", "4"}} {
		out, err := exec.Command("/proc/self/exe", args...).CombinedOutput()
		if !strings.Contains(string(out), "for its own use only") || err == nil || err.Error() != "exit status 2" {
			t.Errorf("%q: %v, %s", args, err, out)
		}
	}
	err := exec.Command("/proc/self/exe", hidden, "3").Run() // nothing at 3
	if err == nil || err.Error() != "exit status 127" {
		t.Errorf("without orders: %v", err)
	}
}

func TestAShimThatDiesIsNotTakenForAStart(t *testing.T) {
	r := resolve(t, Command{Exec: []string{"/bin/true"}})
	p, report, leave, err := fork(Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: -1, Stderr: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer leave.Close() // nothing was written: it waits
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(report)
	report.Close()
	if err != nil {
		t.Fatal(err)
	}
	want := "exec /bin/true: the shim ended before it: signal: killed"
	if err := r.verdict(said, p); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// A start that fails, as when there are no processes or descriptors left, leaves none of
// its own.
func TestAForkThatFailsLeavesNoDescriptor(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close what was forgotten
	r := resolve(t, Command{Exec: []string{"/bin/true"}})
	before := len(look().FDs)
	for range 10 {
		_, _, _, err := fork(Spec{Release: r, Env: r.Env(), Stdin: -1, Stdout: -1, Stderr: 2, Files: []int{1 << 20}})
		if !errors.Is(err, unix.EBADF) {
			t.Fatalf("with a descriptor that is none: %v", err)
		}
	}
	if now := len(look().FDs); now > before {
		t.Errorf("%d descriptors, before it %d", now, before)
	}
}

// A launcher that is killed before it has listed a process takes that along.
func TestWhatIsNotListedDoesNotBegin(t *testing.T) {
	launcher := start(t, resolve(t, target(t, "lists")))
	pid := launcher.number(t)
	reads := fmt.Sprintf("%d 0x%x ", unix.SYS_READ, 3+controlLeave)
	eventually(t, "it waits for that, or is something else", func() bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !strings.Contains(string(line), hidden) {
			t.Fatalf("before it is listed %d is %q, %v", pid, line, err)
		}
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		return slices.ContainsFunc(threads, func(file string) bool {
			text, _ := os.ReadFile(file) // a thread that has ended does not wait
			return strings.HasPrefix(string(text), reads)
		})
	})
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// Not its group: that is not the other's.
	if err := unix.Kill(launcher.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end", func() bool { return polled(fd, unix.POLLIN) })
}

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	// A launcher: starts sh -c args[1] as args[0] ("": itself), confined, and passes its
	// own input and output on. It says how that ended.
	targets["confine"] = func(args []string) {
		r, err := Resolve(Command{Exec: append([]string{"/bin/sh", "-c"}, args[1:]...), User: args[0], Confine: true})
		exit(err)
		p, err := Start(context.Background(), Spec{Release: r, Env: r.Env(), Stdin: 0, Stdout: 1, Stderr: 2})
		exit(err)
		<-p.Done()
		fmt.Println("ended:", p.Status())
	}
	targets["resolve-without-landlock"] = func(args []string) {
		runtime.LockOSThread() // a filter is a thread's
		errno, _ := strconv.Atoi(args[0])
		exit(refuseSystemCall(unix.SYS_LANDLOCK_CREATE_RULESET, errno))
		_, err := Resolve(Command{Exec: []string{"/bin/true"}, Confine: true})
		fmt.Println(err)
		_, err = Resolve(Command{Exec: []string{"/bin/true"}})
		fmt.Println(err)
	}
}

// exit ends a target that cannot go on.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	}
}

func (k talk) says(t *testing.T, want string) {
	t.Helper()
	if got := k.line(t); got != want {
		t.Fatalf("told %q, want %q", got, want)
	}
}

// refuseSystemCall makes the kernel answer a system call of this thread with errno
// (seccomp(2)).
func refuseSystemCall(number, errno int) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(number), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

func needsScope(t *testing.T) {
	t.Helper()
	if err := confinable(); err != nil {
		t.Skip("needs Landlock's signal scope: ", err)
	}
}

// confined is a launcher that runs the script confined. An intermediate process and
// not the test itself is what the script does its worst to.
func confined(t *testing.T, name, script string, change ...func(*Command)) talk {
	t.Helper()
	needsScope(t)
	cmd := target(t, "confine", name, script)
	for _, f := range change {
		f(&cmd)
	}
	return start(t, resolve(t, cmd))
}

// everySignal tries each way out on $1 and says what came of it.
const everySignal = `tell() { for sig in KILL STOP TERM HUP INT QUIT USR1 CONT 0; do
	kill -$sig $1 2>/dev/null && echo $2 sent $sig; done; }
`

func TestAConfinedWorkerCannotSignalItsLauncher(t *testing.T) {
	who := map[string]string{"as the launcher": ""}
	if os.Geteuid() == 0 {
		who["as another user"] = "nobody"
		who["as root by name"] = "root"
	}
	for name, user := range who {
		t.Run(name, func(t *testing.T) {
			p := confined(t, user, everySignal+`
tell $PPID worker
(tell $PPID child)
setsid sh -c "for sig in KILL STOP TERM; do kill -\$sig $PPID 2>/dev/null && echo session sent \$sig; done"
echo tried
sleep 1000 & kill -TERM $!; wait $! 2>/dev/null; echo child ended with $?
trap 'echo has TERM; exit 7' TERM
echo up; read line`)
			p.says(t, "tried")
			p.says(t, "child ended with 143")
			p.says(t, "up")
			worker, err := strconv.Atoi(strings.TrimSpace(childrenOf(t, p.PID())))
			if err != nil {
				t.Fatal(err)
			}
			// The other way is open.
			if err := syscall.Kill(worker, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			p.says(t, "has TERM")
			p.says(t, "ended: exit status 7")
			if st := p.ended(t); st.Code != 0 {
				t.Errorf("the launcher ended with %v", st)
			}
		})
	}
}

// childrenOf is what the kernel lists of a process's children (proc_pid_children(5)).
func childrenOf(t *testing.T, pid int) string {
	t.Helper()
	all, err := scanProcesses()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, s := range all {
		if s.parent == pid {
			list = append(list, strconv.Itoa(s.pid))
		}
	}
	return strings.Join(list, " ")
}

func TestConfinedWorkersCannotSignalEachOther(t *testing.T) {
	a := confined(t, "", "echo $$; read line")
	b := confined(t, "", everySignal+"tell "+a.line(t)+" b; echo tried")
	b.says(t, "tried")
	a.in.Close()
	a.says(t, "ended: exit status 1")
}

// The worker is otherwise what it would have been: a root's child keeps what it may,
// another user has nothing of root's, and only where there is no CAP_SYS_ADMIN the
// worker can gain no rights.
func TestConfinementChangesNoOtherRight(t *testing.T) {
	asRoot(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	const look = `echo $(grep -E 'Uid|Gid|Groups|NoNewPrivs|Cap' /proc/self/status)`
	plain := func(user string, may NewPrivileges) string {
		t.Helper()
		return start(t, resolve(t, Command{Exec: []string{"/bin/sh", "-c", look}, User: user, NewPrivileges: may})).line(t)
	}
	for _, user := range []string{"", "nobody", "root"} {
		if got, want := confined(t, user, look).line(t), plain(user, PrivilegesAuto); got != want {
			t.Errorf("as %q: %s, without: %s", user, got, want)
		}
	}
	unprivileged := confined(t, "", look, func(c *Command) { c.User, c.NewPrivileges, c.Exec[0] = "nobody", PrivilegesAllow, readable(t) }).line(t)
	if want := strings.Replace(plain("nobody", PrivilegesAllow), "NoNewPrivs: 0", "NoNewPrivs: 1", 1); unprivileged != want ||
		!strings.Contains(want, "NoNewPrivs: 1") || !strings.Contains(want, "Uid: "+nobody.Uid) {
		t.Errorf("under a launcher without privilege: %s, want %s", unprivileged, want)
	}
}

// readable is a copy of the test binary where any user can run it.
func readable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return write(t, dir+"/launcher", string(b), 0o755)
}

// The rules' descriptor comes before the limits, and leaves nothing open.
func TestConfinementLeavesLimitsAndDescriptorsAsTheyAre(t *testing.T) {
	needsScope(t)
	cmd := target(t, "view")
	cmd.Confine = true
	cmd.Limits = map[string]string{"nofile": "64"}
	v := start(t, resolve(t, cmd)).view(t)
	for fd, to := range v.FDs {
		if strings.Contains(to, "landlock") {
			t.Errorf("descriptor %d is %s", fd, to)
		}
	}
	if v.Nofile.Cur != 64 {
		t.Errorf("nofile is %d", v.Nofile.Cur)
	}
}

func TestAKernelThatCannotConfineIsNamed(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := "Linux " + unix.ByteSliceToString(u.Release[:])
	for errno, want := range map[syscall.Errno]string{
		unix.ENOSYS:     "confine signals: no Landlock in this " + release + ": function not implemented (leave confine_signals off)",
		unix.EOPNOTSUPP: "confine signals: Landlock is off in this " + release + ": operation not supported (add landlock to lsm= on its command line, or leave confine_signals off)",
	} {
		p := start(t, resolve(t, target(t, "resolve-without-landlock", strconv.Itoa(int(errno)))))
		p.says(t, want)
		p.says(t, "<nil>") // who does not ask for it is not told
	}
	err := scoped(5, 0, "Linux 6.10.3")
	if want := "confine signals: unsupported operation by Landlock ABI 5 of this Linux 6.10.3, which is asked for 6: Linux 6.12 has it (leave confine_signals off)"; !errors.Is(err, errors.ErrUnsupported) || err.Error() != want {
		t.Errorf("%v\n%s", err, want)
	}
	if err := scoped(6, 0, release); err != nil {
		t.Error(err)
	}
}

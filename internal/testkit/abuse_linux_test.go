package testkit

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"baton/internal/load"
)

// TestAbuseDoesWhatItSays looks at the test's own descriptor of the socket that
// the target abuses.
func TestAbuseDoesWhatItSays(t *testing.T) {
	option := func(level, name int) func(int) int {
		return func(fd int) int {
			v, err := unix.GetsockoptInt(fd, level, name)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	listening := option(unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	backlog := func(fd int) int { // tcpi_sacked of a listening socket (tcp_get_info in net/ipv4/tcp.c)
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Sacked)
	}
	blocking := func(fd int) int {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			t.Fatal(err)
		}
		return flags & unix.O_NONBLOCK
	}
	for what, c := range map[string]struct {
		see           func(fd int) int
		before, after int
	}{
		"shutdown":           {listening, 1, 0},
		"disconnect":         {listening, 1, 0},
		"relisten":           {backlog, 4096, 1},
		"relisten&backlog=5": {backlog, 4096, 5},
		"reuseport":          {option(unix.SOL_SOCKET, unix.SO_REUSEPORT), 1, 0},
		"blocking":           {blocking, unix.O_NONBLOCK, 0},
	} {
		t.Run(what, func(t *testing.T) {
			Leaks(t)
			u := run(t, 1, "", "stay")
			fd := rawFD(t, u.Cmd.ExtraFiles[0])
			u.want(t, "/pid", strconv.Itoa(u.PID()))
			if got := c.see(fd); got != c.before {
				t.Fatalf("%d before, not %d", got, c.before)
			}
			u.want(t, "/abuse?what="+what, string(load.Pattern(0, bodySize)))
			if got := c.see(fd); got != c.after {
				t.Errorf("%d after, not %d", got, c.after)
			}
			// On a socket that was made blocking, Go's own Shutdown may hang in accept(2).
			u.Signal(syscall.SIGKILL)
			u.Wait()
		})
	}
}

// rawFD reads the number without File.Fd, which would make the socket blocking.
func rawFD(t *testing.T, f *os.File) int {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := raw.Control(func(d uintptr) { fd = int(d) }); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestAbuseDetachesTheProgramOfAGroup(t *testing.T) {
	u := run(t, 1, "", "stay")
	fd := rawFD(t, u.Cmd.ExtraFiles[0])
	u.want(t, "/pid", strconv.Itoa(u.PID()))
	ret := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: 1, Filter: &ret[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &program); err != nil {
		t.Fatal(err)
	}
	u.want(t, "/abuse?what=detach", string(load.Pattern(0, bodySize)))
	// A program that is not there cannot be detached again (reuseport_detach_prog).
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0); err != unix.ENOENT {
		t.Errorf("detached again: %v", err)
	}
}

func TestAbuseEndsAccepting(t *testing.T) {
	for _, what := range []string{"close", "stop"} {
		t.Run(what, func(t *testing.T) {
			Leaks(t)
			u := run(t, 2, "", "stay")
			u.want(t, "/abuse?what="+what, string(load.Pattern(0, bodySize)))
			r, err := load.Start(t.Context(), load.Options{Targets: []load.Target{{Network: "tcp", Address: u.address}},
				Timeout: 100e6})
			if err != nil {
				t.Fatal(err)
			}
			Wait(t, func() bool { return r.Result().Requests > 1 }, "requests that nobody accepts")
			if got := r.Stop(); got.Reasons[load.Timeout] != got.Requests {
				t.Error(got)
			}
			u.Signal(syscall.SIGKILL)
			u.Wait()
		})
	}
}

func TestTargetWithoutStayEndsWhenItCannotAccept(t *testing.T) {
	u := run(t, 1, "")
	_, _, _ = u.get(t, "/abuse?what=shutdown") // the end may overtake the answer
	if code := u.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
}

func TestAbuseEndsTheTarget(t *testing.T) {
	for what, status := range map[string]string{"exit&code=9": "exit status 9", "crash": "exit status 2", "kill": "signal: killed"} {
		u := run(t, 1, "")
		if code, _, err := u.get(t, "/abuse?what="+what); err == nil {
			t.Errorf("%s: answered %d", what, code)
		}
		u.Wait()
		if got := u.Cmd.ProcessState.String(); got != status {
			t.Errorf("%s: %s", what, got)
		}
	}
}

func TestTargetLeavesAChildThatHoldsWhatItIsTold(t *testing.T) {
	for _, what := range []string{"sockets", "pipes", "both", "both,session"} {
		t.Run(what, func(t *testing.T) {
			u := run(t, 1, "", "child="+what)
			line := u.WaitLog(`^target: child \d+$`)
			pid, err := strconv.Atoi(strings.TrimPrefix(line.Text, "target: child "))
			if err != nil {
				t.Fatal(err)
			}
			u.Stop()
			defer func() {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have been ended by the limit
			}()
			links := descriptorsOf(pid)
			sockets, pipes := strings.Count(links, "socket:"), strings.Count(links, "pipe:")
			if (sockets > 0) != (what != "pipes") || (pipes > 0) != (what != "sockets") {
				t.Errorf("holds %s", links)
			}
			session, err := unix.Getsid(pid)
			if err != nil || (session == pid) != strings.HasSuffix(what, ",session") {
				t.Errorf("pid %d, session %d, %v", pid, session, err)
			}
			if n := len(u.Processes()); n != 1 {
				t.Errorf("%d processes found by their mark", n)
			}
		})
	}
}

func descriptorsOf(pid int) string {
	var all []string
	for i := range 20 {
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, i)); err == nil {
			all = append(all, link)
		}
	}
	return strings.Join(all, " ")
}

func TestTargetLeaksMemory(t *testing.T) {
	u := run(t, 1, "", "leak=1000000")
	resident := func() int {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", u.PID()))
		if err != nil {
			t.Fatal(err)
		}
		pages, err := strconv.Atoi(strings.Fields(string(text))[1])
		if err != nil {
			t.Fatal(err)
		}
		return pages * os.Getpagesize()
	}
	Wait(t, func() bool { return resident() > 60<<20 }, "60 MiB resident")
	u.Signal(syscall.SIGKILL)
	u.Wait()
}

package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/wire"
)

// rights are the lines of /proc/PID/status that tell what a process may do.
func rights(t *testing.T, pid int) map[string]string {
	t.Helper()
	text := contents(t, fmt.Sprintf("/proc/%d/status", pid))
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// may fails the test where a process may do something else than this.
func may(t *testing.T, pid int, want map[string]string) {
	t.Helper()
	got := rights(t, pid)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("process %d: %s is %q, want %q", pid, name, got[name], value)
		}
	}
}

const (
	noCapability   = "0000000000000000"
	netBindService = "0000000000000400"
)

// nobody is a user other than root, whose numbers come with it.
func nobody(t *testing.T) (uid, gid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		testkit.Lack(t, "needs root: it runs as other users")
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		testkit.Lack(t, "needs the user nobody: %v", err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}

// ours copies a program to where every user may run it.
func ours(t *testing.T, program string) string {
	t.Helper()
	dir := shortDir(t)
	chmod(t, dir, 0o755)
	path := filepath.Join(dir, filepath.Base(program))
	write(t, path, contents(t, program))
	chmod(t, path, 0o755)
	return path
}

func TestAWorkerOfAnotherUserHasNothingOfRoots(t *testing.T) {
	testkit.Leaks(t)
	uid, gid := nobody(t)
	target := testkit.Target("ready=notify", "lines=1")
	target[0] = ours(t, target[0])
	dir := shortDir(t)
	chmod(t, dir, 0o755)
	sock := filepath.Join(dir, "s")
	a := run(t, config(t, target, "user = \"nobody\"", quick+"\nworkers = 2\nready = \"notify\"", "[logs]\noutput = \"capture\"",
		listen("web", "127.0.0.1:0"), listen("file", "unix://"+sock, `mode = "0660"`, `owner = "nobody:daemon"`)))
	check := func() {
		t.Helper()
		children := a.Children()
		if len(children) != 2 {
			t.Fatalf("%d workers", len(children))
		}
		for _, pid := range children {
			id, group := fmt.Sprint(uid), fmt.Sprint(gid)
			may(t, pid, map[string]string{
				"Uid": strings.Join([]string{id, id, id, id}, " "), "Gid": strings.Join([]string{group, group, group, group}, " "),
				"Groups": group, "NoNewPrivs": "1",
				"CapInh": noCapability, "CapPrm": noCapability, "CapEff": noCapability, "CapBnd": noCapability, "CapAmb": noCapability,
			})
		}
	}
	check()
	daemon, err := user.LookupGroup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	owned(t, sock, fmt.Sprint(uid), daemon.Gid, 0o660)
	// What is baton's own stays so: the worker writes through pipes.
	owned(t, filepath.Join(a.Home, "run", "test.sock"), "0", "0", 0o600)
	owned(t, filepath.Join(a.Home, "log", "test"), "0", "0", 0o700)
	logs, err := filepath.Glob(filepath.Join(a.Home, "log", "test", "*"))
	if err != nil || len(logs) == 0 {
		t.Errorf("no file of the log: %v", err)
	}
	for _, name := range logs {
		owned(t, name, "0", "0", 0o600)
	}
	a.swap()
	a.gone(1)
	check()
	owned(t, sock, fmt.Sprint(uid), daemon.Gid, 0o660)
	a.Stop()
}

// owned fails the test where a file is another's, or open to others.
func owned(t *testing.T, path, uid, gid string, mode os.FileMode) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	if fmt.Sprint(st.Uid) != uid || fmt.Sprint(st.Gid) != gid || os.FileMode(st.Mode&0o777) != mode {
		t.Errorf("%s is %d:%d, %04o, want %s:%s, %04o", path, st.Uid, st.Gid, st.Mode&0o777, uid, gid, mode)
	}
}

// setCapabilities gives a file what setcap(8) cap_net_bind_service=ep does: version 2 of
// vfs_cap_data, with the effective bit (capabilities(7)).
func setCapabilities(t *testing.T, path string) {
	t.Helper()
	var b []byte
	for _, word := range []uint32{0x02000001, 1 << unix.CAP_NET_BIND_SERVICE, 0, 0, 0} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	if err := unix.Setxattr(path, "security.capability", b, 0); err != nil {
		testkit.Lack(t, "needs a file system with file capabilities: %v", err)
	}
}

// A launcher that is nobody but may bind low ports does all that root's does, and hands
// nothing of it on that was not asked for.
func TestAnUnprivilegedLauncherServesOnALowPort(t *testing.T) {
	testkit.Together(t)
	uid, gid := nobody(t)
	fourTimes := func(n int) string { return strings.TrimSpace(strings.Repeat(fmt.Sprint(n)+" ", 4)) }
	for name, byFile := range map[string]bool{"by its file's capability": true, "by an ambient one": false} {
		for _, ambient := range []string{"", "CAP_NET_BIND_SERVICE"} {
			t.Run(name+" "+ambient, func(t *testing.T) {
				testkit.Leaks(t)
				baton := ours(t, testkit.Binary(t))
				if byFile {
					setCapabilities(t, baton)
				}
				target := testkit.Target()
				target[0] = ours(t, target[0])
				more, caps := "", noCapability
				if ambient != "" {
					more, caps = fmt.Sprintf("ambient = [%q]", ambient), netBindService
				}
				path := filepath.Join(filepath.Dir(target[0]), "baton.toml")
				rewrite(t, path, target, more, quick+"\nworkers = 2", listen("web", wire.Server4+":80"))
				chmod(t, path, 0o644)
				w := wire.New(t, wire.Options{})
				a := &app{t: t, Launcher: testkit.NewBaton(t, "run", "--config", path, "--log", "json")}
				if err := os.Chown(a.Home, uid, gid); err != nil {
					t.Fatal(err)
				}
				a.Cmd.Path, a.Cmd.Dir = baton, "/"
				a.Cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
				if !byFile {
					a.Cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
				}
				if err := w.Server(func() error { a.Start(); return nil }); err != nil {
					t.Fatal(err)
				}
				a.serving(1)
				a.WaitEvent(0, "listener-opened", "listener", "web", "mode", "steered")
				l := begun(t, load.Options{Targets: []load.Target{{Network: "tcp", Address: wire.Server4 + ":80"}}, Clients: 4, Dial: w.Dial})
				for range 3 {
					seen := l.Result().Requests
					testkit.Wait(t, func() bool { return l.Result().Requests > seen+20 }, "requests")
					a.swap()
				}
				a.gone(a.last - 1)
				none(t, "load", l.Stop(), 60)
				may(t, a.PID(), map[string]string{"Uid": fourTimes(uid), "CapEff": netBindService})
				children := a.Children()
				if len(children) != 2 {
					t.Errorf("%d workers", len(children))
				}
				for _, pid := range children {
					may(t, pid, map[string]string{"Uid": fourTimes(uid), "NoNewPrivs": "0",
						"CapInh": caps, "CapPrm": caps, "CapEff": caps, "CapAmb": caps})
				}
				a.Stop()
			})
		}
	}
}

// As PID 1 of a container and root there, with a user for the workers.
func TestAsPIDOneBatonsWorkersAreAnotherUsers(t *testing.T) {
	testkit.Leaks(t)
	uid, _ := nobody(t)
	target := testkit.Target()
	target[0] = ours(t, target[0])
	a := asPIDOne(t, config(t, target, "user = \"nobody\"", quick, listen("web", "127.0.0.1:0")))
	a.serving(1)
	pid := a.outside(number(t, a.WaitEvent(0, "ready", "generation", 1), "pid"))
	if got := strings.Fields(rights(t, pid)["Uid"]); got[0] != fmt.Sprint(uid) {
		t.Errorf("uid %v", got)
	}
	may(t, pid, map[string]string{"NoNewPrivs": "1", "CapBnd": noCapability, "CapEff": noCapability})
	a.swap()
	a.Stop()
}

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	// A launcher that has these capabilities: starts args[0] with args[1], comma between,
	// as ambient ones.
	targets["grant"] = func(args []string) {
		cmd := Command{Exec: []string{"/bin/sh", "-c", args[0]}}
		if args[1] != "" {
			cmd.Ambient = strings.Split(args[1], ",")
		}
		r, err := Resolve(cmd)
		exit(err)
		p, err := Start(context.Background(), Spec{Release: r, Env: r.Env(), Stdin: 0, Stdout: 1, Stderr: 2})
		exit(err)
		<-p.Done()
	}
}

// rightsNow is what the kernel says of the rights of the process that reads it.
const rightsNow = `echo $(grep -E '^(Uid|Gid|Groups|NoNewPrivs|Cap)' /proc/self/status)`

// status are the fields of such a line.
func status(line string) map[string]string {
	fields := map[string]string{}
	name := ""
	for _, word := range strings.Fields(line) {
		if n, ok := strings.CutSuffix(word, ":"); ok {
			name = n
			fields[name] = ""
			continue
		}
		fields[name] = strings.TrimSpace(fields[name] + " " + word)
	}
	return fields
}

func bits(names ...int) string {
	var n uint64
	for _, b := range names {
		n |= 1 << b
	}
	return fmt.Sprintf("%016x", n)
}

// holdsRights fails the test where one of these sets is another.
func holdsRights(t *testing.T, of string, inheritable, permitted, bounding, ambient string, noNew string) map[string]string {
	t.Helper()
	got := status(of)
	for name, want := range map[string]string{"CapInh": inheritable, "CapPrm": permitted, "CapEff": permitted,
		"CapBnd": bounding, "CapAmb": ambient, "NoNewPrivs": noNew} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q: %s", name, got[name], want, of)
		}
	}
	return got
}

// four is an id as the kernel tells it: real, effective, saved, of the file system.
func four(id string) string { return strings.Join([]string{id, id, id, id}, " ") }

func TestAUserHasItsGroupsAndNoRightBesides(t *testing.T) {
	asRoot(t)
	const name = "nobody"
	u, err := user.Lookup(name)
	if err != nil {
		t.Skip(err)
	}
	groups, err := exec.Command("id", "-G", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	for as, confine := range map[string]bool{"plain": false, "confined": true} {
		t.Run(as, func(t *testing.T) {
			if confine {
				needsScope(t)
			}
			p := start(t, resolve(t, Command{Exec: []string{"/bin/sh", "-c", rightsNow}, User: name, Confine: confine}))
			got := holdsRights(t, p.line(t), bits(), bits(), bits(), bits(), "1")
			if got["Uid"] != four(u.Uid) || got["Gid"] != four(u.Gid) {
				t.Errorf("uid %s, gid %s, want %s and %s", got["Uid"], got["Gid"], u.Uid, u.Gid)
			}
			if want := strings.TrimSpace(string(groups)); got["Groups"] != want {
				t.Errorf("groups %s, want %s", got["Groups"], want)
			}
		})
	}
}

func TestAUserHasTheAmbientCapabilitiesThatWereAskedFor(t *testing.T) {
	asRoot(t)
	for _, confine := range []bool{false, true} {
		if confine {
			needsScope(t)
		}
		for _, c := range []Command{{}, {NewPrivileges: PrivilegesAllow}} {
			c.Exec, c.User, c.Confine = []string{"/bin/sh", "-c", rightsNow + `; exec sh -c "$AGAIN"`}, "nobody", confine
			c.Env = []string{"AGAIN=" + rightsNow}
			c.Ambient = []string{"CAP_NET_BIND_SERVICE", "CAP_BPF"}
			want := bits(unix.CAP_NET_BIND_SERVICE, unix.CAP_BPF)
			bounding, noNew := want, "1"
			if c.NewPrivileges == PrivilegesAllow {
				bounding, noNew = status(ownRights(t))["CapBnd"], "0"
			}
			p := start(t, resolve(t, c))
			holdsRights(t, p.line(t), want, want, bounding, want, noNew)
			holdsRights(t, p.line(t), want, want, bounding, want, noNew) // what it starts has them too
		}
	}
}

func ownRights(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("/bin/sh", "-c", rightsNow).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A program whose file is set-user-ID, as sudo's is, gives the user of a worker nothing,
// unless that is allowed.
func TestASetUserIDProgramGivesNothing(t *testing.T) {
	asRoot(t)
	shell := copyOf(t, "/bin/sh", filepath.Dir(readable(t))+"/sh")
	if err := os.Chmod(shell, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for allow, want := range map[NewPrivileges]string{PrivilegesAuto: "no", PrivilegesRefuse: "no", PrivilegesAllow: "yes"} {
		// Not its shell builtins: dash gives up rights that are not the user's.
		p := start(t, resolve(t, Command{Exec: []string{shell, "-p", "-c", "test $(id -u) = 0 && echo yes || echo no"}, User: "nobody", NewPrivileges: allow}))
		if got := p.line(t); got != want {
			t.Errorf("with new privileges %q: root: %s, want %s", allow, got, want)
		}
	}
}

// Where no user is named nothing changes but what is asked for, and root stays root.
func TestWhoNamesNoUserKeepsItsRights(t *testing.T) {
	asRoot(t)
	own := status(ownRights(t))
	for noNew, c := range map[string][]Command{
		"0": {{}, {User: "root"}, {Group: "daemon"}},
		"1": {{NewPrivileges: PrivilegesRefuse}, {User: "root", NewPrivileges: PrivilegesRefuse}},
	} {
		for _, c := range c {
			c.Exec = []string{"/bin/sh", "-c", rightsNow}
			holdsRights(t, start(t, resolve(t, c)).line(t), own["CapInh"], own["CapPrm"], own["CapBnd"], own["CapAmb"], noNew)
		}
	}
}

// A launcher that may bind low ports, and nothing else of root's, hands that on to
// nobody who was not meant to have it.
func TestALaunchersOwnCapabilitiesAreNotItsWorkers(t *testing.T) {
	asRoot(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	id, _ := strconv.ParseUint(nobody.Uid, 10, 32)
	binary := readable(t)
	granted := func(ambient string) string {
		t.Helper()
		cmd := exec.Command(binary, rightsNow, ambient)
		cmd.Env = []string{behaviour + "=grant", "PATH=/usr/bin:/bin"}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: uint32(id), Gid: uint32(id)},
			AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW},
		}
		out, err := cmd.CombinedOutput()
		if err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	bounding := status(ownRights(t))["CapBnd"]
	holdsRights(t, granted(""), bits(), bits(), bounding, bits(), "0")
	one := bits(unix.CAP_NET_BIND_SERVICE)
	holdsRights(t, granted("CAP_NET_BIND_SERVICE"), one, one, bounding, one, "0")
	if got, want := granted("CAP_SYS_ADMIN"), "ambient CAP_SYS_ADMIN: operation not permitted: baton does not have it itself"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAmbientCapabilitiesThatCannotBeAreRefused(t *testing.T) {
	for want, c := range map[string]Command{
		"ambient CAP_FLY: no such capability": {Ambient: []string{"CAP_FLY"}},
		"ambient CAP_NET_RAW: the program runs as root, who has every capability anyway (set user, or leave ambient out)": {
			User: "root", Ambient: []string{"CAP_NET_RAW"}},
		`new privileges: "often" is not known`: {NewPrivileges: "often"},
	} {
		c.Exec = []string{"/bin/true"}
		if _, err := Resolve(c); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// The kernel's own list ends where ours does, or later.
func TestCapabilitiesHaveTheKernelsNumbers(t *testing.T) {
	for n, name := range map[int]string{unix.CAP_CHOWN: "CHOWN", unix.CAP_NET_BIND_SERVICE: "NET_BIND_SERVICE",
		unix.CAP_SYS_ADMIN: "SYS_ADMIN", unix.CAP_SETFCAP: "SETFCAP", unix.CAP_LAST_CAP: "CHECKPOINT_RESTORE"} {
		if capabilityNames[n] != name {
			t.Errorf("%d is %s, want %s", n, capabilityNames[n], name)
		}
	}
	if len(capabilityNames) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d capabilities, want %d", len(capabilityNames), unix.CAP_LAST_CAP+1)
	}
}

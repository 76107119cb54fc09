package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"baton/internal/testkit"
)

// The group of the file may use the control socket, and that of the next file after the
// reload that brought it.
func TestAGroupMayUseTheControlSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		testkit.Lack(t, "needs curl: %v", err)
	}
	testkit.Leaks(t)
	group := func(name string) string { return "[control]\ngroup = \"" + name + "\"\n" }
	rest := []string{quick, listen("web", "127.0.0.1:0")}
	path := config(t, testkit.Target(), append(rest, group("54321"))...)
	a := run(t, path)
	a.WaitLog("control socket: .* lets nobody of the group 54321 through")
	chmod(t, a.Home, 0o711)
	asks := func(gid uint32) bool {
		cmd := exec.Command("curl", "-s", "--unix-socket", filepath.Join(a.Home, "run", "test.sock"), "http://baton/v1/status")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{gid}}}
		out, err := cmd.Output()
		return err == nil && strings.Contains(string(out), `"name":"test"`)
	}
	if !asks(54321) || asks(54322) {
		t.Errorf("54321: %t, 54322: %t", asks(54321), asks(54322))
	}
	rewrite(t, path, testkit.Target(), append(rest, group("54322"))...)
	a.swap()
	testkit.Wait(t, func() bool { return asks(54322) && !asks(54321) }, "the other group to be let in")
	rewrite(t, path, testkit.Target(), append(rest, group("no-such-group"))...)
	if code, _, errs := a.baton("reload", "test"); code != 5 || !strings.Contains(errs, "control.group: group: unknown group no-such-group") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if !asks(54322) {
		t.Error("a file that was refused has shut them out")
	}
	rewrite(t, path, testkit.Target(), rest...)
	a.last++ // the one that was refused has a number too
	a.swap()
	testkit.Wait(t, func() bool { return !asks(54322) }, "nobody to be let in")
	if code, _, _ := a.baton("status", "test"); code != 0 {
		t.Errorf("root is answered with %d", code)
	}
	a.Stop()
}

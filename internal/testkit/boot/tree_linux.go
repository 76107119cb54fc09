package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testBinary is the one that runs the tests, inside.
const testBinary = "/opt/baton/test"

// files of every machine.
var files = map[string]string{
	// With an identity the boot is not the first, on which systemd would enable whatever
	// servers /usr happens to hold.
	"/etc/machine-id": "6261746f6e206973206261746f6e2121\n",
	"/etc/hostname":   "machine\n",
	"/etc/hosts":      "127.0.0.1 localhost machine\n::1 localhost\n",
	"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n" +
		fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", Joe, JoeUID, JoeUID, JoeHome),
	"/etc/group": fmt.Sprintf("root:x:0:\nnogroup:x:65534:\n%s:x:%d:\n", Joe, JoeUID),
	// Users' managers want a session of PAM; what pam_systemd would set there, where it
	// is installed, the other file does.
	"/etc/pam.d/systemd-user":                          "account required pam_permit.so\nsession required pam_permit.so\n",
	"/etc/pam.d/other":                                 "auth required pam_deny.so\npassword required pam_deny.so\naccount required pam_deny.so\nsession required pam_deny.so\n",
	"/etc/systemd/system/user@.service.d/runtime.conf": "[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n",
}

// probeUnit runs the test, and switches the machine off after it, whatever came of it. What
// the test left running goes with the machine.
const probeUnit = `[Unit]
Description=the test
[Service]
Type=exec
WorkingDirectory=/probe
Environment=PATH=/opt/baton:/usr/sbin:/usr/bin HOME=/root TMPDIR=/tmp GOTRACEBACK=all GORACE=atexit_sleep_ms=10
Environment=%s
ExecStart=%s
StandardOutput=append:/probe/out
StandardError=append:/probe/out
KillMode=process
ExecStopPost=/bin/sh -c 'echo $EXIT_STATUS >/probe/ended; sync -f /probe; exec systemctl --force --force poweroff'
TimeoutStopSec=10
`

// plant makes the tree.
func (m *machine) plant(t *testing.T, more map[string]string) error {
	t.Helper()
	var failed []error
	for _, dir := range []string{"etc/systemd/system/multi-user.target.wants", "usr", "var", "root", "tmp", "run", "proc", "sys", "dev", "opt/baton", "probe", JoeHome} {
		failed = append(failed, os.MkdirAll(filepath.Join(m.tree, dir), 0o755))
	}
	failed = append(failed, os.Chmod(m.tree, 0o755), os.Chmod(filepath.Join(m.tree, "tmp"), 0o1777|os.ModeSticky),
		os.Chown(filepath.Join(m.tree, JoeHome), JoeUID, JoeUID))
	for _, link := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if to, err := os.Readlink("/" + link); err == nil {
			failed = append(failed, os.Symlink(to, filepath.Join(m.tree, link)))
		}
	}
	release, err := os.ReadFile("/etc/os-release") // by which systemd-nspawn knows a tree
	failed = append(failed, err, m.write("/etc/os-release", string(release)))
	for _, all := range []map[string]string{files, more} {
		for path, text := range all {
			failed = append(failed, m.write(path, text))
		}
	}
	failed = append(failed, os.Symlink("../probe.service", m.tree+"/etc/systemd/system/multi-user.target.wants/probe.service"))
	return errors.Join(failed...)
}

func (m *machine) write(path, text string) error {
	path = filepath.Join(m.tree, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// probe writes the unit of a boot, and takes away what the last one said.
func (m *machine) probe(t *testing.T, n int) error {
	t.Helper()
	for _, name := range []string{"out", "ended"} {
		if err := os.RemoveAll(filepath.Join(m.tree, "probe", name)); err != nil {
			return err
		}
	}
	name := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$$" // for systemd one of them
	name = strings.ReplaceAll(name, "$/", "$$/")
	command := fmt.Sprintf("%s -test.run=%s -test.v -test.count=1 -test.timeout=%v", testBinary, name, m.Limit)
	env := fmt.Sprintf(`%s=%d "%s=%s" %s=%s`, envBoot, n, testkitAll, os.Getenv(testkitAll), testkitBinary, Baton)
	return m.write("/etc/systemd/system/probe.service", fmt.Sprintf(probeUnit, env, command))
}

package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"baton/internal/testkit"
)

// outside makes the tree and boots it as often as it is asked for.
func (m Machine) outside(t *testing.T, boots int) {
	t.Helper()
	testkit.Together(t) // what it does is done elsewhere
	if os.Geteuid() != 0 {
		testkit.Lack(t, "a machine is booted by root alone")
	}
	for _, program := range []string{"systemd-nspawn", "dbus-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			testkit.Lack(t, "no machine without %s: %v", program, err)
		}
	}
	if m.Limit == 0 {
		m.Limit = usualLimit
	}
	own := m.own(t)
	leave := oneOfTwo(t)
	defer leave()
	for n := 1; n <= boots; n++ {
		if !own.boot(t, n) {
			return
		}
	}
}

// machine is one that is made.
type machine struct {
	Machine
	tree, name string
	args       []string // of systemd-nspawn
}

var machines atomic.Int64

func (m Machine) own(t *testing.T) *machine {
	t.Helper()
	// Beside the tree systemd-nspawn puts a lock; both go with the directory.
	top, err := os.MkdirTemp("", "bb")
	if err != nil {
		t.Fatal(err)
	}
	own := &machine{Machine: m, tree: filepath.Join(top, "root"), name: fmt.Sprintf("baton-%d-%d", os.Getpid(), machines.Add(1))}
	t.Cleanup(func() {
		if err := os.RemoveAll(top); err != nil {
			t.Error(err)
		}
		// systemd-nspawn leaves these: its own removal stops at what is no tmpfs.
		for _, dir := range []string{"propagate", "unix-export"} {
			if err := os.Remove("/run/systemd/nspawn/" + dir + "/" + own.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := own.plant(t, m.Files); err != nil {
		t.Fatal(err)
	}
	own.args = []string{"--quiet", "--directory=" + own.tree, "--machine=" + own.name, "--register=no", "--keep-unit", "--private-network",
		"--link-journal=no", "--resolv-conf=off", "--timezone=off", "--bind-ro=/usr", bind(self, testBinary), bind(testkit.Binary(t), Baton)}
	for to, from := range m.Binds {
		own.args = append(own.args, bind(from, to))
	}
	own.args = append(own.args, "--boot")
	return own
}

func bind(from, to string) string {
	colons := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
	return "--bind-ro=" + colons.Replace(from) + ":" + colons.Replace(to)
}

// boot runs the machine until the probe has ended and powered it off, and reports whether
// the test passed inside.
func (m *machine) boot(t *testing.T, n int) bool {
	t.Helper()
	if err := m.probe(t, n); err != nil {
		t.Fatal(err)
	}
	console, err := m.nspawn()
	out := m.read("probe/out")
	code, ended := strings.CutSuffix(m.read("probe/ended"), "\n")
	switch {
	case !ended && out == "":
		// Inside a container that may not make others, for one.
		testkit.Lack(t, "boot %d: the machine does not come up: %v\n%s", n, err, console)
	case !ended:
		t.Errorf("boot %d: the test did not end inside: %v\n%s\nconsole:\n%s", n, err, out, console)
	case code != "0" || !passed(out, t.Name()):
		t.Errorf("boot %d: failed inside (exit code %s):\n%s", n, code, out)
	default:
		t.Logf("boot %d:\n%s", n, out)
		return true
	}
	return false
}

// passed: a test that was skipped, or is not there, exits with 0 too.
func passed(out, name string) bool {
	return regexp.MustCompile(`(?m)^ *--- PASS: ` + regexp.QuoteMeta(name) + ` \(`).MatchString(out)
}

// nspawn runs the machine, bounded by its limit, and returns what its console said.
func (m *machine) nspawn() (string, error) {
	// A little more than the test inside has, which can say why it is late.
	ctx, cancel := context.WithTimeout(context.Background(), m.Limit+15*time.Second)
	defer cancel()
	var console bytes.Buffer
	cmd := exec.CommandContext(ctx, "systemd-nspawn", m.args...)
	cmd.Stdout, cmd.Stderr = &console, &console
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	leave, err := m.groups(cmd)
	if err != nil {
		return "", err
	}
	defer leave()
	done := make(chan error, 1)
	go func() { // ends with the machine
		// The death signal is of the thread, which must not end before the machine.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	err = <-done
	if ctx.Err() != nil {
		err = fmt.Errorf("not within %v", m.Limit)
	}
	return console.String(), err
}

func (m *machine) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(m.tree, name)) // that it is not there says enough
	return string(text)
}

// oneOfTwo waits until less than two machines run, whichever process's they are, and
// returns what lets the next one in. A name in the abstract namespace goes with its holder.
func oneOfTwo(t *testing.T) func() {
	t.Helper()
	var held net.Listener
	testkit.WaitFor(t, 10*time.Minute, func() (ok bool) {
		for i := range 2 {
			var err error
			held, err = (&net.ListenConfig{}).Listen(context.Background(), "unix", fmt.Sprintf("@baton-testkit-machine-%d", i))
			if err == nil {
				return true
			}
		}
		return false
	}, "another machine to be switched off")
	return func() { _ = held.Close() } // nobody ever connects
}

// Package boot runs tests in a machine whose first process is a real systemd: a tree of
// its own that systemd-nspawn boots to its usual target within a second.
//
// A test is written once and runs on both sides. Outside it makes the tree, boots it and
// judges; inside it is the same test of the same binary, run by a unit of the machine as
// root, and does what the test is about:
//
//	func TestAUnitStarts(t *testing.T) {
//		boot.Test(t, func(t *testing.T) {
//			boot.Do(t, "systemctl", "start", "web.service")
//		})
//	}
//
// Each function is a boot; what one leaves on the disk the next one finds. The machine
// has /usr of this one, read-only, /etc, /var and all else its own and nearly empty, a
// network of its own with loopback alone, control groups of its own, a user joe who can
// log in, and baton by its name.
//
// The invariant: what fails or does not run inside fails outside, and no process, mount
// or file is left of a machine. It never touches this machine's own systemd, and it
// mocks nothing: units, users' managers and the bus are what they are anywhere.
package boot

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// The user of the machine who is not root.
const (
	Joe     = "joe"
	JoeUID  = 1000
	JoeHome = "/home/joe"
)

// Baton is the real binary, inside.
const Baton = "/opt/baton/baton"

// Machine is what the tests of a machine need besides.
type Machine struct {
	// Files of the tree, by their absolute paths: their text. They are root's, 0644.
	Files map[string]string
	// Binds are files and directories of this machine, by the path inside: read-only.
	Binds map[string]string
	// Unified has version 2 of control groups alone inside, and systemd keep its units
	// there; else they are as outside, which may be version 1. Of controllers there are
	// those that version 1 has not taken outside.
	Unified bool
	// Limit of one boot; 0: two minutes.
	Limit time.Duration
}

// Test boots a machine for each function and runs that inside. It must be called by the
// test's own function: what comes before it runs on both sides.
func Test(t *testing.T, boots ...func(*testing.T)) {
	t.Helper()
	Machine{}.Test(t, boots...)
}

// Test is the function Test with what this machine has.
func (m Machine) Test(t *testing.T, boots ...func(*testing.T)) {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv(envBoot)); err == nil {
		inside(t, boots[n-1])
		return
	}
	m.outside(t, len(boots))
}

// envBoot in the environment says that this is inside, and the number of the boot.
const envBoot = "BATON_TESTKIT_BOOT"

const usualLimit = 2 * time.Minute

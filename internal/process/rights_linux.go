package process

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// capabilityNames are those of capabilities(7) without CAP_; the index is the number.
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
	SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
	AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON
	BPF CHECKPOINT_RESTORE`)

// rights are what the target may do beyond what its user may.
type rights struct {
	// Bare: of the capabilities nothing but Ambient, in any set. Not for root, whom exec
	// gives all there are.
	Bare    bool
	NoNew   bool // no_new_privs
	Ambient []int
}

// rightsOf says what a command is to have, or why it cannot have it.
func rightsOf(c Command, who *identity) (r rights, err error) {
	user := os.Geteuid()
	if who != nil && who.UID >= 0 {
		user = who.UID
	}
	r.Bare = user != 0
	switch c.NewPrivileges {
	case PrivilegesAuto:
		r.NoNew = r.Bare && c.User != ""
	case PrivilegesAllow:
	case PrivilegesRefuse:
		r.NoNew = true
	default:
		return r, fmt.Errorf("new privileges: %q is not known", c.NewPrivileges)
	}
	for _, name := range c.Ambient {
		n := slices.Index(capabilityNames, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
		switch {
		case n < 0:
			return r, fmt.Errorf("ambient %s: no such capability", name)
		case !r.Bare:
			return r, fmt.Errorf("ambient %s: the program runs as root, who has every capability anyway (set user, or leave ambient out)", name)
		case !permitted(n):
			return r, fmt.Errorf("ambient %s: %w: baton does not have it itself", name, syscall.EPERM)
		}
		r.Ambient = append(r.Ambient, n)
	}
	return r, nil
}

// permitted says whether this process has a capability to give.
func permitted(n int) bool {
	c, err := getCapabilities()
	return err == nil && c[n/32].Permitted&(1<<(n%32)) != 0
}

// assume takes on groups, user and rights, and none beside. What is told is the
// operation that was refused.
//
// The order is the kernel's: the bounding set wants CAP_SETPCAP, which goes with root;
// permitted capabilities outlive the change of user by PR_SET_KEEPCAPS alone, and
// ambient ones are a part of those; Landlock wants CAP_SYS_ADMIN or no_new_privs.
//
// And the user comes before Landlock: Go changes it in all threads, which it reaches by
// signals, and until an erratum of Landlock's was mended those did not leave the domain
// for the process's other threads. All else is the thread's that execs.
func (o *order) assume() (string, syscall.Errno) {
	r := &o.Rights
	if r.Bare {
		if r.NoNew {
			r.bound()
		}
		// Gone with exec (prctl(2)). If it fails, what was to be kept is missed below.
		_ = unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	}
	if o.Who != nil {
		if op, errno := o.Who.assume(); errno != 0 {
			return op, errno
		}
	}
	if r.NoNew {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return "set no_new_privs", errnoOf(err)
		}
	}
	if r.Bare {
		// Without CAP_SYS_ADMIN Landlock takes no_new_privs, which a user is harmed by that
		// may have new privileges: its sudo would do nothing any more.
		if op, errno := r.only(o.Confine && !r.NoNew); errno != 0 {
			return op, errno
		}
	}
	if o.Confine {
		return "confine signals", confine()
	}
	return "", 0
}

// bound leaves nothing but the ambient ones in the set that no program can ever exceed,
// whatever its file says. Where that is not allowed, no_new_privs says the same.
func (r *rights) bound() {
	for n := range 64 {
		if !slices.Contains(r.Ambient, n) && unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0) == unix.EINVAL {
			return // beyond the last one that this kernel knows
		}
	}
}

// only gives up every capability but the ambient ones, and CAP_SYS_ADMIN where the shim
// itself still needs it and has it: exec takes from a target that is not root whatever is
// permitted and not ambient. What is no more inheritable is no more ambient either
// (capabilities(7)).
func (r *rights) only(admin bool) (string, syscall.Errno) {
	const drop = "drop capabilities"
	now, err := getCapabilities()
	if err != nil {
		return drop, errnoOf(err)
	}
	var want capabilities
	for _, n := range r.Ambient {
		want[n/32].Inheritable |= 1 << (n % 32)
	}
	for i := range want {
		want[i].Permitted = want[i].Inheritable
	}
	if admin {
		want[0].Permitted |= now[0].Permitted & (1 << unix.CAP_SYS_ADMIN)
	}
	for i := range want {
		want[i].Effective = want[i].Permitted
	}
	if want != now {
		if err := setCapabilities(&want); err != nil {
			return drop, errnoOf(err)
		}
	}
	for _, n := range r.Ambient {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0); err != nil {
			return "ambient CAP_" + capabilityNames[n], errnoOf(err)
		}
	}
	return "", 0
}

// capabilities of a thread: numbers 0 to 31, and 32 to 63.
type capabilities [2]unix.CapUserData

func getCapabilities() (c capabilities, err error) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return c, unix.Capget(&head, &c[0])
}

func setCapabilities(c *capabilities) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capset(&head, &c[0])
}

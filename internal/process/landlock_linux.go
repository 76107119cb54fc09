package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scopedABI is the first Landlock that keeps signals in (landlock(7)), of Linux 6.12.
const scopedABI = 6

// confinable says why this kernel cannot do what Command.Confine asks for; nil when
// it can.
func confinable() error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		abi = 0
	}
	return scoped(int(abi), errno, kernel())
}

func scoped(abi int, errno syscall.Errno, kernel string) error {
	const way = "leave confine_signals off"
	switch {
	case errno == syscall.EOPNOTSUPP:
		return fmt.Errorf("confine signals: Landlock is off in this %s: %w (add landlock to lsm= on its command line, or %s)", kernel, errno, way)
	case errno != 0:
		return fmt.Errorf("confine signals: no Landlock in this %s: %w (%s)", kernel, errno, way)
	case abi < scopedABI:
		return fmt.Errorf("confine signals: %w by Landlock ABI %d of this %s, which is asked for %d: Linux 6.12 has it (%s)",
			errors.ErrUnsupported, abi, kernel, scopedABI, way)
	}
	return nil
}

// kernel is "Linux 6.12.1".
func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil { // fails for a bad argument only
		return "Linux"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

// assumeConfined is assume, after which this thread's signals stay among itself and
// those that it begins.
//
// The user comes first: Go changes it in all threads, which it reaches by signals,
// and until an erratum of Landlock's was mended those did not leave the domain for
// the process's other threads. But Landlock wants CAP_SYS_ADMIN or no_new_privs, and
// a user that is not root has lost the one and is harmed by the other (its sudo does
// nothing any more): so the capability is kept over the change.
func (o *order) assumeConfined() (string, syscall.Errno) {
	root := os.Geteuid() == 0
	if o.Who != nil {
		if root {
			// In this thread alone, and gone with exec (prctl(2)). If it fails there is
			// no_new_privs.
			_ = unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
		}
		if op, errno := o.Who.assume(); errno != 0 {
			return op, errno
		}
	}
	dropped := root && os.Geteuid() != 0
	if dropped {
		setCapabilities(func(c *capabilities) { c[0].Effective = c[0].Permitted & (1 << unix.CAP_SYS_ADMIN) })
	}
	errno := confine()
	if dropped {
		// As the change of user alone would have left them.
		setCapabilities(func(c *capabilities) {
			for i := range c {
				c[i].Effective, c[i].Permitted = 0, 0
			}
		})
	}
	return "confine signals", errno
}

// capabilities of a thread: numbers 0 to 31, and 32 to 63.
type capabilities [2]unix.CapUserData

// setCapabilities changes those of this thread. It may fail only where a filter
// refuses it: then there is no_new_privs, and exec takes from another user what was
// root's.
func setCapabilities(change func(*capabilities)) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var c capabilities
	if unix.Capget(&head, &c[0]) != nil {
		return // as above
	}
	change(&c)
	_ = unix.Capset(&head, &c[0]) // as above
}

// confine restricts this thread, for good.
func confine() syscall.Errno {
	rules := unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_SIGNAL}
	size := unsafe.Offsetof(rules.Scoped) + unsafe.Sizeof(rules.Scoped) // later kernels' fields are no rule
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), size, 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(fd)) // nothing is buffered in it
	_, _, errno = unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
	if errno == syscall.EPERM {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return errnoOf(err)
		}
		_, _, errno = unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
	}
	return errno
}

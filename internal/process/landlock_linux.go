package process

import (
	"errors"
	"fmt"
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

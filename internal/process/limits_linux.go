package process

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resources are the names of getrlimit(2) without RLIMIT_, in lower case.
var resources = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU,
	"data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS,
	"memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE,
	"nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC,
	"rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
	"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// limit is one setrlimit(2), made in two steps: raising a hard limit takes a
// privilege that is gone once the user has changed; lowering takes none, and what
// the shim has yet to do would not survive some of it. Both steps are raw system
// calls; the second one allocates nothing.
type limit struct {
	Name      string
	Resource  int
	Soft, Max uint64
}

func (l *limit) op() string { return "setrlimit " + l.Name }

// raise lifts the hard limit to Max where it is lower, and leaves the soft one.
func (l *limit) raise() syscall.Errno {
	var now syscall.Rlimit
	if errno := prlimit(l.Resource, nil, &now); errno != 0 || now.Max >= l.Max {
		return errno
	}
	now.Max = l.Max
	return prlimit(l.Resource, &now, nil)
}

func (l *limit) set() syscall.Errno {
	return prlimit(l.Resource, &syscall.Rlimit{Cur: l.Soft, Max: l.Max}, nil)
}

func prlimit(resource int, set, get *syscall.Rlimit) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, uintptr(resource),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(get)), 0, 0)
	return errno
}

func parseLimits(m map[string]string) ([]limit, error) {
	var out []limit
	for _, name := range slices.Sorted(maps.Keys(m)) {
		res, ok := resources[name]
		if !ok {
			return nil, fmt.Errorf("limit %s: no such limit (there are %s)", name,
				strings.Join(slices.Sorted(maps.Keys(resources)), ", "))
		}
		soft, hard, two := strings.Cut(m[name], ":")
		if !two {
			hard = soft
		}
		l := limit{Name: name, Resource: res}
		var err error
		if l.Soft, err = parseLimit(soft); err != nil {
			return nil, fmt.Errorf("limit %s=%s: %w", name, m[name], err)
		}
		if l.Max, err = parseLimit(hard); err != nil {
			return nil, fmt.Errorf("limit %s=%s: %w", name, m[name], err)
		}
		if l.Soft > l.Max {
			return nil, fmt.Errorf("limit %s=%s: the soft limit is above the hard one", name, m[name])
		}
		out = append(out, l)
	}
	return out, nil
}

func parseLimit(s string) (uint64, error) {
	s = strings.TrimSpace(s)
	if s == "unlimited" || s == "infinity" {
		return unix.RLIM_INFINITY, nil
	}
	digits, shift := s, 0
	for i, unit := range []string{"K", "M", "G", "T"} {
		if d, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = d, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number, a size, or unlimited", s)
	}
	if n > math.MaxUint64>>shift {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n << shift, nil
}

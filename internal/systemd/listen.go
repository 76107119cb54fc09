package systemd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Given is a descriptor that the manager has passed.
type Given struct {
	Name string // FileDescriptorName of a .socket unit, or FDNAME of what was stored; "" without one
	FD   int    // close-on-exec
}

// firstGiven is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstGiven = 3

// Descriptors are those that the manager has passed to this process
// (sd_listen_fds_with_names(3)). The variables that say so are gone behind it.
func Descriptors() ([]Given, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if pid == "" || count == "" {
		return nil, nil
	}
	if n, err := strconv.Atoi(pid); err != nil || n != os.Getpid() {
		return nil, nil //nolint:nilerr // they are for another process, from which this one has the environment
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1<<20 {
		return nil, fmt.Errorf("$LISTEN_FDS %q: not a number of descriptors", count)
	}
	called := strings.Split(names, ":")
	given := make([]Given, n)
	for i := range given {
		given[i].FD = firstGiven + i
		syscall.CloseOnExec(given[i].FD)
		if i < len(called) {
			given[i].Name = called[i]
		}
	}
	return given, nil
}

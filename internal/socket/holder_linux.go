package socket

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// receivers are the sockets on the endpoint's port that take what is new: tcp
// sockets in LISTEN, udp sockets that are not connected. Their order is that
// of the kernel's hash chains, and stays as long as nobody joins or leaves.
func receivers(at endpoint) ([]diag.Sock, error) {
	if at.stream {
		return diag.Dump(unix.IPPROTO_TCP, diag.StateListen, at.port)
	}
	return diag.Dump(unix.IPPROTO_UDP, diag.StateClosed, at.port)
}

// holder names the process that has the port, as `pid 123 "nginx"`; "" where it
// cannot be told, for want of rights or because it has gone. For error
// messages only.
func holder(at endpoint) string {
	socks, err := receivers(at)
	if err != nil {
		return "" // the message does without
	}
	for _, s := range socks {
		if who := process(s.Inode); who != "" {
			return who
		}
	}
	return ""
}

// process finds a process that has the socket open.
func process(inode uint64) string {
	link := fmt.Sprintf("socket:[%d]", inode)
	dir, err := os.Open("/proc")
	if err != nil {
		return ""
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what was read before an error will do
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		fds := "/proc/" + name + "/fd"
		entries, _ := os.ReadDir(fds) // not ours to read, or gone: the next one
		for _, e := range entries {
			if to, _ := os.Readlink(fds + "/" + e.Name()); to == link {
				comm, _ := os.ReadFile("/proc/" + name + "/comm") // gone meanwhile: the pid says enough
				return fmt.Sprintf("pid %s %q", name, strings.TrimSpace(string(comm)))
			}
		}
	}
	return ""
}

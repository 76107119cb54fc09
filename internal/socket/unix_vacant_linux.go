package socket

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// vacantBefore is vacant without the lock: a first look that leaves everything
// where it is.
func vacantBefore(path string) error {
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // openPlace says it
	}
	defer unix.Close(fd) // nothing was written
	p := &unixPlace{path: path, base: filepath.Base(path), parent: fd, private: -1}
	p.hidden = ".baton-" + p.base
	if _, err := statAt(fd, p.hidden); err != nil {
		return nil // nothing to be kept: vacant says the rest under the lock
	}
	return p.vacant()
}

// vacant finds out whether the path is free, or a dead server's.
func (p *unixPlace) vacant() error {
	st, err := p.shown()
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%w and is not a socket", unix.EEXIST)
	}
	fd, err := connectUnix(p.dial(p.parent, p.base))
	switch {
	case err == unix.ECONNREFUSED:
		return nil // nobody listens any more
	case err == unix.EAGAIN || err == unix.EPROTOTYPE:
		return unix.EADDRINUSE // a full queue, a datagram socket: alive
	case err != nil:
		return fmt.Errorf("connect to the socket that is there: %w", err)
	}
	defer unix.Close(fd)
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || peer.Pid == 0 {
		return unix.EADDRINUSE // and nobody we could name
	}
	if hasEnded(int(peer.Pid)) {
		who := "a process"
		if _, err := statAt(p.parent, p.hidden); err == nil {
			who = "a launcher"
		}
		// Those who inherited the socket accept on, and SO_PEERCRED names who made it.
		return fmt.Errorf("%w (left by %s that has ended, pid %d, whose workers still serve)", unix.EADDRINUSE, who, peer.Pid)
	}
	return fmt.Errorf("%w (held by %s)", unix.EADDRINUSE, processName(int(peer.Pid)))
}

// hasEnded: /proc shows ourselves, and not the process.
func hasEnded(pid int) bool {
	_, self := os.Stat("/proc/self/comm")
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return self == nil && errors.Is(err, unix.ENOENT)
}

// processName is `pid 123 "nginx"`.
func processName(pid int) string {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // gone meanwhile: the pid says enough
	if name := strings.TrimSpace(string(comm)); name != "" {
		return fmt.Sprintf("pid %d %q", pid, name)
	}
	return fmt.Sprintf("pid %d", pid)
}

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"baton/internal/thread"
	"golang.org/x/sys/unix"
)

// bind makes a stream socket of the fresh name in the private directory. It
// does not listen yet. bound is what getsockname(2) says of it: the path
// itself where that can be had, which programs that find their socket by name
// (nginx, php-fpm, uwsgi) need.
func (p *unixPlace) bind() (fd int, bound string, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, "", fmt.Errorf("socket: %w", err)
	}
	if err := unix.Unlinkat(p.private, nameFresh, 0); err != nil && err != unix.ENOENT {
		_ = unix.Close(fd) // new and unused
		return -1, "", fmt.Errorf("remove %s: %w", p.sibling(p.hidden, nameFresh), err)
	}
	if p.noName == nil {
		if p.noName = p.bindReal(fd); p.noName == nil {
			return fd, p.path, nil
		}
	}
	if bound, err = p.bindBeside(fd); err != nil {
		_ = unix.Close(fd) // new and unused
		return -1, "", err
	}
	return fd, bound, nil
}

// bindReal binds under the path's own name without touching the path: in a
// root directory of the private one, which only a thread of its own sees.
// That takes CAP_SYS_CHROOT.
func (p *unixPlace) bindReal(fd int) error {
	if len(p.path) > maxUnixPath {
		return unix.ENAMETOOLONG
	}
	made := nameRoot
	if err := mkdirIn(p.private, made); err != nil {
		return err
	}
	for _, element := range strings.Split(strings.Trim(filepath.Dir(p.path), "/"), "/") {
		if element == "" {
			continue
		}
		made += "/" + element
		if err := mkdirIn(p.private, made); err != nil {
			return err
		}
	}
	inside := nameRoot + p.path
	// Whatever a bind that was cut short left there.
	if err := unix.Unlinkat(p.private, inside, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", p.sibling(p.hidden, inside), err)
	}
	bound := make(chan error)
	thread.Go(func() { bound <- bindUnder(fd, p.private, p.path) })
	if err := <-bound; err != nil {
		return err
	}
	if err := unix.Renameat(p.private, inside, p.private, nameFresh); err != nil {
		return fmt.Errorf("rename %s: %w", p.sibling(p.hidden, inside), err)
	}
	return nil
}

func mkdirIn(directory int, name string) error {
	if err := unix.Mkdirat(directory, name, 0o700); err != nil && err != unix.EEXIST {
		return fmt.Errorf("mkdir %s: %w", name, err)
	}
	return nil
}

// bindUnder binds fd to path below the scratch root. It ruins the thread it
// runs on: its root is another for good.
func bindUnder(fd, private int, path string) error {
	// Without this, chroot would be that of every thread.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Fchdir(private); err != nil {
		return fmt.Errorf("chdir: %w", err)
	}
	if err := unix.Chroot(nameRoot); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// bindBeside binds to the fresh name as it is.
func (p *unixPlace) bindBeside(fd int) (bound string, err error) {
	bound = p.sibling(p.hidden, nameFresh)
	if len(bound) > maxUnixPath {
		bound = reach(p.private, nameFresh)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: bound})
	if err == unix.ENOENT && len(p.path) > maxUnixPath {
		return "", fmt.Errorf("%d bytes, and the kernel takes %d; the way around it needs /proc: %w",
			len(p.path), maxUnixPath, err)
	}
	if err != nil {
		return "", fmt.Errorf("bind %s: %w", bound, err)
	}
	return bound, nil
}

// own sets the permissions and the owner of the file that is called name in
// the directory, if it is the file meant. plain are the permissions that a
// Mode of 0 stands for.
func own(directory int, name string, file fileID, o Options, plain fs.FileMode) error {
	fd, err := unix.Openat(directory, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if identify(&st) != file {
		return unix.ESTALE
	}
	mode := o.Mode.Perm()
	if mode == 0 {
		mode = plain
	}
	// fchmod(2) refuses an O_PATH descriptor, its name in /proc does not.
	if fs.FileMode(st.Mode).Perm() != mode {
		if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode); err != nil {
			return fmt.Errorf("chmod %04o: %w", mode, errors.Unwrap(err))
		}
	}
	if (o.UID >= 0 && o.UID != int(st.Uid)) || (o.GID >= 0 && o.GID != int(st.Gid)) {
		if err := unix.Fchownat(fd, "", o.UID, o.GID, unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("chown %d:%d: %w", o.UID, o.GID, err)
		}
	}
	return nil
}

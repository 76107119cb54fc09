package socket

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A unixPlace is where the files of a Unix listener are: the directory of the
// path, and in it a private one (0700, ".baton-" and the path's last element)
// with a hard link to every slot's socket. The private directory carries the
// lock that makes its owner the only baton on the path; both are descriptors,
// so that what happens to their names cannot lead elsewhere.
type unixPlace struct {
	path    string // as configured, absolute
	base    string // its last element
	hidden  string // name of the private directory
	parent  int    // descriptor (O_PATH) of the directory of the path
	private int    // descriptor of the private directory, locked

	foreign bool // the path is not ours: there is no private directory (-1)

	// noLinks says why this file system makes no hard links to a socket; then a
	// socket has one name, the path.
	noLinks error
	// noName says why sockets cannot be bound under the path's own name.
	noName error
}

// Names in the private directory; a slot's link is its number.
const (
	nameFresh = "fresh" // a socket just bound
	nameNext  = "next"  // a link about to be renamed over the path
	nameRoot  = "root"  // scratch root to bind under the real name in
	namePID   = "pid"   // who holds the lock
)

// A fileID is a file as long as it exists; a socket bound to it keeps it.
type fileID struct{ device, inode uint64 }

func identify(st *unix.Stat_t) fileID {
	return fileID{uint64(st.Dev), st.Ino} //nolint:unconvert // narrower on some architectures
}

// openPlace takes the lock on a path. What a dead baton left in the private
// directory is removed.
func openPlace(path string) (*unixPlace, error) {
	p := &unixPlace{path: path, base: filepath.Base(path), private: -1}
	p.hidden = ".baton-" + p.base
	if len(path) > maxUnixPath && len(reach(longDescriptor, p.base)) > maxUnixPath {
		return nil, fmt.Errorf("%d bytes, of which %d are the name in the directory: %w",
			len(path), len(p.base), unix.ENAMETOOLONG)
	}
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	p.parent = fd
	if err := p.claim(); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

// resumePlace goes on with the private directory that a launcher before this one had: by
// its descriptor, with which comes the lock, or for want of one (-1) by its name. What
// is in it stays.
func resumePlace(path string, private int) (*unixPlace, error) {
	p := &unixPlace{path: path, base: filepath.Base(path), private: private}
	p.hidden = ".baton-" + p.base
	var err error
	if private >= 0 {
		// The directory it is in, whatever that is called by now.
		p.parent, err = unix.Openat(private, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open the directory of %s: %w", p.sibling(p.hidden), err)
		}
	} else if err = p.reopen(); err != nil {
		return nil, err
	}
	if err := unix.Flock(p.private, unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		err = fmt.Errorf("%w (held by %s)", unix.EADDRINUSE, lockHolder(p.private))
		p.giveBack(private)
		return nil, err
	} else if err != nil {
		p.giveBack(private)
		return nil, fmt.Errorf("lock %s: %w", p.sibling(p.hidden), err)
	}
	_ = writePID(p.private) // for who finds the lock taken; it may be gone, and is made anew then
	return p, nil
}

// reopen opens both directories by name.
func (p *unixPlace) reopen() (err error) {
	dir := filepath.Dir(p.path)
	if p.parent, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	err = unix.Mkdirat(p.parent, p.hidden, 0o700)
	if err == nil || err == unix.EEXIST {
		p.private, err = unix.Openat(p.parent, p.hidden, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(p.private, &st)
	}
	if err == nil && int(st.Uid) != os.Geteuid() {
		err = fmt.Errorf("of uid %d", st.Uid)
	}
	if err != nil {
		p.giveBack(-1)
		return fmt.Errorf("open %s: %w", p.sibling(p.hidden), err)
	}
	return nil
}

// giveBack closes what was opened, and not a descriptor that was given.
func (p *unixPlace) giveBack(given int) {
	if given >= 0 {
		p.private = -1
	}
	p.release()
}

// claim makes the private directory ours. It repeats itself where another
// baton was just leaving: the lock is of use only on the directory that the
// name leads to.
func (p *unixPlace) claim() error {
	for range 100 {
		if err := unix.Mkdirat(p.parent, p.hidden, 0o700); err != nil && err != unix.EEXIST {
			return fmt.Errorf("mkdir %s: %w", p.sibling(p.hidden), err)
		}
		done, err := p.lock()
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: changes hands too fast", p.sibling(p.hidden))
}

// lock takes the lock on the private directory there is; false if it is not
// the one the name leads to any more.
func (p *unixPlace) lock() (bool, error) {
	fd, err := unix.Openat(p.parent, p.hidden, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case err == unix.ENOENT:
		return false, nil
	case err == unix.EACCES:
		return false, fmt.Errorf("%w (held by another user's launcher, or left by it): open %s: %w",
			unix.EADDRINUSE, p.sibling(p.hidden), err)
	case err != nil:
		return false, fmt.Errorf("open %s: %w", p.sibling(p.hidden), err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := lockHolder(fd)
		_ = unix.Close(fd) // nothing was done with it
		if err == unix.EWOULDBLOCK {
			return false, fmt.Errorf("%w (held by %s)", unix.EADDRINUSE, holder)
		}
		return false, fmt.Errorf("lock %s: %w", p.sibling(p.hidden), err)
	}
	done, err := p.furnish(fd)
	if !done || err != nil {
		_ = unix.Close(fd) // gives back a lock that was of no use
		return false, err
	}
	p.private = fd
	return true, nil
}

// furnish empties a private directory whose lock was just taken. One that
// another user's baton left is removed, for what is in it could be theirs.
func (p *unixPlace) furnish(fd int) (bool, error) {
	st, ok := p.named(fd)
	if !ok {
		return false, nil
	}
	if err := clearDirectory(fd); err != nil {
		return false, fmt.Errorf("clear %s: %w", p.sibling(p.hidden), err)
	}
	if int(st.Uid) != os.Geteuid() {
		if err := unix.Unlinkat(p.parent, p.hidden, unix.AT_REMOVEDIR); err != nil {
			return false, fmt.Errorf("remove %s: %w", p.sibling(p.hidden), err)
		}
		return false, nil
	}
	if err := unix.Fchmod(fd, 0o700); err != nil {
		return false, fmt.Errorf("chmod %s: %w", p.sibling(p.hidden), err)
	}
	return true, writePID(fd)
}

func writePID(dir int) error {
	fd, err := unix.Openat(dir, namePID, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", namePID, err)
	}
	f := os.NewFile(uintptr(fd), namePID)
	_, err = fmt.Fprintln(f, os.Getpid())
	return errors.Join(err, f.Close())
}

// lockHolder names who has the lock, as far as that can be read.
func lockHolder(dir int) string {
	const nobody = "a launcher that is just starting"
	fd, err := unix.Openat(dir, namePID, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nobody
	}
	defer unix.Close(fd)
	b := make([]byte, 16)
	n, _ := unix.Read(fd, b) // what cannot be read is not told
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:max(n, 0)])))
	if err != nil {
		return nobody
	}
	return processName(pid)
}

// intact reports whether both names still lead to the directories held.
func (p *unixPlace) intact() bool {
	var named, held unix.Stat_t
	if unix.Stat(filepath.Dir(p.path), &named) != nil || unix.Fstat(p.parent, &held) != nil ||
		identify(&named) != identify(&held) {
		return false
	}
	_, ok := p.named(p.private)
	return ok
}

// named reports whether the private directory's name leads to the one that fd
// holds, and what that is.
func (p *unixPlace) named(fd int) (held unix.Stat_t, ok bool) {
	if unix.Fstat(fd, &held) != nil {
		return held, false
	}
	named, err := statAt(p.parent, p.hidden)
	return held, err == nil && identify(&named) == identify(&held)
}

// sameParent reports whether both places are in one directory.
func (p *unixPlace) sameParent(other *unixPlace) bool {
	var a, b unix.Stat_t
	return unix.Fstat(p.parent, &a) == nil && unix.Fstat(other.parent, &b) == nil &&
		identify(&a) == identify(&b)
}

// show makes the path lead to the socket that has the link name, at once and
// with no moment in between.
func (p *unixPlace) show(name string) error {
	if p.noLinks != nil {
		if err := unix.Renameat(p.private, name, p.parent, p.base); err != nil {
			return fmt.Errorf("rename to %s: %w", p.path, err)
		}
		return nil
	}
	if err := p.link(p.private, name, nameNext); err != nil {
		return err
	}
	err := unix.Renameat(p.private, nameNext, p.parent, p.base)
	// rename(2) does nothing, and leaves both names, where they are links to
	// the same file already. Otherwise the name is gone; either is right.
	_ = unix.Unlinkat(p.private, nameNext, 0)
	if err != nil {
		return fmt.Errorf("rename to %s: %w", p.path, err)
	}
	return nil
}

// link gives the file that is called from in the directory a second name in
// the private one, in place of whatever has that name.
func (p *unixPlace) link(directory int, from, to string) error {
	err := unix.Linkat(directory, from, p.private, to, 0)
	if err == unix.EEXIST {
		if err = unix.Unlinkat(p.private, to, 0); err == nil {
			err = unix.Linkat(directory, from, p.private, to, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", p.sibling(p.hidden, to), err)
	}
	return nil
}

// shown is the file at the path.
func (p *unixPlace) shown() (unix.Stat_t, error) { return statAt(p.parent, p.base) }

// kept is the file with that name in the private directory.
func (p *unixPlace) kept(name string) (unix.Stat_t, error) { return statAt(p.private, name) }

// hide removes the path if it leads to file, and nothing otherwise.
func (p *unixPlace) hide(file fileID) error {
	st, err := p.shown()
	if err == unix.ENOENT || err == nil && identify(&st) != file {
		return nil
	}
	if err == nil {
		err = unix.Unlinkat(p.parent, p.base, 0)
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", p.path, err)
	}
	return nil
}

// remove takes away the private directory with all links in it, and the lock
// last, so that nobody else's is taken away.
func (p *unixPlace) remove() error {
	if p.foreign {
		p.release()
		return nil
	}
	err := clearDirectory(p.private)
	if _, ok := p.named(p.private); ok && err == nil {
		err = unix.Unlinkat(p.parent, p.hidden, unix.AT_REMOVEDIR)
	}
	p.release()
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", p.sibling(p.hidden), err)
	}
	return nil
}

// release closes both descriptors. Nothing was written through them, so
// closing cannot fail in a way that matters.
func (p *unixPlace) release() {
	if p.private >= 0 {
		_ = unix.Close(p.private)
	}
	_ = unix.Close(p.parent)
}

// sibling is the path of something beside the path, for bind(2) and for words.
func (p *unixPlace) sibling(name ...string) string {
	return filepath.Join(append([]string{filepath.Dir(p.path)}, name...)...)
}

// longDescriptor stands for the number of any descriptor there may be.
const longDescriptor = 999999

// dial is what to connect to for the file in one of the two directories: the
// path where it fits in a sockaddr_un, which does without /proc.
func (p *unixPlace) dial(directory int, name string) string {
	if directory == p.parent && len(p.path) <= maxUnixPath {
		return p.path
	}
	return reach(directory, name)
}

// reach is a name of the file in one of the two directories that fits in a
// sockaddr_un whatever the length of the path.
func reach(directory int, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", directory, name)
}

func statAt(directory int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(directory, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// clearDirectory removes all that is in a directory and follows no link.
func clearDirectory(directory int) error {
	// A descriptor of its own, for the position in the directory is shared.
	fd, err := unix.Openat(directory, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "directory")
	names, err := f.Readdirnames(-1)
	_ = f.Close() // only read
	if errors.Is(err, unix.ENOENT) {
		return nil // the directory itself was removed
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := removeEntry(directory, name); err != nil && err != unix.ENOENT {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func removeEntry(directory int, name string) error {
	err := unix.Unlinkat(directory, name, 0)
	if err != unix.EISDIR {
		return err
	}
	fd, err := unix.Openat(directory, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = clearDirectory(fd)
	_ = unix.Close(fd) // only read
	if err != nil {
		return err
	}
	return unix.Unlinkat(directory, name, unix.AT_REMOVEDIR)
}

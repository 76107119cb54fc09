package protocol

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// publicDirs keeps a directory among the temporary files for what workers need by
// path, whichever user they run as: all can pass it, and none but the launcher's user
// writes in it. Its path is not trusted: who cleans up there makes room for somebody
// else's directory of the same name. So it is held by a descriptor, compared before
// each use, and replaced when it is not at its place as it was.
type publicDirs struct {
	prefix  string
	mode    fs.FileMode
	longest int      // of the path it may lie in, in bytes; 0: any
	bases   []string // where it may lie, the best first; nil: the usual places
	now     *publicDir
	former  []*publicDir // changed, but there: workers that know their path may need them
}

// publicDir is one such directory. Files in it are made and removed by the descriptor.
type publicDir struct {
	path  string
	held  *os.File
	made  was // as it was once made
	names map[string]bool
}

// get is the directory, made anew where it is not ours any more.
func (p *publicDirs) get() (*publicDir, error) {
	if p.now != nil && p.now.intact() {
		return p.now, nil
	}
	if p.now != nil {
		p.retire()
	}
	d, err := p.create()
	p.now = d
	return d, err
}

// retire lets go of the present one at once if it is gone from the disk.
func (p *publicDirs) retire() {
	var st unix.Stat_t
	if err := unix.Fstat(p.now.fd(), &st); err == nil && st.Nlink == 0 {
		p.now.held.Close() // nothing was written through it
		clear(p.now.names)
	} else {
		p.former = append(p.former, p.now)
	}
	p.now = nil
}

// create makes it in the first place where all users can pass: the directory for
// temporary files may be its owner's alone (pam_tmpdir(8)).
func (p *publicDirs) create() (*publicDir, error) {
	bases := p.bases
	if bases == nil {
		bases = []string{os.TempDir(), "/tmp"}
	}
	var errs []error
	for i, base := range bases {
		if slices.Contains(bases[:i], base) {
			continue
		}
		real, err := passable(base)
		if err == nil && p.longest > 0 && len(real) > p.longest {
			err = fmt.Errorf("%s: its path is longer than %d bytes", real, p.longest)
		}
		if err == nil {
			var d *publicDir
			if d, err = p.createIn(real); err == nil {
				return d, nil
			}
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (p *publicDirs) createIn(base string) (*publicDir, error) {
	path, err := os.MkdirTemp(base, p.prefix)
	if err != nil {
		return nil, err
	}
	d := &publicDir{path: path, names: make(map[string]bool)}
	if d.held, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	if err := d.prepare(p.mode); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// prepare gives it its mode, which the umask took some of, and locks it: whoever
// cleans up temporary files by age leaves alone what is locked (tmpfiles.d(5)).
func (d *publicDir) prepare(mode fs.FileMode) (err error) {
	if err := d.held.Chmod(mode); err != nil {
		return err
	}
	if err := unix.Flock(d.fd(), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", d.path, err)
	}
	info, err := d.held.Stat()
	if err != nil {
		return err
	}
	d.made = was{info, info.Mode(), owner(info)}
	if d.made.owner != os.Geteuid() || !d.intact() {
		return fmt.Errorf("%s: somebody else's, as soon as it was made", d.path)
	}
	return nil
}

func (d *publicDir) fd() int { return int(d.held.Fd()) }

// inPlace says whether its path still leads to it.
func (d *publicDir) inPlace() bool {
	seen, err := os.Lstat(d.path)
	if err != nil {
		return false
	}
	held, err := d.held.Stat()
	return err == nil && os.SameFile(seen, held)
}

// intact says whether it is in its place, with the owner and the mode it had.
func (d *publicDir) intact() bool {
	seen, err := os.Lstat(d.path)
	return err == nil && os.SameFile(seen, d.made.info) && seen.Mode() == d.made.mode && owner(seen) == d.made.owner
}

// was is which file, and what was once true of it.
type was struct {
	info  fs.FileInfo
	mode  fs.FileMode
	owner int
}

// owner is the user's number; -1: not known.
func owner(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// identity is the numbers by which a file is told from others; zeros: not known.
func identity(info fs.FileInfo) (dev, inode uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev), st.Ino
	}
	return 0, 0
}

// join is the path of a file in it, for workers.
func (d *publicDir) join(name string) string { return filepath.Join(d.path, name) }

// relative is a path of the same file that leads through the descriptor, for this
// process alone (proc_pid_fd(5)).
func (d *publicDir) relative(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(d.fd()) + "/" + name
}

// has says whether a file that was made is still there.
func (d *publicDir) has(name string) bool {
	return unix.Faccessat(d.fd(), name, unix.F_OK, 0) == nil
}

// write makes a file that all can read, or none. The umask took away some of its mode.
func (d *publicDir) write(name string, data []byte) error {
	fd, err := unix.Openat(d.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return &fs.PathError{Op: "create", Path: d.join(name), Err: err}
	}
	d.names[name] = true
	f := os.NewFile(uintptr(fd), d.join(name))
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o444), f.Close()); err != nil {
		return errors.Join(err, d.remove(name)) // half of it is worse than nothing
	}
	return nil
}

// open lets all write to a file that is there: a socket.
func (d *publicDir) open(name string) error {
	if err := unix.Fchmodat(d.fd(), name, 0o666, 0); err != nil {
		return &fs.PathError{Op: "chmod", Path: d.join(name), Err: err}
	}
	return nil
}

// remove removes a file; what is gone already is as good, and so is what went with
// the directory.
func (d *publicDir) remove(name string) error {
	if !d.names[name] {
		return nil
	}
	delete(d.names, name)
	if err := unix.Unlinkat(d.fd(), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: d.join(name), Err: err}
	}
	return nil
}

// close removes the files that were made, and the directory if it is in its place.
func (d *publicDir) close() error {
	var errs []error
	for name := range d.names {
		errs = append(errs, d.remove(name))
	}
	if d.inPlace() {
		errs = append(errs, os.Remove(d.path))
	}
	return errors.Join(append(errs, d.held.Close())...)
}

// close removes all that there is.
func (p *publicDirs) close() error {
	var errs []error
	if p.now != nil {
		p.former = append(p.former, p.now)
	}
	for _, d := range p.former {
		errs = append(errs, d.close())
	}
	p.now, p.former = nil, nil
	return errors.Join(errs...)
}

// passable is the directory without symlinks, if all users can pass it and what is
// above it, and nobody can put another in the place of what he does not own.
func passable(dir string) (string, error) {
	real, err := filepath.Abs(dir)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return "", err
	}
	for at := real; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		switch {
		case err != nil:
			return "", err
		case !info.IsDir():
			return "", &fs.PathError{Op: "pass", Path: at, Err: unix.ENOTDIR}
		case info.Mode()&0o001 == 0:
			return "", fmt.Errorf("%s: workers of other users cannot pass it: its mode is %04o", at, info.Mode().Perm())
		case info.Mode()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0:
			return "", fmt.Errorf("%s: all can replace what is in it: its mode is %04o", at, info.Mode().Perm())
		}
		if at == filepath.Dir(at) {
			return real, nil
		}
	}
}

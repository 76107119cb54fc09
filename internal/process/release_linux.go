package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultPath is searched when the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Release is a resolved Command: everything that a start needs, fixed. The
// executable and the directory are held open (O_PATH: without reading them,
// without keeping anybody from writing them), so that every start of it runs the
// same program in the same directory until Close, whatever lies at those paths by
// then. What is written *into* that same file does change it, which Kept tells.
//
// The executable is run by its path as long as that is still the same inode, so
// that the target and ps(1) see what they expect; and by its descriptor
// afterwards. A script (#!) run by descriptor keeps that descriptor open, as
// number 3+len(Spec.Files), because its interpreter opens /dev/fd/N; $0 is then
// that name. Between the comparison and the exec lie microseconds in which a
// rename is not seen.
type Release struct {
	path string // as configured, made absolute
	real string // the same file without symlinks
	dir  string // without symlinks; "" where none was configured
	args []string
	env  []string

	dev, ino uint64
	umask    int // -1: unchanged
	limits   []limit
	who      *identity
	rights   rights
	confine  bool

	mu          sync.RWMutex // held for reading while a start passes the descriptors on
	exeFD, wdFD int          // -1: closed, or none
	was         content      // of the executable: when it first ran, and before that at Resolve
	hasRun      bool
}

// Path is the executable's path as configured, absolute.
func (r *Release) Path() string { return r.path }

// Real is the executable's path with symlinks followed, as it was at Resolve.
func (r *Release) Real() string { return r.real }

// Dir is the working directory with symlinks followed, as it was at Resolve; empty
// when it is the launcher's own.
func (r *Release) Dir() string { return r.dir }

// Args are the program's arguments, its name (as configured) first.
func (r *Release) Args() []string { return r.args }

// Env is the resulting environment: base, the user's variables, Env, EnvFile.
func (r *Release) Env() []string { return r.env }

// Close lets go of the executable and the directory. Running targets do not
// notice; Start with this release is refused from now on.
func (r *Release) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, fd := range []*int{&r.exeFD, &r.wdFD} {
		if *fd >= 0 {
			unix.Close(*fd) // O_PATH: nothing is written back, so nothing can fail
			*fd = -1
		}
	}
	return nil
}

// Resolve looks at everything afresh: directory, environment files, user, $PATH,
// executable. Errors name the thing: "exec /srv/app: no such file or directory".
// An executable that is empty or cut short is not refused here but by Start: it
// may still be being written, and Start waits a second for that.
func Resolve(c Command) (*Release, error) {
	if len(c.Exec) == 0 || c.Exec[0] == "" {
		return nil, errors.New("exec: no command given")
	}
	for _, a := range c.Exec {
		if strings.ContainsRune(a, 0) {
			return nil, fmt.Errorf("exec %s: a NUL byte in argument %q", c.Exec[0], a)
		}
	}
	r := &Release{args: c.Exec, umask: -1, exeFD: -1, wdFD: -1}
	if err := r.resolve(c); err != nil {
		_ = r.Close() // only read from
		return nil, err
	}
	return r, nil
}

func (r *Release) resolve(c Command) (err error) {
	if c.Umask != nil {
		if r.umask = *c.Umask; r.umask < 0 || r.umask > 0o777 {
			return fmt.Errorf("umask %#o: not between 0 and 0777", r.umask)
		}
	}
	if r.limits, err = parseLimits(c.Limits); err != nil {
		return err
	}
	if r.confine = c.Confine; r.confine {
		if err = confinable(); err != nil {
			return err
		}
	}
	if err = r.openDir(c.Dir); err != nil {
		return err
	}
	if r.who, err = lookup(c.User, c.Group); err != nil {
		return err
	}
	if r.rights, err = rightsOf(c, r.who); err != nil {
		return err
	}
	env, err := r.environment(c)
	if err != nil {
		return err
	}
	r.env = env.list
	if strings.Contains(c.Exec[0], "/") {
		return r.openExe(c.Exec[0], c.Dir)
	}
	path, ok := env.get("PATH")
	if !ok {
		path = defaultPath
	}
	return r.search(c.Exec[0], path)
}

// environment lays the sources over each other. PWD follows the directory, as a
// shell would have left it.
func (r *Release) environment(c Command) (*environment, error) {
	base := c.Base
	if base == nil {
		base = os.Environ()
	}
	env := newEnvironment(base)
	if r.who != nil && r.who.UID >= 0 {
		env.set("HOME", r.who.home)
		env.set("USER", r.who.name)
		env.set("LOGNAME", r.who.name)
		env.set("SHELL", r.who.shell)
	}
	if r.dir != "" {
		env.set("PWD", r.dir)
	}
	for _, kv := range c.Env {
		if err := env.add(kv); err != nil {
			return nil, err
		}
	}
	for _, f := range c.EnvFile {
		if err := env.addFile(f, r.dir); err != nil {
			return nil, err
		}
	}
	return env, nil
}

func (r *Release) openDir(dir string) error {
	if dir == "" {
		return nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("chdir %s: %w", dir, err)
	}
	r.wdFD = fd
	if r.dir, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil {
		return fmt.Errorf("chdir %s: %w", dir, err)
	}
	return nil
}

// openExe opens the executable. A relative name is opened beneath the directory
// that is already held, so that both are of one deployment even if a symlink moves
// between the two opens.
func (r *Release) openExe(name, dir string) error {
	at := unix.AT_FDCWD
	shown := name
	if !filepath.IsAbs(name) {
		if r.wdFD >= 0 {
			at = r.wdFD
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("exec %s: %w", name, err)
		}
		// Not filepath.Join: ".." behind a symlink is not what it looks like.
		shown = abs + "/" + strings.TrimPrefix(name, "./")
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("exec %s: %w", shown, err)
	}
	return r.hold(fd, shown)
}

// hold takes fd over when it is something that can be executed, and closes it
// otherwise.
func (r *Release) hold(fd int, shown string) (err error) {
	defer func() {
		if err != nil {
			unix.Close(fd) // O_PATH: cannot fail in a way that matters
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("exec %s: %w", shown, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return fmt.Errorf("exec %s: %w", shown, syscall.EISDIR)
	default:
		return fmt.Errorf("exec %s: not a regular file: %w", shown, syscall.EACCES)
	}
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	// Also says no on a filesystem mounted noexec.
	if err := unix.Faccessat(unix.AT_FDCWD, self, unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("exec %s: not executable (mode %04o): %w", shown, st.Mode&0o7777, err)
	}
	real, err := os.Readlink(self)
	if err != nil {
		return fmt.Errorf("exec %s: %w", shown, err)
	}
	r.exeFD, r.path, r.real, r.dev, r.ino = fd, shown, real, uint64(st.Dev), st.Ino
	r.was = contentOf(&st)
	return nil
}

// search walks $PATH. Relative entries are passed over, as os/exec does: what runs
// must not depend on where one stands. A match that cannot be executed is told
// only when nothing better follows.
func (r *Release) search(name, path string) error {
	var found error
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		fd, err := unix.Open(file, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if err = r.hold(fd, file); err == nil {
			return nil
		}
		if found == nil {
			found = err
		}
	}
	if found != nil {
		return found
	}
	return fmt.Errorf("exec %s: %w in $PATH", name, syscall.ENOENT)
}

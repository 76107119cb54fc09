package control

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Claim is that this process is the only launcher of its name. It is held by a lock
// on a file, which the kernel gives up with the process, however that ends.
type Claim struct {
	dir, name string
	lock      *os.File
	socket    fs.FileInfo // nil: none was made
	listener  *net.UnixListener
}

// TakenError is returned by Take when the name has a launcher.
type TakenError struct {
	Name string
	PID  int // of that launcher; 0: not known
}

func (e *TakenError) Error() string {
	if e.PID == 0 {
		return e.Name + " is already running"
	}
	return fmt.Sprintf("%s is already running, with pid %d", e.Name, e.PID)
}

// ExitCode is that of being busy.
func (e *TakenError) ExitCode() int { return 6 }

// Take claims a name in dir, which it makes if need be. The error is a *TakenError
// when another process has the name.
func Take(dir, name string) (*Claim, error) {
	if !Fits(name) {
		return nil, fmt.Errorf("%q is no name of an application", name)
	}
	if err := Private(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+lockSuffix)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		mine, err := lock(f)
		if err == nil && mine {
			return &Claim{dir: dir, name: name, lock: f}, nil
		}
		var taken *TakenError
		if errors.As(err, &taken) {
			taken.Name, taken.PID = name, holder(f)
		}
		_ = f.Close() // nothing was written to it
		if err != nil {
			return nil, err
		}
		// The file was taken away by who had the lock, between the open and the lock.
	}
}

// Private makes dir, and makes sure that it is this user's alone.
func Private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to uid %d, not to uid %d", dir, s.Uid, os.Geteuid())
	}
	// One of this directory's launchers may have let a group through.
	if mode := info.Mode().Perm(); mode != 0o700 && mode != throughMode {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// throughMode lets everybody reach what lies in a directory and has a mode that lets
// him; nobody but its owner sees what that is.
const throughMode = 0o711

// Share lets a group's members connect to the socket, or with -1 nobody but its owner;
// Listen has made it. The directory of the socket lets them through then. What they may
// do is the Server's to say. When it fails the socket is the owner's alone.
func (c *Claim) Share(gid int) error {
	path := filepath.Join(c.dir, c.name+socketSuffix)
	if there, err := os.Lstat(path); err != nil || c.socket == nil || !os.SameFile(c.socket, there) {
		return errors.Join(err, fmt.Errorf("%s is not this launcher's socket any more", path))
	}
	if err := os.Chmod(path, 0o600); err != nil || gid < 0 {
		return err
	}
	if err := os.Lchown(path, -1, gid); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	if err := os.Chmod(c.dir, throughMode); err != nil {
		return err
	}
	return passable(filepath.Dir(c.dir), gid)
}

// passable looks for a directory above the socket's that does not let a group through.
// These are not baton's to change.
func passable(dir string, gid int) error {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		mine := ok && int(s.Gid) == gid
		if mode := info.Mode().Perm(); mine && mode&0o010 == 0 || !mine && mode&0o001 == 0 {
			return fmt.Errorf("%s lets nobody of the group %d through", dir, gid)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// lock locks f and writes the pid into it. It is not mine when the file has another
// name by now, or none: then whoever comes next would lock another.
func lock(f *os.File) (mine bool, err error) {
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, &TakenError{}
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(f.Name())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err != nil || !os.SameFile(ours, there) {
		return false, nil //nolint:nilerr // that it is gone is the answer
	}
	if err := f.Truncate(0); err != nil {
		return false, err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = nil // the lock is held, which is what counts: that nobody learns the pid is less than no control socket
	}
	return err == nil, err
}

// holder is the pid in a lock that another has. One who has it since a moment may
// not have written it yet.
func holder(f *os.File) int {
	for range 20 {
		text, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
		if err != nil {
			return 0
		}
		if pid, err := strconv.Atoi(strings.TrimSuffix(string(text), "\n")); err == nil && strings.HasSuffix(string(text), "\n") {
			return pid
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0
}

// Beside is the path of another file of this application in the directory. Whoever
// makes it takes it away before Close.
func (c *Claim) Beside(suffix string) string { return Beside(c.dir, c.name, suffix) }

// Dir is the directory that the claim lies in.
func (c *Claim) Dir() string { return c.dir }

// Beside is that path for any application.
func Beside(dir, name, suffix string) string { return filepath.Join(dir, name+suffix) }

// Listen makes the socket, or gives the one that was kept. One that a launcher left that
// was killed gives way.
func (c *Claim) Listen() (net.Listener, error) {
	if c.listener != nil {
		return c.listener, nil
	}
	path := filepath.Join(c.dir, c.name+socketSuffix)
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("listen unix %s: something that is no socket is in the way", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := listen(path)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // Close does it, if the path is still this socket's
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if c.socket, err = os.Lstat(path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	c.listener = l
	return l, nil
}

// Close takes socket and lock away. The next launcher of the name may begin at once.
func (c *Claim) Close() error {
	var err error
	path := filepath.Join(c.dir, c.name+socketSuffix)
	if there, gone := os.Lstat(path); gone == nil && c.socket != nil && os.SameFile(c.socket, there) {
		err = os.Remove(path)
	}
	// While it is locked: nobody else can have begun to use it.
	if ours, e := c.lock.Stat(); e == nil {
		if there, gone := os.Lstat(c.lock.Name()); gone == nil && os.SameFile(ours, there) {
			err = errors.Join(err, os.Remove(c.lock.Name()))
		}
	}
	return errors.Join(err, c.lock.Close())
}

// listen and dial take a path of any length: the kernel's limit is that of the
// address alone.
func listen(path string) (*net.UnixListener, error) {
	var l *net.UnixListener
	err := reach(path, func(short string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	return l, err
}

func dial(path string) (*net.UnixConn, error) {
	var c *net.UnixConn
	err := reach(path, func(short string) (err error) {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	return c, err
}

// absent reports whether a dial failed because nobody listens.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// longest is what sockaddr_un holds, with the zero that ends it.
const longest = len(unix.RawSockaddrUnix{}.Path) - 1

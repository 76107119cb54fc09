package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"baton/internal/event"
	"baton/internal/keep"
)

// Names of a claim's descriptors.
const (
	keptLock   = "control.lock"
	keptSocket = "control.socket"
)

// Keep names the lock and the socket, for the program that this process becomes: the
// claim stays held, and who connects meanwhile waits.
func (c *Claim) Keep(f *keep.Files) error {
	raw, err := c.lock.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Control(func(fd uintptr) { f.Put(keptLock, int(fd)) }); err != nil || c.listener == nil {
		return err
	}
	if raw, err = c.listener.SyscallConn(); err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f.Put(keptSocket, int(fd)) })
}

// Resume takes a claim over that was kept; Listen then gives the socket that was.
func Resume(dir, name string, f *keep.Files) (*Claim, error) {
	fd, err := f.Take(keptLock)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+lockSuffix)
	c := &Claim{dir: dir, name: name, lock: os.NewFile(uintptr(fd), path)}
	if fd, err = f.Take(keptSocket); err != nil { // there was none
		return c, nil // Listen makes one
	}
	file := os.NewFile(uintptr(fd), name+socketSuffix)
	defer file.Close() // the listener has a duplicate
	l, err := net.FileListener(file)
	if err != nil {
		return c, fmt.Errorf("the control socket: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return c, errors.Join(fmt.Errorf("the control socket is one of %s", l.Addr().Network()), l.Close())
	}
	u.SetUnlinkOnClose(false) // Close does it, if the path is still this socket's
	c.listener = u
	c.socket, err = os.Lstat(c.Beside(socketSuffix))
	if err != nil { // somebody took the path away: another socket is made
		c.listener = nil
		return c, errors.Join(err, l.Close())
	}
	return c, nil
}

// Last are the last n events.
func (f *Feed) Last(n int) []event.Event {
	batch, _, _, _ := f.from(f.back(n))
	return batch
}

package socket

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"baton/internal/keep"
	"golang.org/x/sys/unix"
)

// Keep leaves out the directory of the path, which is where the private one is, and the
// watch of names, which holds for this process alone.
func (l *unixListener) Keep(prefix string, f *keep.Files) State {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return State{Name: l.name}
	}
	s := State{
		Name: l.name, Address: l.address.String(), Mode: Steered, Reason: l.reason, Options: l.o.state(),
		Made: l.count, Table: append([]Share{}, l.table...),
		Unix: &UnixState{At: l.at.id, Keys: l.made, Names: slices.Sorted(maps.Keys(l.bound)),
			NoLinks: text(l.place.noLinks), NoName: text(l.place.noName)},
	}
	for _, one := range slices.Concat(l.sockets(), l.old) {
		kept := one.state(prefix, f)
		if slots := having(l.slots, one); l.reason == "" {
			kept.Slots = slots
		} else {
			s.Mode, s.Slots = Shared, slots
		}
		s.Order = append(s.Order, kept)
	}
	if l.place.foreign {
		s.Order[0].Foreign, s.Unix.Path = new(Foreign), l.place.path
	} else {
		f.Put(directoryName(prefix), l.place.private)
	}
	return s
}

func (s *unixSlot) state(prefix string, f *keep.Files) Socket {
	file := &UnixFile{Key: s.key, Device: s.file.device, Inode: s.file.inode, Plain: s.plain}
	for _, g := range s.given {
		file.Given = append(file.Given, g.id)
		f.Put(connectionName(prefix, g.id), g.fd)
	}
	f.Put(socketName(prefix, s.id), s.fd)
	return Socket{Number: s.id, Inode: s.inode, Backlog: int(s.backlog), Refused: s.refused, File: file}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func untext(s string) error {
	if s == "" {
		return nil
	}
	return errors.New(s)
}

func resumeUnix(s State, a Address, prefix string, f *keep.Files, log *slog.Logger) (Listener, error) {
	if err := s.checkUnix(); err != nil {
		return nil, err
	}
	o := s.options(log)
	l := newUnix(a, o)
	l.reason, l.table, l.made, l.count = s.Reason, slices.Clone(s.Table), s.Unix.Keys, s.Made
	for _, name := range s.Unix.Names {
		l.bound[name] = true
	}
	lost, err := l.takeBack(s, prefix, f)
	if err == nil {
		err = l.takePlace(s, prefix, f)
	}
	if err == nil {
		err = l.resumeWatch()
	}
	if err != nil {
		l.dismiss()
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// What goes wrong from here on Maintain tries again, and tells.
	if err := l.reunite(s, lost); err != nil {
		l.log.Warn("a resumed listener is not yet what it was", "error", err)
	}
	return l, nil
}

// takeBack takes the sockets that are there, and tells which of those that slots have are
// lost.
func (l *unixListener) takeBack(s State, prefix string, f *keep.Files) (lost []Socket, err error) {
	met := make(map[uint64]bool)
	var cause error
	for _, one := range s.Order {
		slots := one.Slots
		if s.Mode == Shared {
			slots = s.Slots
		}
		name := socketName(prefix, one.Number)
		fd, err := f.Take(name)
		if err == nil {
			if err = checkUnixDescriptor(fd, one); err == nil && met[one.Inode] {
				err = errors.New("another name has the same socket")
			}
			met[one.Inode] = true
			if err != nil {
				unix.Close(fd) // it is not what it was said to be
				err = fmt.Errorf("descriptor %q: %w", name, err)
			}
		}
		if err != nil {
			cause = err
			l.log.Warn("a socket of the listener did not come back", "slots", slots, "cause", err)
			if len(slots) > 0 {
				lost = append(lost, one)
			}
			continue
		}
		u := unixResumed(fd, one, slots)
		for _, id := range one.File.Given {
			if fd, err := f.Take(connectionName(prefix, id)); err == nil { // else it is over
				u.given = append(u.given, givenUp{fd: fd, id: id})
			}
		}
		for _, slot := range slots {
			l.slots[slot] = u
		}
		if len(slots) == 0 {
			l.old = append(l.old, u)
		}
	}
	if len(l.slots) == 0 {
		return nil, cmp.Or(cause, errors.New("no socket that a slot has"))
	}
	return lost, nil
}

func unixResumed(fd int, one Socket, slots []int) *unixSlot {
	u := &unixSlot{
		fd: fd, id: one.Number, key: one.File.Key, inode: one.Inode,
		file: fileID{device: one.File.Device, inode: one.File.Inode}, plain: one.File.Plain,
		backlog: uint32(one.Backlog), refused: one.Refused, names: -1,
	}
	if len(slots) > 0 {
		u.number = slots[0]
	}
	return u
}

// checkUnixDescriptor is an error where the descriptor is not the socket that the state means. By
// its inode alone, for nothing else tells one socket of a path from the next.
func checkUnixDescriptor(fd int, one Socket) error {
	inode, err := socketInode(fd)
	if err != nil {
		return err
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case err != nil:
		return fmt.Errorf("read SO_DOMAIN: %w", err)
	case domain != unix.AF_UNIX || inode != one.Inode:
		return fmt.Errorf("socket %d of family %d, not unix socket %d", inode, domain, one.Inode)
	}
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		return errors.New("a socket that does not listen")
	}
	return nil
}

func (l *unixListener) takePlace(s State, prefix string, f *keep.Files) error {
	if s.Order[0].Foreign != nil {
		if s.Mode != Shared {
			return errors.New("a socket of somebody else's, steered by its path")
		}
		var err error
		l.place, err = foreignPlace(cmp.Or(s.Unix.Path, l.address.Path))
		return err
	}
	private, err := f.Take(directoryName(prefix))
	if err != nil {
		l.log.Warn("the lock on the path did not come back, and is taken anew", "cause", err)
	}
	p, err := resumePlace(l.address.Path, private)
	if err != nil {
		if private >= 0 {
			unix.Close(private) // nothing was done with it
		}
		return err
	}
	p.noLinks, p.noName = untext(s.Unix.NoLinks), untext(s.Unix.NoName)
	l.place = p
	return nil
}

func (l *unixListener) resumeWatch() error {
	w, lame, err := newUnixWatch(l.woken)
	if err != nil {
		return err
	}
	if lame != nil {
		l.log.Warn("an unlinked path is put back within a second, not at once", "cause", lame)
	}
	l.watch = w
	return nil
}

// dismiss closes what was taken, when there is to be no listener.
func (l *unixListener) dismiss() {
	for _, one := range slices.Concat(l.sockets(), l.old) {
		one.forget()
		unix.Close(one.fd) // workers have duplicates
	}
	if l.place != nil {
		l.place.release()
	}
}

// reunite makes new sockets for the slots whose own is lost, watches all, and lets the
// path lead where the table says; l.mu is held.
func (l *unixListener) reunite(s State, lost []Socket) (err error) {
	for _, one := range l.sockets() {
		err = errors.Join(err, l.watch.socket(one.fd))
		if directory, name, ok := l.whereIs(one); ok {
			var lame error
			if one.names, lame = l.watch.names(reach(directory, name)); lame != nil {
				l.log.Warn("an unlinked path is put back within a second, not at once", "cause", lame)
			}
		}
	}
	for _, one := range lost {
		err = errors.Join(err, l.substitute(one))
	}
	l.at = l.resumeAt(s.Unix.At)
	if l.at.refused && !l.place.foreign {
		err = errors.Join(err, l.place.hide(l.at.file))
	}
	err = errors.Join(err, l.maintain(false))
	if l.reason == "" && len(l.table) > 0 {
		parts, e := l.parts(l.table)
		err = errors.Join(err, e)
		l.takeTurns(admitted(parts))
	}
	return err
}

// resumeAt is where the path is to lead: to a socket of the table, the one it led to if
// that is one; l.mu is held.
func (l *unixListener) resumeAt(id int) (at *unixSlot) {
	for _, one := range l.sockets() {
		if at == nil || one.id == id {
			at = one
		}
	}
	if l.reason != "" || len(l.table) == 0 {
		return at
	}
	parts, err := l.parts(l.table)
	if parts = admitted(parts); err != nil || len(parts) == 0 {
		return at // refused, so the path leads nowhere
	}
	return parts[0].s
}

// substitute makes a new socket for slots whose own has not come back; l.mu is held.
func (l *unixListener) substitute(one Socket) error {
	fresh, err := l.socket(one.Slots[0], one.File.Key)
	if err != nil {
		return fmt.Errorf("replace slot %d: %w", one.Slots[0], err)
	}
	fresh.refused = one.Refused
	for _, slot := range one.Slots {
		l.slots[slot] = fresh
		l.found.post(Broken, slot, "its socket did not come back to the launcher")
	}
	return l.handOver(fresh)
}

package socket

import (
	"errors"
	"fmt"
	"time"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// retakePause is how long a path that a stranger keeps taking is left to him
// between two looks of the watch. Two launchers that both fought at once would
// fill the machine with it; Maintain takes it back each second in any case.
const retakePause = 100 * time.Millisecond

// selfTest connects to the slot through its link, where nobody else can, and
// accepts: links to a socket lead to it, and sock_diag tells of acceptance. Not
// every file system and sandbox has both.
func (l *unixListener) selfTest(s *unixSlot) error {
	if err := l.place.link(l.place.private, s.link(), nameNext); err != nil {
		l.place.noLinks = err
		return err
	}
	fd, err := connectUnix(reach(l.place.private, nameNext))
	if err != nil {
		return fmt.Errorf("connect through a link: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Unlinkat(l.place.private, nameNext, 0); err != nil {
		return fmt.Errorf("remove a link: %w", err)
	}
	client, err := socketInode(fd)
	if err != nil {
		return err
	}
	before, err := seen(client)
	if err != nil {
		return err
	}
	accepted, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	defer unix.Close(accepted)
	inode, err := socketInode(accepted)
	if err != nil {
		return err
	}
	after, err := seen(client)
	if err != nil {
		return err
	}
	if before.Peer != 0 || after.Peer != inode {
		return errors.New("sock_diag does not tell what was accepted")
	}
	return nil
}

// seen is what sock_diag says of a connected socket of ours.
func seen(client uint64) (diag.UnixSock, error) {
	s, ok, err := diag.UnixPeer(client)
	if err == nil && !ok {
		err = errors.New("sock_diag does not find a connection of ours")
	}
	return s, err
}

func socketInode(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stat: %w", err)
	}
	return st.Ino, nil
}

// woken is called by the watch.
func (l *unixListener) woken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		// What cannot be put right now, Maintain meets again, and returns.
		_ = l.maintain(true)
	}
}

func (l *unixListener) Maintain() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.fail("maintain", ErrClosed)
	}
	defer l.found.flush()
	if err := l.maintain(false); err != nil {
		return l.fail("maintain", err)
	}
	return nil
}

// maintain puts right what is not as it should be, as far as it can, and
// returns what it could not; l.mu is held. When woken, it does not fight
// without pause for the path.
func (l *unixListener) maintain(woken bool) error {
	var errs []error
	if l.place.foreign {
		return l.mendForeign()
	}
	if !l.place.intact() {
		if err := l.move(); err != nil {
			return err // there is nowhere to put anything
		}
	}
	for _, s := range l.sockets() {
		errs = append(errs, l.mend(s))
	}
	l.closeOld(false)
	// Until open is through, and when it fails, the path leads nowhere yet.
	if l.at != nil && !l.at.refused {
		errs = append(errs, l.mendPath(woken))
	}
	return errors.Join(errs...)
}

// mend sees to one slot: its socket, its backlog, its link.
func (l *unixListener) mend(s *unixSlot) error {
	if broken(s.fd) {
		return l.replace(s, "the socket was shut down")
	}
	if err := l.mendLink(s); err != nil {
		return err
	}
	if _, err := s.unaccepted(); err != nil {
		return err
	}
	return l.mendBacklog(s)
}

// mendForeign has only the backlog to see to. A socket of the launcher's own in the
// place of one that is shut down would not have the path.
func (l *unixListener) mendForeign() error {
	for _, s := range l.sockets() {
		if broken(s.fd) {
			return errors.New("the socket was shut down, and is not ours to replace: who made it must make it anew")
		}
		if _, err := s.unaccepted(); err != nil {
			return err
		}
		if err := l.mendBacklog(s); err != nil {
			return err
		}
	}
	return nil
}

func (l *unixListener) mendBacklog(s *unixSlot) error {
	if s.backlog == 0 {
		return nil
	}
	d, ok, err := diag.UnixListening(s.inode)
	if err != nil {
		return err
	}
	if ok && d.WQueue != s.backlog {
		want := s.backlog
		if err := l.listen(s); err != nil {
			return err
		}
		if l.told[s.number] {
			return nil // some programs call listen at every start
		}
		l.told[s.number] = true
		l.found.post(Adjusted, s.number, fmt.Sprintf("the backlog was %d, and is %d again", d.WQueue, want))
	}
	return nil
}

// broken reports that the socket takes no connection any more: a shutdown for
// reading is enough (unix_stream_connect in net/unix/af_unix.c).
func broken(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0
}

// mendLink puts back the private link of a slot from the path, if that is the
// file's last name; a file without any name can never get one again.
func (l *unixListener) mendLink(s *unixSlot) error {
	directory, name, ok := l.whereIs(s)
	switch {
	case !ok && s.refused:
		return nil // nobody is to reach it, and what it has queued must stay
	case !ok:
		return l.replace(s, "every name of the socket was removed")
	case l.place.noLinks == nil && directory == l.place.parent:
		return l.place.link(directory, name, s.link())
	}
	return nil
}

// mendPath makes the path lead where it should.
func (l *unixListener) mendPath(woken bool) error {
	st, err := l.place.shown()
	gone := errors.Is(err, unix.ENOENT)
	if err != nil && !gone {
		return fmt.Errorf("stat %s: %w", l.place.path, err)
	}
	if !gone && identify(&st) == l.at.file {
		return nil
	}
	strange := !gone && !l.ours(&st)
	if strange && woken && time.Since(l.taken) < retakePause {
		return nil
	}
	if err := l.place.show(l.at.link()); err != nil {
		return err
	}
	switch {
	case gone:
		l.found.post(Unlinked, l.at.number, "the path had been removed, and is back")
	case strange:
		l.taken = time.Now()
		l.found.post(Stranger, -1, stranger(&st)+" was put at the path, which was taken back")
	}
	return nil
}

// ours reports whether the file is a slot's: a child may have renamed a link.
func (l *unixListener) ours(st *unix.Stat_t) bool {
	for _, s := range l.sockets() {
		if s.file == identify(st) {
			return true
		}
	}
	return false
}

// stranger describes a file that is not ours.
func stranger(st *unix.Stat_t) string {
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Sprintf("a file of uid %d that is not a socket", st.Uid)
	}
	// Whoever cannot be found out is still a stranger.
	socks, _ := diag.UnixListeners(diag.FileOf(st))
	for _, s := range socks {
		if who := process(s.Inode); who != "" {
			return "a socket of " + who
		}
	}
	return fmt.Sprintf("a socket of uid %d", st.Uid)
}

// replace gives a slot a fresh socket under the same descriptor. What is
// queued on the old one stays there, for whoever holds a duplicate.
func (l *unixListener) replace(s *unixSlot, why string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replace slot %d: %w", s.number, err)
		}
	}()
	fresh, err := l.make(s.number, s.key)
	if err != nil {
		return err
	}
	defer unix.Close(fresh.fd) // s.fd is the same socket by then, or nobody has connected
	if err := l.handOver(fresh); err != nil {
		return err
	}
	if err := l.watch.remove(s.fd); err != nil {
		return err
	}
	if err := unix.Dup3(fresh.fd, s.fd, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("dup: %w", err)
	}
	l.watch.unname(s.names)
	s.forget()
	fd, refused := s.fd, s.refused
	*s = *fresh
	s.fd, s.refused = fd, refused
	if l.at == s && !s.refused {
		err = l.place.show(s.link())
	}
	err = errors.Join(err, l.watch.socket(s.fd))
	// Told last, so that whoever hears of it finds it done.
	for number, other := range l.slots {
		if other == s {
			l.found.post(Broken, number, why)
		}
	}
	return err
}

// move settles in the directory that now has the path's name, or makes the
// private directory anew: somebody has moved or removed one of them. Sockets
// that still have a name are linked over; the others mend replaces.
func (l *unixListener) move() error {
	p, err := openPlace(l.place.path)
	if err != nil {
		return err
	}
	old := l.place
	p.noLinks, p.noName = old.noLinks, old.noName
	for _, s := range l.sockets() {
		if directory, name, ok := l.whereIs(s); ok && p.noLinks == nil {
			// Across file systems, or when the last name has just gone, there is
			// no link; mend sees that.
			_ = p.link(directory, name, s.link())
		}
	}
	l.place = p
	if !old.sameParent(p) {
		for _, s := range l.sockets() {
			err = errors.Join(err, old.hide(s.file))
		}
	}
	if err := errors.Join(err, old.remove()); err != nil {
		l.log.Warn("files of a unix socket were left behind", "cause", err)
	}
	return nil
}

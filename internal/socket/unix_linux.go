package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// A unixListener steers by name. Every slot is a socket of its own, bound to a
// file of its own in a private directory beside the path; the path is one more
// hard link to the file of the slot that receives, and Steer renames a link to
// another over it, which is atomic: connect(2) finds the one or the other.
//
// A name leads to one file, and to no part of it. Workers that all serve get one
// socket for their slots (Unite), from which whoever is idle accepts; where a table
// names several sockets all the same, as that of a canary does, these take turns.
//
// A worker that unlinks the path, as many do on exit, undoes nothing: the
// private links remain, and the path is linked back as soon as inotify tells,
// which leaves clients a fraction of a millisecond of ENOENT; at the next
// Maintain if inotify is not to be had.
//
// Connections queued on a slot stay with its socket whatever the path says. A
// connect that had looked the path up before Steer may still arrive on the old
// slot some microseconds after; there is no handshake, so HalfOpen is empty
// and Pending tells all.
type unixListener struct {
	name    string
	address Address
	log     *slog.Logger
	found   *findings
	watch   *unixWatch

	done     chan struct{}  // closed by Close
	partings sync.WaitGroup // goodbyes of dialed connections, and turns; added to under mu

	mu     sync.Mutex // never held while waiting for a worker
	o      Options
	place  *unixPlace
	reason string            // why shared; "" when steered
	slots  map[int]*unixSlot // shared: every number leads to the same one
	at     *unixSlot         // where the path leads, unless that slot is refused
	bound  map[string]bool   // every name a socket was bound under
	told   map[int]bool      // slots whose backlog was reported as restored
	taken  time.Time         // when the path was last taken back from a stranger
	table  []Share           // of the last Steer
	period time.Duration     // of turns
	old    []*unixSlot       // sockets that no slot has any more, with something queued
	made   int               // names of files in the private directory so far
	count  int               // descriptors with a number so far
	closed bool

	endTurns func()
}

// A unixSlot is one socket. Its descriptor's number stays while the socket
// behind it is replaced.
type unixSlot struct {
	number  int // of the slot, or the first of all that share it
	key     int // name of its file in the private directory
	id      int // number of its descriptor's name (Keep); a fresh socket has another
	fd      int
	inode   uint64      // of the socket
	file    fileID      // of the file it is bound to
	plain   fs.FileMode // permissions for a Mode of 0
	backlog uint32      // as the kernel took it; 0 if it could not be asked
	names   int         // the watch of its names, -1 for none
	refused bool
	given   []givenUp // connections of probes, in its queue
}

// givenUp is the launcher's end of a connection.
type givenUp struct{ fd, id int }

// link is the name of the socket's file in the private directory.
func (s *unixSlot) link() string { return strconv.Itoa(s.key) }

func listenUnix(ctx context.Context, a Address, o Options) (Listener, error) {
	l := newUnix(a, o)
	err := ctx.Err()
	if err == nil {
		err = l.open()
	}
	if err != nil {
		// What was made so far goes away again; the error to tell is the first.
		_ = l.Close()
		return nil, fmt.Errorf("listen unix %s: %w", a.Path, err)
	}
	return l, nil
}

func newUnix(a Address, o Options) *unixListener {
	return &unixListener{name: o.Name, address: a, o: o,
		log: o.logger().With("listener", o.Name), found: newFindings(o.Name), done: make(chan struct{}),
		slots: make(map[int]*unixSlot), bound: make(map[string]bool), told: make(map[int]bool),
		table: []Share{{Slot: 0, Weight: 1}}, period: turnPeriod, endTurns: func() {}}
}

// open makes slot 0 and lets the path lead to it.
func (l *unixListener) open() (err error) {
	if !filepath.IsAbs(l.address.Path) {
		return errors.New("the path is not absolute")
	}
	// Before anything is cleared away: it may be what workers still serve.
	if err := vacantBefore(l.address.Path); err != nil {
		return err
	}
	if l.place, err = openPlace(l.address.Path); err != nil {
		return err
	}
	if err := l.place.vacant(); err != nil {
		return err
	}
	var lame error
	if l.watch, lame, err = newUnixWatch(l.woken); err != nil {
		return err
	}
	if lame != nil {
		l.log.Warn("an unlinked path is put back within a second, not at once", "cause", lame)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.add(0)
	if err != nil {
		return err
	}
	if err := l.selfTest(s); exhausted(err) {
		return fmt.Errorf("self-test: %w", err)
	} else if err != nil {
		l.reason = "self-test: " + err.Error()
	} else if l.o.Shared {
		l.reason = `steering = "off"`
	}
	if err := l.handOver(s); err != nil {
		return err
	}
	if l.place.noName != nil {
		l.log.Info("programs that look for their socket by name will not find it: it is bound under another",
			"path", l.address.Path, "cause", l.place.noName)
	}
	l.at = s
	return l.place.show(s.link())
}

// connectUnix never waits: a full queue is EAGAIN.
func connectUnix(path string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd) // new and unused
		return -1, err
	}
	return fd, nil
}

// add reserves a slot; l.mu is held.
func (l *unixListener) add(number int) (*unixSlot, error) {
	s, err := l.socket(number, l.made)
	if err == nil {
		l.slots[number] = s
	}
	return s, err
}

// socket makes one more socket, whose first slot it is to be; l.mu is held.
func (l *unixListener) socket(number, key int) (*unixSlot, error) {
	s, err := l.make(number, key)
	if err != nil {
		return nil, err
	}
	if err := l.watch.socket(s.fd); err != nil {
		unix.Close(s.fd) // nobody has connected yet
		return nil, err
	}
	l.made = max(l.made, s.key+1)
	return s, nil
}

// make makes a listening socket for a slot and gives its file the key as a name.
func (l *unixListener) make(number, key int) (_ *unixSlot, err error) {
	l.count++
	s := &unixSlot{number: number, key: key, id: l.count, names: -1}
	var bound string
	if s.fd, bound, err = l.place.bind(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(s.fd) // nobody has connected yet
		}
	}()
	if s.inode, err = socketInode(s.fd); err != nil {
		return nil, err
	}
	if err := l.settle(s); err != nil {
		return nil, err
	}
	if err := l.listen(s); err != nil {
		return nil, err
	}
	l.bound[bound] = true
	return s, nil
}

// settle gives the freshly bound file its owner, its permissions, and the
// slot's name, before anybody can see it.
func (l *unixListener) settle(s *unixSlot) error {
	st, err := l.place.kept(nameFresh)
	if err != nil {
		return fmt.Errorf("stat %s: %w", nameFresh, err)
	}
	s.file = identify(&st)
	s.plain = fs.FileMode(st.Mode) & 0o666 // bind made it 0777 less the umask
	if err := own(l.place.private, nameFresh, s.file, l.o, s.plain); err != nil {
		return err
	}
	if err := unix.Renameat(l.place.private, nameFresh, l.place.private, s.link()); err != nil {
		return fmt.Errorf("rename %s: %w", nameFresh, err)
	}
	if s.names, err = l.watch.names(reach(l.place.private, s.link())); err != nil {
		l.log.Warn("an unlinked path is put back within a second, not at once", "cause", err)
	}
	return nil
}

// listen asks for the configured backlog and learns what the kernel made of it.
func (l *unixListener) listen(s *unixSlot) error {
	if err := unix.Listen(s.fd, l.o.backlog()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.backlog = 0
	// Without sock_diag nobody can compare; that is no reason not to listen.
	if d, ok, err := diag.UnixListening(s.inode); err == nil && ok {
		s.backlog = d.WQueue
	}
	return nil
}

// Name, Address and Findings never change.

func (l *unixListener) Name() string             { return l.name }
func (l *unixListener) Address() Address         { return l.address }
func (l *unixListener) Findings() <-chan Finding { return l.found.out }

// Mode and Reason do not change after listenUnix.

func (l *unixListener) Mode() Mode {
	if l.reason != "" {
		return Shared
	}
	return Steered
}

func (l *unixListener) Reason() string { return l.reason }

// fail names the listener in an error of one of its methods.
func (l *unixListener) fail(doing string, err error) error {
	return fmt.Errorf("%s unix %s: %w", doing, l.address.Path, err)
}

// slot finds a reserved slot; l.mu is held.
func (l *unixListener) slot(number int) (*unixSlot, error) {
	if l.closed {
		return nil, ErrClosed
	}
	if s := l.slots[number]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("slot %d: %w", number, ErrNoSlot)
}

// sockets are the slots without repetition, in a fixed order; l.mu is held.
func (l *unixListener) sockets() []*unixSlot {
	var all []*unixSlot
	for _, s := range l.slots {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *unixSlot) int { return a.number - b.number })
	return all
}

// Reserve needs no guard: where a name leads does not depend on an order.
func (l *unixListener) Reserve(number int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.fail("reserve slot of", ErrClosed)
	}
	if s := l.slots[number]; s != nil {
		if err := l.admit(s); err != nil {
			return l.fail(fmt.Sprintf("reserve slot %d of", number), err)
		}
		return nil
	}
	if l.reason != "" {
		l.slots[number] = l.slots[0]
		return nil
	}
	if _, err := l.add(number); err != nil {
		return l.fail(fmt.Sprintf("reserve slot %d of", number), err)
	}
	return nil
}

// admit takes back a Refuse; l.mu is held.
func (l *unixListener) admit(s *unixSlot) error {
	if !s.refused {
		return nil
	}
	s.refused = false
	if l.place.foreign {
		return nil
	}
	if l.at != s && !(l.at.refused && l.steered(s)) {
		return nil
	}
	l.at = s
	if _, _, named := l.whereIs(s); !named {
		return l.replace(s, "refusing had taken its only name")
	}
	return l.place.show(s.link())
}

func (l *unixListener) FD(number int) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.slot(number)
	if err == nil && l.reason == "" && len(having(l.slots, s)) == 1 {
		err = l.handOver(s)
	}
	if err != nil {
		return -1, l.fail("descriptor of", err)
	}
	return s.fd, nil
}

func (l *unixListener) Number(number int) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.slot(number)
	if err != nil {
		return -1, l.fail("descriptor of", err)
	}
	return s.fd, nil
}

// handOver makes O_NONBLOCK what the workers are to find, whatever the slot's
// last one left.
func (l *unixListener) handOver(s *unixSlot) error {
	if err := unix.SetNonblock(s.fd, l.o.NonBlocking); err != nil {
		return fmt.Errorf("set O_NONBLOCK: %w", err)
	}
	return nil
}

func (l *unixListener) Inode(number int) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.slot(number)
	if err != nil {
		return 0, l.fail("inode of", err)
	}
	return s.inode, nil
}

func (l *unixListener) Apply(o Options) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.fail("apply options to", ErrClosed)
	}
	l.o.Backlog, l.o.Mode, l.o.UID, l.o.GID = o.Backlog, o.Mode, o.UID, o.GID
	var errs []error
	if l.reason == "" {
		l.o.NonBlocking = o.NonBlocking
	} else if l.o.NonBlocking != o.NonBlocking {
		errs = append(errs, errShareNonBlocking)
	}
	for _, s := range l.sockets() {
		if err := l.listen(s); err != nil {
			errs = append(errs, err)
		}
		if directory, name, ok := l.whereIs(s); ok && !l.place.foreign {
			if err := own(directory, name, s.file, l.o, s.plain); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return l.fail("apply options to", err)
	}
	return nil
}

// whereIs finds a name of the slot's file; l.mu is held.
func (l *unixListener) whereIs(s *unixSlot) (directory int, name string, ok bool) {
	if st, err := l.place.kept(s.link()); err == nil && identify(&st) == s.file {
		return l.place.private, s.link(), true
	}
	if st, err := l.place.shown(); err == nil && identify(&st) == s.file {
		return l.place.parent, l.place.base, true
	}
	return -1, "", false
}

// Rest changes nothing: a name leads to one socket, and to no other by chance.
func (l *unixListener) Rest(int) error { return nil }

// Refuse takes the path away if it leads to one of the slots and no other has a turn:
// a new client is told at once that there is no such file.
func (l *unixListener) Refuse(numbers ...int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, number := range numbers {
		s, err := l.slot(number)
		if err != nil {
			return l.fail("refuse connections to", err)
		}
		s.refused = true
	}
	if !l.at.refused || l.place.foreign {
		return nil
	}
	for _, s := range l.sockets() {
		if !s.refused && l.steered(s) {
			l.at = s // whose turn it was not
			break
		}
	}
	var err error
	if l.at.refused {
		err = l.place.hide(l.at.file)
	} else {
		err = l.place.show(l.at.link())
	}
	if err != nil {
		return l.fail("refuse connections to", err)
	}
	return nil
}

// steered tells whether the table names the socket; l.mu is held.
func (l *unixListener) steered(s *unixSlot) bool {
	return slices.ContainsFunc(l.table, func(share Share) bool { return l.slots[share.Slot] == s })
}

// Close removes the path if it is still ours, then the private directory.
func (l *unixListener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return l.fail("close", ErrClosed)
	}
	l.closed = true
	close(l.done)
	l.mu.Unlock()
	l.partings.Wait()
	if l.watch != nil {
		l.watch.close() // it may be waiting for l.mu, and finds l.closed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found.close()
	var errs []error
	for _, s := range l.sockets() {
		if !l.place.foreign {
			errs = append(errs, l.place.hide(s.file))
		}
		s.forget()
		unix.Close(s.fd) // what is queued is the workers', who have duplicates
	}
	l.closeOld(true)
	if l.place != nil {
		errs = append(errs, l.place.remove())
	}
	if err := errors.Join(errs...); err != nil {
		return l.fail("close", err)
	}
	return nil
}

package socket

import (
	"errors"
	"fmt"
	"slices"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

// report is a finding that is made up once mu is free: to name a stranger's
// process can take milliseconds.
type report struct {
	kind   FindingKind
	slot   int
	detail string
	sock   *diag.Sock // the stranger, to be named
}

func (g *steered) Maintain() error {
	return g.locked("maintain", g.maintain)
}

// locked runs f under mu and posts what it found out.
func (g *steered) locked(doing string, f func() error) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return g.fail(doing, ErrClosed)
	}
	err := f()
	reports := g.reports
	g.reports = nil
	g.mu.Unlock()

	for _, r := range reports {
		detail := r.detail
		if r.sock != nil {
			detail = describe(*r.sock) + detail
		}
		g.found.post(r.kind, r.slot, detail)
	}
	g.found.flush()
	if err != nil {
		return g.fail(doing, err)
	}
	return nil
}

func (g *steered) report(kind FindingKind, slot int, format string, args ...any) {
	g.reports = append(g.reports, report{kind: kind, slot: slot, detail: fmt.Sprintf(format, args...)})
}

// maintain makes the group what it should be. What it changes is looked at
// again, a bounded number of times, because joining and looking are two steps
// between which others may act.
func (g *steered) maintain() error {
	for range 4 {
		if err := g.replaceBroken(); err != nil {
			return err
		}
		if err := g.reassert(); err != nil {
			return err
		}
		if err := g.look(); err != nil {
			return err
		}
		if g.doubt {
			if err := g.resolve(); err != nil {
				return err
			}
		}
		missing := g.guardsMissing()
		if missing <= 0 {
			break
		}
		for range missing {
			if err := g.join(); err != nil {
				return err
			}
		}
	}
	// Whether a worker detached the program cannot be asked; setting it again
	// takes 11 µs.
	return g.attach()
}

// healthy tells whether the member still does what it was made for.
func (g *steered) healthy(m *member) (bool, error) {
	if g.at.stream {
		l, err := tcpListening(m.fd)
		return l.on, err
	}
	// A udp socket that somebody connected takes datagrams of its peer only, and
	// one that was shut down, which is possible though shutdown says ENOTCONN,
	// reads as ended for ever (inet_shutdown).
	_, err := unix.Getpeername(m.fd)
	if !errors.Is(err, unix.ENOTCONN) {
		return false, err
	}
	p := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLRDHUP}}
	if _, err := unix.Poll(p, 0); err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("poll: %w", err)
	}
	return p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) == 0, nil
}

// replaceBroken puts a guard in the place of each slot whose socket has left
// the group, and the program in force at once.
func (g *steered) replaceBroken() error {
	replaced := false
	for i := 0; i < len(g.order); {
		m := g.order[i]
		if !m.stranger() {
			ok, err := g.healthy(m)
			if err != nil {
				return err
			}
			if !ok {
				if err := g.replace(i, "its socket was shut down or disconnected"); err != nil {
					return err
				}
				replaced = true
				continue // the last member is at i now
			}
		}
		i++
	}
	if !replaced {
		return nil
	}
	return g.attach()
}

// replace takes the member at index i out of the order, as the kernel did, and
// gives its slots a guard's socket: the one now at i where that is a guard, so
// that the program in force is right already.
func (g *steered) replace(i int, why string) error {
	broken := g.order[i]
	last := len(g.order) - 1
	g.order[i] = g.order[last]
	g.order = g.order[:last]
	g.doubt = true // several may have left, in an order that was not seen

	if broken.slot == notSlot {
		if err := g.watch.remove(broken.fd); err != nil {
			return err
		}
		unix.Close(broken.fd) // a guard: nothing queued
		return nil
	}
	slots := having(g.slots, broken)
	broken.slot = notSlot
	var heir *member
	if i > 0 && i < last && g.order[i].guard() {
		heir = g.order[i]
	} else {
		var err error
		if heir, err = g.spareGuard(); err != nil {
			broken.slot = slots[0]
			g.order = append(g.order, broken) // not in the group, but to be tried again
			return err
		}
	}
	if err := g.inherit(heir, broken.fd); err != nil {
		return err
	}
	heir.refused = broken.refused
	for _, slot := range slots {
		g.report(Broken, slot, "%s", why)
	}
	return g.assign(heir, slots...)
}

// inherit moves heir's socket to the descriptor number fd, so that a slot keeps
// its number for life. What was fd is closed; a worker's duplicate lives on.
func (g *steered) inherit(heir *member, fd int) error {
	if err := g.watch.remove(fd); err != nil {
		return err
	}
	if err := g.watch.remove(heir.fd); err != nil {
		return err
	}
	if err := unix.Dup3(heir.fd, fd, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("replace socket: %w", err)
	}
	unix.Close(heir.fd) // fd holds the socket now
	heir.fd = fd
	return g.watch.add(fd)
}

// reassert undoes what a worker may have done to a socket that still listens.
func (g *steered) reassert() error {
	for _, m := range g.order {
		if m.stranger() {
			continue
		}
		on, err := unix.GetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
		if err != nil {
			return fmt.Errorf("read SO_REUSEPORT: %w", err)
		}
		if on == 0 {
			if err := reusePort(m.fd, 1); err != nil {
				return err
			}
			g.report(Reasserted, m.slot, "SO_REUSEPORT had been cleared")
		}
		if err := g.reassertBacklog(m); err != nil {
			return err
		}
	}
	return nil
}

// reassertBacklog calls listen on a socket in LISTEN only: on any other it
// would join the group anew, at another index.
func (g *steered) reassertBacklog(m *member) error {
	if !g.at.stream {
		return nil
	}
	l, err := tcpListening(m.fd)
	if err != nil || !l.on || l.backlog == m.backlog {
		return err
	}
	if err := g.setBacklog(m); err != nil {
		return err
	}
	// Said once for each slot: Node and Python's asyncio call listen themselves,
	// each time they start.
	if g.backlogs[m.slot] {
		return nil
	}
	g.backlogs[m.slot] = true
	g.report(Adjusted, m.slot, "the backlog had been set to %d, and is %d again", l.backlog, m.backlog)
	return nil
}

// look compares the sockets on the port with the order. Any change that is not
// our own puts the order in doubt; so does a change in the order of the
// kernel's hash chain, which shows a socket that left and joined again.
func (g *steered) look() error {
	socks, err := receivers(g.at)
	if err != nil {
		return err
	}
	ours := make(map[uint64]bool, len(g.order))
	for _, m := range g.order {
		ours[m.inode] = !m.stranger()
	}
	var now []uint64
	there := make(map[uint64]bool)
	for _, s := range socks {
		if g.sameGroup(s) {
			now = append(now, s.Inode)
		}
		if ours[s.Inode] {
			continue
		}
		if g.sameGroup(s) || g.serves(s.Local.Addr()) {
			there[s.Inode] = true
			g.noteStranger(s)
		}
	}
	g.noteGone(there)
	if !sameButFor(g.seen, now, ours) {
		g.doubt = true
	}
	g.seen = now
	return nil
}

// sameGroup tells whether a socket on the port has the very address that makes
// it a member of the group (inet_reuseport_add_sock).
func (g *steered) sameGroup(s diag.Sock) bool {
	return int(s.Family) == g.at.family() && s.Local.Addr().WithZone("") == g.at.addr.WithZone("")
}

func (g *steered) noteStranger(s diag.Sock) {
	if _, known := g.strangers[s.Inode]; known {
		return
	}
	g.strangers[s.Inode] = s
	effect := " has joined the group"
	if !g.sameGroup(s) {
		effect = " takes the connections to its address"
	}
	g.reports = append(g.reports, report{kind: Stranger, slot: notSlot, detail: effect, sock: &s})
}

func (g *steered) noteGone(there map[uint64]bool) {
	for inode, s := range g.strangers {
		if !there[inode] {
			delete(g.strangers, inode)
			g.report(StrangerGone, notSlot, "socket %d on %s", inode, s.Local)
		}
	}
}

// describe names a stranger.
func describe(s diag.Sock) string {
	who := process(s.Inode)
	if who == "" {
		who = fmt.Sprintf("a process of uid %d", s.UID)
	}
	return fmt.Sprintf("socket %d on %s of %s", s.Inode, s.Local, who)
}

// sameButFor tells whether now is before with nothing added but sockets that
// are ours, nothing gone, and nothing moved.
func sameButFor(before, now []uint64, ours map[uint64]bool) bool {
	rest := before
	for _, inode := range now {
		switch {
		case len(rest) > 0 && inode == rest[0]:
			rest = rest[1:]
		case !ours[inode] || slices.Contains(before, inode):
			return false
		}
	}
	return len(rest) == 0
}

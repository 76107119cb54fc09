package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"baton/internal/keep"
	"golang.org/x/sys/unix"
)

// state is what both kinds have.
func (b *base) state(mode Mode, o Options) State {
	return State{
		Name: b.name, Address: b.addr.String(), Mode: mode, Options: o.state(),
		Bound: b.at.addr, Dual: b.at.dual, Table: []Share{},
	}
}

func (m *member) state() Socket {
	return Socket{
		Number: m.number, Inode: m.inode, Backlog: m.backlog, Refused: m.refused, Resting: m.resting,
		Left: slices.Clone(m.left), Foreign: m.foreign,
	}
}

// Keep leaves out strangers: whoever resumes looks for them.
func (g *steered) Keep(prefix string, f *keep.Files) State {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return State{Name: g.name}
	}
	s := g.state(Steered, g.o)
	s.Origin, s.Made = g.origin, g.made
	s.Table = append(s.Table, g.table...)
	of := make(map[*member][]int, len(g.order))
	for _, slot := range slices.Sorted(maps.Keys(g.slots)) {
		of[g.slots[slot]] = append(of[g.slots[slot]], slot)
	}
	s.Order = make([]Socket, 0, len(g.order))
	for _, m := range g.order {
		if m.stranger() {
			continue
		}
		one := m.state()
		one.Slots = of[m]
		s.Order = append(s.Order, one)
		f.Put(socketName(prefix, m.number), m.fd)
	}
	return s
}

func (l *shared) Keep(prefix string, f *keep.Files) State {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return State{Name: l.name}
	}
	s := l.state(Shared, l.o)
	s.Reason, s.Made = l.reason, l.made
	s.Slots = slices.Sorted(maps.Keys(l.slots))
	one := l.only.state()
	one.Refused = l.refused
	s.Order = []Socket{one}
	f.Put(socketName(prefix, l.only.number), l.only.fd)
	return s
}

func resumeInet(s State, a Address, prefix string, f *keep.Files, log *slog.Logger) (Listener, error) {
	o := s.options(log)
	b := newBase(a, s.endpoint(a), o)
	members, lost, err := takeMembers(s, &b, prefix, f)
	if err != nil {
		return nil, err
	}
	if s.Mode == Steered {
		return resumeSteered(s, b, o, members, lost)
	}
	l, err := resumeShared(s, b, o, members[0])
	if err != nil {
		unix.Close(members[0].fd) // workers have duplicates
		return nil, err
	}
	return l, nil
}

// takeMembers takes the sockets that are there and are what the state says, in its
// order, and tells which are lost.
func takeMembers(s State, b *base, prefix string, f *keep.Files) (members []*member, lost []Socket, err error) {
	met := make(map[uint64]bool)
	for _, one := range s.Order {
		name := socketName(prefix, one.Number)
		fd, why := f.Take(name)
		if why == nil {
			var m *member
			if m, why = recognize(fd, one, b.at); why == nil && met[m.inode] {
				why = errors.New("another name has the same socket")
			}
			if why == nil {
				met[m.inode] = true
				members = append(members, m)
				continue
			}
			why = fmt.Errorf("descriptor %q: %w", name, why)
			unix.Close(fd) // it is not what it was said to be
		}
		level := slog.LevelWarn
		if len(one.Slots) == 0 {
			level = slog.LevelDebug // a guard, in whose queue nobody is
		}
		b.log.Log(context.Background(), level, "a socket of the listener did not come back", "slots", one.Slots, "cause", why)
		lost = append(lost, one)
		err = why
	}
	if len(members) > 0 {
		err = nil
	}
	return members, lost, err
}

// endpoint is where the sockets of a listener of a are.
func (s State) endpoint(a Address) endpoint {
	return endpoint{stream: a.stream(), addr: s.Bound, port: uint16(a.Port), dual: s.Dual && s.Bound.Is6()}
}

// checkDescriptor is an error where the descriptor is not the socket that the state means.
func checkDescriptor(fd int, one Socket, at endpoint) error {
	if one.File != nil {
		return checkUnixDescriptor(fd, one)
	}
	_, err := recognize(fd, one, at)
	return err
}

// recognize finds out whether the descriptor is the socket that the state means.
func recognize(fd int, s Socket, at endpoint) (*member, error) {
	inode, err := inodeOf(fd)
	if err == nil {
		err = at.check(fd, inode == s.Inode)
	}
	if err != nil {
		return nil, err
	}
	slot := notSlot
	if len(s.Slots) > 0 {
		slot = s.Slots[0]
	}
	return &member{
		fd: fd, number: s.Number, inode: inode, slot: slot,
		backlog: s.Backlog, refused: s.Refused, resting: s.Resting, left: s.Left, foreign: s.Foreign,
	}, nil
}

// check holds a descriptor against the endpoint. One that is known to have been of it may
// have lost its address when it was shut down or disconnected; it is replaced later.
func (e endpoint) check(fd int, known bool) error {
	kind := unix.SOCK_DGRAM
	if e.stream {
		kind = unix.SOCK_STREAM
	}
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return fmt.Errorf("read SO_TYPE: %w", err)
	} else if got != kind {
		return fmt.Errorf("a socket of type %d, not %d", got, kind)
	}
	if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || got != e.family() {
		return fmt.Errorf("a socket of family %d, not %d", got, e.family())
	}
	listens := true
	if e.stream {
		on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil {
			return fmt.Errorf("read SO_ACCEPTCONN: %w", err)
		}
		listens = on != 0
	}
	if known && (!listens || !e.stream) {
		return nil
	}
	if !listens {
		return errors.New("a socket that does not listen")
	}
	bound, err := boundTo(fd)
	if err != nil {
		return err
	}
	if bound.Port() != e.port || bound.Addr().WithZone("") != e.addr.WithZone("") {
		return fmt.Errorf("a socket on %s, not on port %d of %s", bound, e.port, e.addr)
	}
	return nil
}

// resumeSteered takes the members over, also when it fails.
func resumeSteered(s State, b base, o Options, members []*member, lost []Socket) (Listener, error) {
	g := newSteered(o)
	g.base, g.made, g.order, g.doubt = b, s.Made, members, true
	g.table = slices.Clone(s.Table)
	of := make(map[int][]int)
	for _, one := range s.Order {
		of[one.Number] = one.Slots
	}
	for _, m := range members {
		for _, slot := range of[m.number] {
			g.slots[slot] = m
		}
	}
	if err := g.startWatch(); err != nil {
		g.discard()
		return nil, err
	}
	// From here on the sockets may be in use; what goes wrong is tried again by
	// Maintain, and its error told there.
	err := g.locked("resume", func() error { return g.reunite(s, lost) })
	if err != nil {
		g.log.Warn("a resumed listener is not yet what it was", "error", err)
	}
	return g, nil
}

// reunite makes the group whole again.
func (g *steered) reunite(s State, lost []Socket) error {
	// First of all one that nobody else holds, for the program to be attached to.
	if !slices.ContainsFunc(g.order, (*member).guard) {
		if err := g.join(); err != nil {
			return err
		}
	}
	for _, m := range g.order {
		if err := g.rehear(m); err != nil {
			return err
		}
	}
	if err := g.look(); err != nil { // the proof is to know of strangers
		return err
	}
	g.doubt = true
	if err := g.findOrigin(s.Origin); err != nil {
		return err
	}
	if err := g.substituteAll(lost); err != nil {
		return err
	}
	return g.maintain()
}

// substituteAll makes sockets for slots whose own have not come back. The program in
// force is one for another order: until it names those that are there, what hears and
// is nobody's would be given connections.
func (g *steered) substituteAll(lost []Socket) error {
	if len(lost) == 0 {
		return nil
	}
	whole := g.table
	g.table = slices.DeleteFunc(slices.Clone(whole), func(s Share) bool { return g.slots[s.Slot] == nil })
	err := error(nil)
	if len(g.table) > 0 {
		err = g.maintain()
	}
	g.table = whole
	if err == nil {
		err = g.substitute(lost)
	}
	g.doubt = true
	return err
}

// rehear undoes what a launcher that ended in the middle of something left on a
// member: guards are deaf, and what rests, and no others.
func (g *steered) rehear(m *member) error {
	if ok, err := g.healthy(m); err != nil || !ok {
		return err
	}
	if m.backlog == 0 && g.at.stream {
		if err := g.setBacklog(m); err != nil {
			return err
		}
	}
	if m.guard() || m.resting {
		return g.at.deafen(m.fd)
	}
	return g.at.undeafen(m.fd)
}

// substitute gives slots whose sockets have not come back guards'.
func (g *steered) substitute(lost []Socket) error {
	for _, one := range lost {
		if len(one.Slots) == 0 {
			continue
		}
		m, err := g.spareGuard()
		if err != nil {
			return err
		}
		m.refused = one.Refused
		if err := g.assign(m, one.Slots...); err != nil {
			return err
		}
		for _, slot := range one.Slots {
			g.report(Broken, slot, "its socket did not come back to the launcher")
		}
	}
	return nil
}

// findOrigin takes the origin that served until now, or the first from which the
// group can be reached.
func (g *steered) findOrigin(saved netip.Addr) (err error) {
	origins := g.at.origins()
	if slices.Contains(origins, saved) {
		g.origin = saved
		return nil
	}
	for _, g.origin = range origins {
		if _, err = g.prove(); err == nil {
			return nil
		}
	}
	return err
}

// resumeShared takes the socket over unless it fails.
func resumeShared(s State, b base, o Options, m *member) (Listener, error) {
	l := &shared{
		base: b, reason: s.Reason, origins: b.at.origins(), done: make(chan struct{}),
		o: o, only: m, made: s.Made, slots: make(map[int]bool), refused: m.refused,
	}
	for _, slot := range slices.Concat(s.Slots, s.Order[0].Slots) {
		l.slots[slot] = true
	}
	m.slot, m.refused = notSlot, false
	if err := l.startWatch(); err != nil {
		return nil, err
	}
	err := l.locked("resume", func() error {
		if state, err := tcpListening(m.fd); b.at.stream && m.backlog == 0 && err == nil && state.on {
			return l.open(m)
		}
		return nil
	})
	if err == nil {
		err = l.Maintain()
	}
	if err != nil {
		l.log.Warn("a resumed listener is not yet what it was", "error", err)
	}
	return l, nil
}

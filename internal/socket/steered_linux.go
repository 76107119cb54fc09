package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"baton/internal/socket/diag"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// steered is a listener whose slots are the members of one SO_REUSEPORT group: a
// member for each, or one for several that were united.
//
// The group's order, which the program's indexes mean, is by time of listen;
// when a member leaves, the last one takes its place. So the order is always:
//
//	anchor, slots (in any order), guards
//
// A guard is a socket that no worker holds and that is deaf to whatever reaches it,
// so a client steered there by mischance tries again a second later, when all
// is put right, instead of waiting in a queue that nobody serves. The guards
// at the end, more of them than slots, see to it that the member which fills a
// hole is never one that serves. The anchor is a guard too: the kernel looks
// up the group through the socket first in its hash chain, which for IPv6 is
// the oldest (for IPv4 the youngest), and if that one has lost SO_REUSEPORT it
// takes everything itself; a worker cannot do that to a socket it never had.
type steered struct {
	base
	origin netip.Addr     // where isolated connections come from, as the self-test found
	done   chan struct{}  // closed by Close
	probes sync.WaitGroup // probes and the closing of their connections; added to under mu

	mu       sync.Mutex // held during every change to the group
	o        Options
	order    []*member // the group as the kernel has it, by index
	slots    map[int]*member
	table    []Share
	isolated map[netip.AddrPort]int // probes under way, and the slots they go to
	watch    *watch
	closed   bool
	made     int // members so far

	backlogs  map[int]bool         // slots whose backlog was reported as restored
	seen      []uint64             // inodes of the group at the last look, in the kernel's hash order
	strangers map[uint64]diag.Sock // reported, and still there
	doubt     bool                 // order may not be the kernel's: prove it
	reports   []report             // to be posted once mu is free
}

// member is one socket of the group.
type member struct {
	fd      int // -1 for a stranger's
	number  int // of its descriptor's name (Keep)
	inode   uint64
	slot    int              // the first of those that have it, or notSlot
	backlog int              // as the kernel took it
	refused bool             // its slots are
	resting bool             // it is a slot's that nobody has, and deaf
	foreign *Foreign         // systemd's, who has it too; nil for one of our own making
	left    []netip.AddrPort // connections of probes that may still be queued
}

const notSlot = -1

func (m *member) guard() bool    { return m.fd >= 0 && m.slot == notSlot }
func (m *member) stranger() bool { return m.fd < 0 }

// errUnsteerable says that the kernel would not take a program, on a socket
// that may well do without.
var errUnsteerable = errors.New("steering refused")

// listenSteered falls back to shared mode where steering does not work; an
// address that cannot be bound is an error.
func listenSteered(a Address, at endpoint, o Options) (Listener, error) {
	g := newSteered(o)
	anchor, err := bindGroup(&at)
	if errors.Is(err, errUnsteerable) && !exhausted(err) {
		return listenShared(a, at, o, err.Error())
	}
	if err != nil {
		return nil, err
	}
	g.base = newBase(a, at, o)
	if err := g.build(anchor); err != nil {
		g.discard()
		return nil, err
	}
	if err := g.selfTest(); exhausted(err) {
		g.discard()
		return nil, err
	} else if err != nil {
		return g.intoShared(err.Error())
	}
	if err := g.startWatch(); err != nil {
		g.discard()
		return nil, err
	}
	return g, nil
}

func newSteered(o Options) *steered {
	return &steered{
		o: o, done: make(chan struct{}),
		slots: make(map[int]*member), isolated: make(map[netip.AddrPort]int),
		backlogs: make(map[int]bool), strangers: make(map[uint64]diag.Sock),
		table: []Share{{Slot: 0, Weight: 1}},
	}
}

// bindGroup is bindFirst with a program attached before there is a group, so
// that the kernel's hash never chooses, not even for the first microseconds.
// Attaching makes the socket a group of one, which it can be only while it has
// SO_REUSEPORT and is not yet in the port table.
func bindGroup(at *endpoint) (int, error) {
	program, err := compile(nil, []share{{index: 1, weight: 1}}, byChance)
	if err != nil {
		return -1, err
	}
	return bindFirst(at, func(fd int) error {
		err := reusePort(fd, 1)
		if err == nil {
			err = attachSteering(fd, program)
		}
		if err == nil {
			err = reusePort(fd, 0)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errUnsteerable, err)
		}
		return nil
	})
}

// build makes the first members: the anchor from fd, slot 0, and the guards.
func (g *steered) build(fd int) error {
	anchor := g.member(fd)
	g.order = append(g.order, anchor)
	if err := g.at.deafen(fd); err != nil {
		return err
	}
	if err := reusePort(fd, 1); err != nil {
		return err
	}
	if err := g.open(anchor); err != nil {
		return err
	}
	if err := g.join(); err != nil {
		return err
	}
	if err := g.assign(g.order[1], 0); err != nil {
		return err
	}
	for g.guardsMissing() > 0 {
		if err := g.join(); err != nil {
			return err
		}
	}
	return nil
}

// member is a socket that is new to the group, with a number that no other had.
func (g *steered) member(fd int) *member {
	g.made++
	return &member{fd: fd, number: g.made, slot: notSlot}
}

// open starts to listen on a bound member and notes what the kernel made of it.
func (g *steered) open(m *member) (err error) {
	if m.inode, err = inodeOf(m.fd); err != nil || !g.at.stream {
		return err
	}
	return g.setBacklog(m)
}

// setBacklog calls listen, which on a listening socket changes the backlog only.
func (g *steered) setBacklog(m *member) error {
	if err := unix.Listen(m.fd, g.o.backlog()); err != nil {
		return err
	}
	l, err := tcpListening(m.fd)
	m.backlog = l.backlog
	return err
}

// join appends a new guard to the group.
func (g *steered) join() error {
	fd, err := g.at.socket()
	if err != nil {
		return err
	}
	m := g.member(fd)
	err = g.at.prepare(fd)
	if err == nil {
		err = reusePort(fd, 1)
	}
	if err == nil {
		err = g.at.deafen(fd)
	}
	if err == nil {
		err = g.at.bind(fd)
	}
	if err == nil {
		err = g.open(m)
	}
	if err == nil && g.watch != nil {
		err = g.watch.add(fd)
	}
	if err != nil {
		unix.Close(fd) // it dropped what it got, so it has nothing queued
		g.doubt = true // it may have been in the group for a moment
		return fmt.Errorf("guard socket: %w", err)
	}
	g.order = append(g.order, m)
	return nil
}

// assign makes a guard the socket of the slots, which rests unless it is steered to.
func (g *steered) assign(m *member, slots ...int) error {
	if err := g.handOver(m); err != nil {
		return err
	}
	m.slot, m.resting = slots[0], true // as a guard it was deaf
	for _, slot := range slots {
		g.slots[slot] = m
	}
	if g.inTable(m) || !g.at.stream {
		return g.wake(m)
	}
	return nil
}

// wake ends a rest.
func (g *steered) wake(m *member) error {
	if !m.resting {
		return nil
	}
	if err := g.at.hear(m.fd); err != nil {
		return err
	}
	m.resting = false
	return nil
}

// inTable tells whether the table leads to the member, refused or not.
func (g *steered) inTable(m *member) bool {
	return slices.ContainsFunc(g.table, func(s Share) bool { return g.slots[s.Slot] == m })
}

// guardsMissing is how many must still join: behind the last member that workers
// may hold one for each of these and one more, and after any stranger at least one.
func (g *steered) guardsMissing() int {
	guards := 0
	for _, m := range slices.Backward(g.order[min(1, len(g.order)):]) {
		if m.guard() {
			guards++
		} else if !m.stranger() {
			break
		}
	}
	missing := len(g.taken()) + 1 - guards
	if missing < 1 && !g.order[len(g.order)-1].guard() {
		missing = 1
	}
	return missing
}

// spareGuard is the first guard that may become a slot.
func (g *steered) spareGuard() (*member, error) {
	for _, m := range g.order[min(1, len(g.order)):] {
		if m.guard() {
			return m, nil
		}
	}
	if err := g.join(); err != nil {
		return nil, err
	}
	return g.order[len(g.order)-1], nil
}

// program compiles the probes' isolations, extra, and the table.
func (g *steered) program(extra ...isolation) ([]bpf.RawInstruction, error) {
	rules := extra
	for from, slot := range g.isolated {
		if i := g.index(slot); i >= 0 {
			rules = append(rules, isolation{from: from, index: i})
		}
	}
	table := g.shares()
	if len(table) == 0 {
		table = []share{{index: slices.Index(g.order, g.anchor()), weight: 1}} // which is deaf
	}
	how := byChance
	if !g.at.stream {
		how = byFlow
	}
	return compile(rules, table, how)
}

// shares is the table by members: the weights of slots that have one are added up.
func (g *steered) shares() (table []share) {
	type place struct {
		m    *member
		side int
	}
	at := make(map[place]int)
	for _, s := range g.table {
		p := place{g.slots[s.Slot], s.Side}
		if i, met := at[p]; met {
			table[i].weight += s.Weight
			continue
		}
		if i := g.index(s.Slot); i >= 0 && !p.m.refused {
			at[p] = len(table)
			table = append(table, share{index: i, weight: s.Weight, side: s.Side})
		}
	}
	return table
}

// index is the slot's place in the group; -1 where it has none.
func (g *steered) index(slot int) int {
	m := g.slots[slot]
	if m == nil {
		return -1
	}
	return slices.Index(g.order, m)
}

// attach puts the program that the table and the probes ask for in force. The
// anchor is the member that nobody else holds.
func (g *steered) attach(extra ...isolation) error {
	p, err := g.program(extra...)
	if err != nil {
		return err
	}
	return attachSteering(g.anchor().fd, p)
}

// anchor is the member at index 0 in all but the rarest of times: one of ours
// that no worker holds.
func (g *steered) anchor() *member {
	for _, m := range g.order {
		if m.guard() {
			return m
		}
	}
	return g.order[0]
}

// intoShared keeps slot 0's socket as the only one. The others go from the
// end, so that the index the program names stays slot 0 until it is alone.
func (g *steered) intoShared(reason string) (Listener, error) {
	slot0 := g.slots[0]
	for i, m := range slices.Backward(g.order) {
		if m != slot0 && !m.stranger() {
			unix.Close(m.fd) // a guard: nothing queued
			g.order = slices.Delete(g.order, i, i+1)
		}
	}
	if err := reusePort(slot0.fd, 0); err != nil {
		g.discard()
		return nil, err
	}
	return newShared(g.base, g.o, slot0, reason)
}

// discard closes every socket.
func (g *steered) discard() {
	if theirs := g.giveBack(); theirs != nil {
		unix.Close(theirs.fd) // it has its queue still
	}
}

// startWatch takes mu, for a socket that is broken already is told at once.
func (g *steered) startWatch() error {
	w, err := newWatch(func() {
		if err := g.Maintain(); err != nil && !errors.Is(err, ErrClosed) {
			g.log.Warn("a socket left its group and could not be replaced", "error", err)
		}
	})
	if err != nil {
		return err
	}
	if err := g.watchAll(w); err != nil {
		w.close()
		return err
	}
	return nil
}

// watchAll closes the listener to the watch when it fails.
func (g *steered) watchAll(w *watch) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch = w
	for _, m := range g.order {
		if m.stranger() {
			continue
		}
		if err := w.add(m.fd); err != nil {
			g.closed = true
			return err
		}
	}
	return nil
}

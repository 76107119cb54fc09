package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The order of the group is proved without any worker noticing. A client of
// our own sends the first packet of a connection to index i, and every member
// drops what comes from that client's address and port; the one whose count of
// dropped packets grew is the one at i. The client gives up before it would
// send again.

// arrival bounds the wait for a packet that stays on the machine.
const arrival = 100 * time.Millisecond

var errNotArrived = errors.New("the packet did not arrive")

// selfTest proves that each index reaches the socket that should be there.
func (g *steered) selfTest() (err error) {
	for _, g.origin = range g.at.origins() {
		var order []*member
		if order, err = g.prove(); err != nil {
			err = fmt.Errorf("self-test from %s: %w", g.origin, err)
			continue
		}
		if !slices.Equal(order, g.order) {
			return fmt.Errorf("self-test from %s: the group is not in order", g.origin)
		}
		return g.attach()
	}
	return err
}

// resolve finds the order out anew, and replaces what has a slot and is not in
// the group at all.
func (g *steered) resolve() error {
	order, err := g.prove()
	if err != nil {
		return fmt.Errorf("prove the order of the group: %w", err)
	}
	before := g.order
	g.order = order
	for _, m := range before {
		if m.stranger() || slices.Contains(order, m) {
			continue
		}
		g.order = append(g.order, m) // for replace, which takes it out again
		if err := g.replace(len(g.order)-1, "its socket is not in the group any more"); err != nil {
			return err
		}
	}
	g.doubt = false
	return g.attach()
}

// prove returns the members by index, as the kernel has them.
func (g *steered) prove() ([]*member, error) {
	fd, from, err := g.at.lasting(g.origin)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) // it never was connected to anything
	p := &proof{g: g, fd: fd, from: from}
	if p.to, err = g.at.reach(g.origin); err != nil {
		return nil, err
	}
	defer p.end()
	if err := p.begin(); err != nil {
		return nil, err
	}
	var order []*member
	for i := 0; ; i++ {
		m, err := p.at(i)
		if err != nil {
			return nil, fmt.Errorf("index %d: %w", i, err)
		}
		// Beyond the last index the kernel's hash chooses, and comes upon one
		// that was met before.
		if m != nil && slices.Contains(order, m) {
			break
		}
		order = append(order, m) // nil for one that gives no sign
		if len(order) == p.members {
			break
		}
	}
	return order, p.nameOthers(order)
}

// proof is one client and what it needs.
type proof struct {
	g       *steered
	fd      int
	from    netip.AddrPort
	to      unix.Sockaddr
	undo    []func() error
	others  []*member // those that may be in the group and give no sign
	members int       // the group has no more than this
}

// begin makes every member of ours drop what comes from the client. Guards do
// already.
func (p *proof) begin() error {
	if p.g.at.stream {
		if err := p.g.at.from(p.g.origin, 0).whisper(p.fd); err != nil {
			return err
		}
	}
	for _, m := range p.g.order {
		if m.stranger() {
			continue
		}
		p.members++
		if m.guard() {
			continue
		}
		if err := p.sign(m); err != nil {
			return err
		}
	}
	for inode, s := range p.g.strangers {
		if p.g.sameGroup(s) {
			p.others = append(p.others, &member{fd: -1, inode: inode, slot: notSlot})
			p.members++
		}
	}
	return nil
}

// sign makes a slot drop the client's packets.
func (p *proof) sign(m *member) error {
	if p.g.at.stream {
		restore, err := p.g.at.raiseMinTTL(m.fd, ttlProof)
		p.undo = append(p.undo, restore)
		return err
	}
	if filtered(m.fd) {
		p.others = append(p.others, m) // its worker's filter, not to be touched
		return nil
	}
	p.undo = append(p.undo, func() error { return detachFilter(m.fd) })
	return attachFilter(m.fd, dropFrom(p.from))
}

func (p *proof) end() {
	for _, undo := range p.undo {
		if err := undo(); err != nil {
			p.g.log.Warn("a slot still drops what only a proof of order sends", "error", err)
		}
	}
}

// at returns the member of ours at index i, or nil for a stranger. A busy
// member may drop other packets at the same time; where several counts grew,
// more packets are sent at once, until one count alone has grown by as many. A machine
// that let others run meanwhile is given two more chances.
func (p *proof) at(i int) (*member, error) {
	if err := p.g.attach(isolation{from: p.from, index: i}); err != nil {
		return nil, err
	}
	for range 3 {
		for n := uint32(1); n <= 4096; n *= 8 {
			suspects, err := p.send(n)
			if err != nil {
				return nil, err
			}
			switch len(suspects) {
			case 0:
				return nil, nil
			case 1:
				return suspects[0], nil
			}
		}
	}
	return nil, errors.New("too many packets were dropped meanwhile")
}

// send sends n packets and returns the members whose count grew by n, none when
// a stranger took them.
func (p *proof) send(n uint32) ([]*member, error) {
	before, err := p.drops()
	if err != nil {
		return nil, err
	}
	for range n {
		if err := p.knock(); err != nil {
			return nil, err
		}
	}
	deadline := time.Now().Add(arrival)
	for {
		now, err := p.drops()
		if err != nil {
			return nil, err
		}
		var grown []*member
		for m, count := range now {
			if count-before[m] >= n { // the counters wrap
				grown = append(grown, m)
			}
		}
		if len(grown) > 0 {
			return grown, nil
		}
		if p.answered() || time.Now().After(deadline) {
			if len(p.others) > 0 {
				return nil, nil
			}
			return nil, errNotArrived
		}
		ts := unix.Timespec{Nsec: 20_000}
		_ = unix.Nanosleep(&ts, nil) // cut short by a signal at worst
	}
}

// knock sends the packet; for tcp the socket is taken back from its last try.
func (p *proof) knock() error {
	if !p.g.at.stream {
		return unix.Sendto(p.fd, []byte{0}, 0, p.to)
	}
	// connect with AF_UNSPEC ends the try, and keeps the port that was bound.
	if err := disconnect(p.fd); err != nil {
		return err
	}
	err := unix.Connect(p.fd, p.to)
	if err == nil || errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("connect: %w", err)
}

// answered tells that somebody took the connection, who can only be a stranger.
func (p *proof) answered() bool {
	if !p.g.at.stream {
		return false
	}
	info, err := unix.GetsockoptTCPInfo(p.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State != unix.BPF_TCP_SYN_SENT
}

func (p *proof) drops() (map[*member]uint32, error) {
	counts := make(map[*member]uint32, len(p.g.order))
	for _, m := range p.g.order {
		if m.stranger() {
			continue
		}
		mem, err := meminfo(m.fd)
		if err != nil {
			return nil, err
		}
		counts[m] = mem.drops
	}
	return counts, nil
}

// nameOthers puts those that give no sign in the places that gave none. Which
// of several strangers is which makes no difference to anybody; a slot among
// them does.
func (p *proof) nameOthers(order []*member) error {
	foreign := !slices.ContainsFunc(p.others, func(m *member) bool { return !m.stranger() })
	silent := 0
	for i, m := range order {
		if m != nil {
			continue
		}
		if silent >= len(p.others) || !foreign && len(p.others) > 1 {
			return fmt.Errorf("index %d: cannot tell which socket it is", i)
		}
		order[i] = p.others[silent]
		silent++
	}
	return nil
}

package socket

import (
	"fmt"
	"slices"
)

// Slots are united by having one socket: the same member of a group, or the same
// unix socket. Whose it may be is decided alike for both kinds.

// having are the slots that have the socket, in order.
func having[S comparable](slots map[int]S, s S) (numbers []int) {
	for number, other := range slots {
		if other == s {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// inCommon is the socket that the slots can have in common; nil where there is none,
// and they need a new one. One that is steered to goes first, if all the steering is to
// these slots: who serves keeps what it has, though a slot that was once of their
// number may still have it too. Else it is one that no other slot has, so that the
// workers of another generation are not among theirs.
func inCommon[S comparable](slots map[int]S, numbers []int, steered func(S) []int) (one S) {
	var none S
	unnamed := func(n int) bool { return !slices.Contains(numbers, n) }
	for _, number := range numbers {
		s := slots[number]
		if s == none {
			continue
		}
		if to := steered(s); len(to) > 0 && !slices.ContainsFunc(to, unnamed) {
			return s
		}
		if one == none && !slices.ContainsFunc(having(slots, s), unnamed) {
			one = s
		}
	}
	return one
}

// without is the table when the slots get the socket one: a share of theirs that another
// socket had is left out, for what it was steered to is refused. Where it is not,
// somebody would be cut off from new connections by being named.
func without[S comparable](table []Share, slots map[int]S, numbers []int, one S, refused func(S) bool) (rest []Share, err error) {
	for _, share := range table {
		s := slots[share.Slot]
		switch {
		case s == one || !slices.Contains(numbers, share.Slot):
			rest = append(rest, share)
		case !refused(s):
			return nil, fmt.Errorf("slot %d is steered to, and its socket is not theirs alone", share.Slot)
		}
	}
	return rest, nil
}

// joins tells whether one of the slots comes to a socket that others have.
func joins[S comparable](slots map[int]S, numbers []int, one S) bool {
	return slices.ContainsFunc(numbers, func(n int) bool { return slots[n] != one })
}

// Unite makes the slots one member of the group. Members that no slot has any more
// become guards; nobody holds them, as the slots were free.
func (g *steered) Unite(numbers ...int) error {
	return g.locked("unite slots of", func() error { return g.unite(numbers) })
}

func (g *steered) unite(numbers []int) error {
	if len(numbers) == 0 {
		return nil
	}
	if slices.Min(numbers) < 0 {
		return ErrNoSlot
	}
	one := inCommon(g.slots, numbers, g.steeredBy)
	table, err := without(g.table, g.slots, numbers, one, func(m *member) bool { return m.refused })
	if err != nil {
		return err
	}
	if one == nil {
		if one, err = g.spareGuard(); err != nil {
			return err
		}
		one.resting = true // until it is, as is said below, no guard any more
	}
	if err := g.wake(one); err != nil {
		return err
	}
	if len(g.steeredBy(one)) == 0 || !joins(g.slots, numbers, one) { // nobody runs on it whose flag it is
		if err := g.handOver(one); err != nil {
			return err
		}
	}
	g.table = table
	before := g.taken()
	for _, number := range numbers {
		g.slots[number] = one
	}
	one.slot = having(g.slots, one)[0]
	for _, m := range before {
		if err := g.settleUnited(m); err != nil {
			return err
		}
	}
	return g.maintain()
}

// settleUnited names a member anew after slots have moved, or makes it a guard. What
// is queued on it stays, for whoever gets it next.
func (g *steered) settleUnited(m *member) error {
	if numbers := having(g.slots, m); len(numbers) > 0 {
		m.slot = numbers[0]
		return nil
	}
	m.slot, m.refused, m.resting = notSlot, false, false
	return g.at.deafen(m.fd)
}

// taken are the members that slots have.
func (g *steered) taken() (members []*member) {
	for _, m := range g.slots {
		if !slices.Contains(members, m) {
			members = append(members, m)
		}
	}
	return members
}

// steeredBy are the slots by which the table leads to the member.
func (g *steered) steeredBy(m *member) (numbers []int) {
	if m.refused {
		return nil
	}
	for _, share := range g.table {
		if g.slots[share.Slot] == m {
			numbers = append(numbers, share.Slot)
		}
	}
	return numbers
}

// Sharing are the slots that have the slot's socket.
func (g *steered) Sharing(slot int) []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.slots[slot] == nil {
		return nil
	}
	return having(g.slots, g.slots[slot])
}

// several tells that workers of more than one slot may accept from the slot's
// socket.
func (g *steered) several(slot int) bool { return len(g.Sharing(slot)) > 1 }

package socket

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Unite gives the slots one socket. The queue that one of them had stays the
// socket's; the path is not touched.
func (l *unixListener) Unite(numbers ...int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.unite(numbers); err != nil {
		return l.fail("unite slots of", err)
	}
	return nil
}

func (l *unixListener) unite(numbers []int) error {
	if l.closed {
		return ErrClosed
	}
	if len(numbers) == 0 {
		return nil
	}
	if l.reason != "" {
		for _, number := range numbers {
			l.slots[number] = l.slots[0]
		}
		return nil
	}
	one := inCommon(l.slots, numbers, l.steeredBy)
	table, err := without(l.table, l.slots, numbers, one, func(s *unixSlot) bool { return s.refused })
	if err != nil {
		return err
	}
	if one == nil {
		if one, err = l.socket(slices.Min(numbers), l.made); err != nil {
			return err
		}
	}
	if len(l.steeredBy(one)) == 0 || !joins(l.slots, numbers, one) { // nobody runs on it whose flag it is
		if err := l.handOver(one); err != nil {
			return err
		}
	}
	l.table = table
	before := l.sockets()
	for _, number := range numbers {
		l.slots[number] = one
	}
	return l.settleUnited(before)
}

// steeredBy are the slots by which the table leads to the socket.
func (l *unixListener) steeredBy(s *unixSlot) (numbers []int) {
	if s.refused {
		return nil
	}
	for _, share := range l.table {
		if l.slots[share.Slot] == s {
			numbers = append(numbers, share.Slot)
		}
	}
	return numbers
}

// settleUnited names the sockets anew after slots have moved, and puts those away
// that no slot has any more.
func (l *unixListener) settleUnited(before []*unixSlot) (err error) {
	for _, s := range before {
		numbers := having(l.slots, s)
		if len(numbers) > 0 {
			s.number = numbers[0]
			continue
		}
		err = errors.Join(err, l.watch.remove(s.fd))
		l.watch.unname(s.names)
		s.forget()
		if e := unix.Unlinkat(l.place.private, s.link(), 0); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", s.link(), e))
		}
		l.old = append(l.old, s)
	}
	l.closeOld(false)
	return err
}

// closeOld closes the sockets that no slot has, once their queues are empty or
// whatever is in them.
func (l *unixListener) closeOld(all bool) {
	l.old = slices.DeleteFunc(l.old, func(s *unixSlot) bool {
		if !all && !idle(s.fd) {
			return false
		}
		unix.Close(s.fd) // nothing is queued, or it is the workers', who have duplicates
		return true
	})
}

// Sharing are the slots that have the slot's socket.
func (l *unixListener) Sharing(number int) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.slot(number)
	if err != nil {
		return nil
	}
	return having(l.slots, s)
}

// several tells that workers of more than one slot may accept from the slot's
// socket.
func (l *unixListener) several(number int) bool {
	return l.reason != "" || len(l.Sharing(number)) > 1
}

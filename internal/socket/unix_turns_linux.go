package socket

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// A name leads to one file, so where a table's shares are several sockets these take
// turns: the path leads to each for a part of every turnPeriod that is its weight's
// part of the table's. Over many periods that is its part of the connections.
//
// A period is not always as long, or a client who connects once a second would meet
// the same socket for ever.
const turnPeriod = 500 * time.Millisecond

// unixPart is a socket with the weights of all shares that have it.
type unixPart struct {
	s      *unixSlot
	weight int
}

// parts are the sockets of a table, the one with the largest weight first; l.mu is
// held.
func (l *unixListener) parts(table []Share) ([]unixPart, error) {
	if err := checkTable(table, func(slot int) bool { return l.slots[slot] != nil }); err != nil {
		return nil, err
	}
	var parts []unixPart
	at := make(map[*unixSlot]int)
	for _, share := range table {
		s := l.slots[share.Slot]
		if _, met := at[s]; !met {
			at[s] = len(parts)
			parts = append(parts, unixPart{s: s})
		}
		parts[at[s]].weight += share.Weight
	}
	most := 0
	for i := range parts {
		if parts[i].weight > parts[most].weight {
			most = i
		}
	}
	parts[0], parts[most] = parts[most], parts[0]
	return parts, nil
}

// takeTurns begins with the parts' turns, of which the first has begun, and ends
// those before; l.mu is held.
func (l *unixListener) takeTurns(parts []unixPart) {
	l.endTurns()
	l.endTurns = func() {}
	if len(parts) < 2 {
		return
	}
	ctx, end := context.WithCancel(context.Background())
	l.endTurns = end
	l.partings.Go(func() { l.turns(ctx, parts) }) // ends with the next Steer, or with the listener
}

func (l *unixListener) turns(ctx context.Context, parts []unixPart) {
	total := 0
	for _, p := range parts {
		total += p.weight
	}
	due := time.Now() // when the turn ends: one that ends late is at the next one's cost
	for {
		period := (0.75 + rand.Float64()/2) * float64(l.period)
		if time.Since(due) > l.period {
			due = time.Now() // the machine was suspended, or too busy for any order
		}
		for i, p := range parts {
			due = due.Add(time.Duration(period * float64(p.weight) / float64(total)))
			select {
			case <-ctx.Done():
				return
			case <-l.done:
				return
			case <-time.After(time.Until(due)):
			}
			if !l.turn(ctx, parts[(i+1)%len(parts)].s) {
				return
			}
		}
	}
}

// turn lets the path lead to the socket, unless it is refused. It is false when the
// turns have ended.
func (l *unixListener) turn(ctx context.Context, s *unixSlot) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil || l.closed {
		return false
	}
	if !s.refused && l.at != s {
		l.at = s
		// What goes wrong, Maintain meets again, and returns.
		_ = l.place.show(s.link())
	}
	return true
}

// Steer lets the path lead to the sockets of the table, by turns.
func (l *unixListener) Steer(table []Share) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.fail("steer", ErrClosed)
	}
	parts, err := l.parts(table)
	if err != nil {
		return l.fail("steer", err)
	}
	if l.reason != "" {
		return nil
	}
	if parts = admitted(parts); len(parts) == 0 {
		return l.fail("steer", fmt.Errorf("slot %d: refused", table[0].Slot))
	}
	// What another slot suffers from must not stop this one; Maintain tells.
	_ = l.maintain(false)
	before := l.at
	l.at = parts[0].s
	if err := l.place.show(l.at.link()); err != nil {
		l.at = before
		return l.fail("steer", err)
	}
	l.table = append([]Share(nil), table...)
	l.takeTurns(parts)
	return nil
}

// admitted are the parts that are not refused.
func admitted(parts []unixPart) (some []unixPart) {
	for _, p := range parts {
		if !p.s.refused {
			some = append(some, p)
		}
	}
	return some
}

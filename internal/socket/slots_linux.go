package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"baton/internal/socket/diag"
	"golang.org/x/sys/unix"
)

func (g *steered) Mode() Mode     { return Steered }
func (g *steered) Reason() string { return "" }

func (g *steered) Apply(o Options) error {
	return g.locked("apply options to", func() error {
		if o.Shared {
			return errors.New("steering cannot be switched off while the socket is open")
		}
		g.o.Backlog, g.o.NonBlocking = o.Backlog, o.NonBlocking
		if !g.at.stream {
			return nil
		}
		for _, m := range g.order {
			if m.stranger() {
				continue
			}
			if ok, err := g.healthy(m); err != nil || !ok {
				continue // not to be listened on again; Maintain sees to it
			}
			if err := g.setBacklog(m); err != nil {
				return fmt.Errorf("set backlog %d: %w", g.o.backlog(), err)
			}
		}
		return nil
	})
}

func (g *steered) Reserve(slot int) error {
	return g.locked(fmt.Sprintf("reserve slot %d of", slot), func() error {
		if slot < 0 {
			return ErrNoSlot
		}
		if m := g.slots[slot]; m != nil {
			return g.admit(m)
		}
		m, err := g.spareGuard()
		if err != nil {
			return err
		}
		if err := g.assign(m, slot); err != nil {
			return err
		}
		return g.maintain()
	})
}

// admit takes back a Refuse.
func (g *steered) admit(m *member) error {
	if !m.refused {
		return nil
	}
	m.refused = false
	return g.attach()
}

// with runs f under mu with the slot's member.
func (g *steered) with(slot int, doing string, f func(m *member) error) error {
	return g.locked(fmt.Sprintf("%s slot %d of", doing, slot), func() error {
		m := g.slots[slot]
		if m == nil {
			return ErrNoSlot
		}
		return f(m)
	})
}

func (g *steered) FD(slot int) (int, error) {
	fd := -1
	err := g.with(slot, "descriptor of", func(m *member) error {
		fd = m.fd
		if len(having(g.slots, m)) > 1 {
			return nil // it is that of workers who run
		}
		return g.handOver(m)
	})
	return fd, err
}

func (g *steered) Number(slot int) (int, error) {
	fd := -1
	err := g.with(slot, "descriptor of", func(m *member) error {
		fd = m.fd
		return nil
	})
	return fd, err
}

// handOver makes O_NONBLOCK what the workers are to find, whatever the slot's
// last one left.
func (g *steered) handOver(m *member) error {
	if err := unix.SetNonblock(m.fd, g.o.NonBlocking); err != nil {
		return fmt.Errorf("set O_NONBLOCK: %w", err)
	}
	return nil
}

func (g *steered) Inode(slot int) (inode uint64, err error) {
	err = g.with(slot, "inode of", func(m *member) error {
		inode = m.inode
		return nil
	})
	return inode, err
}

func (g *steered) Pending(slot int) (p Pending, err error) {
	err = g.with(slot, "queue of", func(m *member) (err error) {
		p, err = g.pending(m.fd)
		if err == nil && p.Queued > 0 {
			p.Queued -= min(p.Queued, g.ownQueued(m))
		}
		return err
	})
	return p, err
}

// ownQueued is how many of the member's queue are connections of probes that were
// given up. They stay there until a worker accepts them, and nobody waits for
// an answer to one.
func (g *steered) ownQueued(m *member) int {
	queued := 0
	m.left = slices.DeleteFunc(m.left, func(from netip.AddrPort) bool {
		s, there, err := diag.Get(unix.IPPROTO_TCP, g.at.target(g.origin), from)
		if err == nil && there && s.Unaccepted() {
			queued++
		}
		return err != nil || !there || !s.Unaccepted() && !s.HalfOpen()
	})
	return queued
}

// Refuse steers around the slots, also where the table names them. When no slot
// is left, new connections go to the anchor, which is deaf. The slots themselves are
// not touched: what is half open on them completes and can be accepted. The wait at
// the end, some 10 ms, is one for all of them.
func (g *steered) Refuse(slots ...int) error {
	changed := false
	err := g.locked("refuse on", func() error {
		var errs []error
		for _, slot := range slots {
			m := g.slots[slot]
			if m == nil {
				errs = append(errs, fmt.Errorf("slot %d: %w", slot, ErrNoSlot))
				continue
			}
			changed = changed || !m.refused
			m.refused = true
		}
		return errors.Join(append(errs, g.attach())...)
	})
	if changed {
		settle()
	}
	return err
}

func (g *steered) Rest(slot int) error {
	return g.with(slot, "rest", func(m *member) error {
		if !g.at.stream || m.resting || m.foreign != nil || g.inTable(m) || len(having(g.slots, m)) > 1 {
			return nil
		}
		if err := g.at.deafen(m.fd); err != nil {
			return err
		}
		m.resting = true
		return nil
	})
}

// Steer puts the table in force even where something else could not be put
// right, and reports that all the same.
func (g *steered) Steer(table []Share) error {
	err := g.locked("steer", func() error {
		if err := checkTable(table, func(slot int) bool { return g.slots[slot] != nil }); err != nil {
			return err
		}
		g.table = append([]Share(nil), table...)
		for _, share := range table {
			if err := g.wake(g.slots[share.Slot]); err != nil {
				return errors.Join(err, g.attach())
			}
		}
		if err := g.maintain(); err != nil {
			return errors.Join(err, g.attach())
		}
		return nil
	})
	settle()
	return err
}

func (g *steered) Probe(ctx context.Context, slot int, owner func(inode uint64) bool) error {
	p := g.prober(slot, func() error { return g.attach() })
	if g.several(slot) {
		p.owner, p.volleys = owner, owner != nil
	}
	return g.probe(ctx, slot, "probe", p)
}

// Dial to one of several slots that have a socket is as in shared mode: it is known
// who has the connection only when it was accepted.
func (g *steered) Dial(ctx context.Context, slot int, owner func(inode uint64) bool) (net.Conn, error) {
	p := g.prober(slot, g.maintain)
	switch several := g.several(slot); {
	case several && owner == nil:
		return nil, g.fail("dial", ErrNoProof)
	case several && g.defers(slot):
		return nil, g.fail("dial", errDeferred)
	case several:
		p.owner, p.volleys = owner, true
	default:
		p.landing = true
	}
	return p.dial(func() error { return g.probe(ctx, slot, "dial", p) })
}

// probe lets p run, unless there is no such slot.
func (g *steered) probe(ctx context.Context, slot int, doing string, p *prober) error {
	if !g.at.stream {
		return g.fail(doing, ErrNoProof)
	}
	err := g.with(slot, doing, func(*member) error {
		g.probes.Add(1)
		return nil
	})
	if err != nil {
		return err
	}
	defer g.probes.Done()
	if err := g.outlast(ctx, slot, p); err != nil {
		return err
	}
	return p.run(ctx, slot)
}

// outlast waits until no connection of an earlier probe is queued on the slot, or for
// a Dial, which needs no acceptance, not many: one behind them would not be accepted
// sooner, and a worker that is asked again and again while it hangs would have its
// queue filled by that.
func (g *steered) outlast(ctx context.Context, slot int, p *prober) error {
	most := 0
	if p.landing {
		most = mostDialed
	}
	for pause := firstLook; g.occupied(slot) > most; pause = min(2*pause, maxOutlastPause) {
		if err := p.sleep(ctx, pause); err != nil {
			return p.end(ctx, slot, "the last probe's connection was not accepted", err)
		}
	}
	return nil
}

const (
	mostDialed      = 8
	maxOutlastPause = 50 * time.Millisecond
)

func (g *steered) occupied(slot int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.slots[slot]
	if g.closed || m == nil {
		return 0
	}
	return g.ownQueued(m)
}

// prober reaches the slot by a rule that force puts in force: attach at once, or
// maintain after a look whether the order of the group is still what it was.
func (g *steered) prober(slot int, force func() error) *prober {
	return &prober{
		base: &g.base, origin: g.origin, done: g.done, hold: g.hold,
		defers: func() bool { return g.defers(slot) },
		full: func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			m := g.slots[slot]
			return m != nil && !g.closed && queueFull(m.fd)
		},
		gone: func(from netip.AddrPort) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if m := g.slots[slot]; m != nil {
				m.left = slices.DeleteFunc(m.left, func(f netip.AddrPort) bool { return f == from })
			}
		},
		isolate: func(from netip.AddrPort) (release, left func(), err error) {
			m, err := g.isolate(slot, from, force)
			if err != nil {
				return nil, nil, err
			}
			left = func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				m.left = append(m.left, from) // of a socket that is not the slot's any more nobody asks
			}
			return func() { g.release(from) }, left, nil
		},
	}
}

// hold keeps Close waiting until let is called.
func (g *steered) hold() (let func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, false
	}
	g.probes.Add(1)
	return g.probes.Done, true
}

// isolate sends what comes from from to the slot until release, and returns the
// slot's member.
func (g *steered) isolate(slot int, from netip.AddrPort, force func() error) (m *member, err error) {
	err = g.with(slot, "probe", func(resting *member) error {
		g.isolated[from] = slot
		err := g.wake(resting)
		if err == nil {
			err = force()
		}
		if err != nil {
			delete(g.isolated, from)
		}
		m = g.slots[slot] // force may have replaced it
		return err
	})
	return m, err
}

func (g *steered) release(from netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.isolated, from)
	if g.closed {
		return
	}
	if err := g.attach(); err != nil {
		// The rule left behind names a port that nobody uses; the next change
		// of steering or Maintain removes it.
		g.log.Warn("a probe's rule stays in the steering program", "error", err)
	}
}

// defers tells whether the worker set TCP_DEFER_ACCEPT on the slot.
func (g *steered) defers(slot int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.slots[slot]
	return m != nil && !g.closed && defersAccept(m.fd)
}

func (g *steered) Close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	close(g.done)
	g.mu.Unlock()

	g.watch.close()
	g.probes.Wait()
	g.discard()
	g.found.close()
	return nil
}

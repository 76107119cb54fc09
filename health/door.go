package health

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
)

// AddressVariable tells a probe's command where its door is, as host:port.
const AddressVariable = "BATON_PROBE_ADDRESS"

// maxGuests is how many connections a door has open at once.
const maxGuests = 64

// Door lets ordinary tools reach the one worker: it listens on a port of loopback
// and passes on what comes there, by a connection that Dial makes for each. It is
// open for one try of one probe.
//
// Loopback is everybody's on the machine, so a door asks of each connection whether
// it may come in, before anything of it is passed on.
type Door struct {
	ln      net.Listener
	dial    Dial
	allowed func(local, remote netip.AddrPort) bool
	ctx     context.Context // ends with the door
	cancel  context.CancelFunc
	guests  sync.WaitGroup // and the goroutine that lets them in

	mu     sync.Mutex
	failed error // why the worker could not be reached
}

// OpenDoor opens a door until Close, or until ctx ends. Allowed is given the
// door's own address and the peer's; without it nobody may come in.
func OpenDoor(ctx context.Context, dial Dial, allowed func(local, remote netip.AddrPort) bool) (*Door, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a door: %w", err)
	}
	d := &Door{ln: ln, dial: dial, allowed: allowed}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.guests.Go(func() { // ends with the door
		stop := whenEnds(d.ctx, func() { ln.Close() })
		defer stop()
		d.admit()
	})
	return d, nil
}

// Address is where it is, as in "127.0.0.1:40123".
func (d *Door) Address() string { return d.ln.Addr().String() }

// Close ends every connection through the door, and returns when nothing of it is
// left. The error is why the worker could not be reached, if it was tried in vain.
func (d *Door) Close() error {
	d.cancel()
	d.guests.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// admit ends when the listening socket is closed.
func (d *Door) admit() {
	room := make(chan struct{}, maxGuests)
	for {
		c, err := d.ln.Accept()
		if err != nil {
			d.fail(fmt.Errorf("accept at the door: %w", err))
			return
		}
		room <- struct{}{}
		d.guests.Go(func() { // ends when both sides have closed, or with the door
			defer func() { <-room }()
			d.pass(c)
		})
	}
}

// fail notes why the worker could not be reached, unless that is because the door
// closes.
func (d *Door) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() == nil {
		d.failed = err
	}
}

// pass lets one guest in and ends with it.
func (d *Door) pass(guest net.Conn) {
	defer guest.Close()
	if d.allowed == nil || !d.allowed(end(guest.LocalAddr()), end(guest.RemoteAddr())) {
		return
	}
	worker, err := d.dial(d.ctx)
	if err != nil {
		d.fail(err)
		return
	}
	defer worker.Close()
	stop := whenEnds(d.ctx, func() { guest.Close(); worker.Close() })
	defer stop()
	var answers sync.WaitGroup
	defer answers.Wait()
	answers.Go(func() { relay(guest, worker) }) // ends when the worker has no more to say, or a connection is closed
	relay(worker, guest)
}

// relay passes on what from says, and its end; when the one or the other breaks,
// to ends, and with it the relay that comes back.
func relay(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if err == nil {
		if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			return
		}
	}
	to.Close()
}

func end(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

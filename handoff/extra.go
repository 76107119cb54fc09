package handoff

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"baton/internal/socket"
)

// extras are addresses that no listener is configured for and a worker asked its
// cluster's primary to open, as Node programs do. All workers share the one socket
// of an address, and nothing is steered there: it is open as long as one of them
// needs it.
type extras struct {
	log  *slog.Logger
	mu   sync.Mutex
	open map[string]*extra
}

type extra struct {
	socket.Listener
	users int
}

func newExtras(log *slog.Logger) *extras {
	return &extras{log: log, open: make(map[string]*extra)}
}

// listen is protocol.HubOptions.Listen.
func (x *extras) listen(network, address string) (fd int, release func(), err error) {
	_, a, err := socket.ParseAddress(network + "://" + address)
	if err != nil {
		return -1, nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	key := a.String()
	e := x.open[key]
	if e == nil || a.Network != "unix" && a.Port == 0 { // any port: one for each who asks
		l, err := socket.Listen(context.Background(), a, socket.Options{Name: key, UID: -1, GID: -1, Shared: true, NonBlocking: true, Log: x.log})
		if err != nil {
			return -1, nil, err
		}
		e = &extra{Listener: l}
		if a.Network == "unix" || a.Port != 0 {
			x.open[key] = e
		}
	}
	if fd, err = e.FD(0); err != nil {
		return -1, nil, errors.Join(err, x.unless(key, e))
	}
	e.users++
	return fd, sync.OnceFunc(func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		e.users--
		if err := x.unless(key, e); err != nil {
			x.log.Warn("an address that is not needed any more", "address", key, "error", err)
		}
	}), nil
}

// unless closes e unless somebody needs it.
func (x *extras) unless(key string, e *extra) error {
	if e.users > 0 {
		return nil
	}
	if x.open[key] == e {
		delete(x.open, key)
	}
	return e.Close()
}

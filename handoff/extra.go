package handoff

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"baton/internal/socket"
)

// extras are addresses that no listener is configured for and a worker asked its
// cluster's primary to open, as Node programs do. All workers share the one socket
// of an address, and nothing is steered there: it is open as long as one of them
// needs it.
type extras struct {
	log  *slog.Logger
	mu   sync.Mutex
	open map[string]*extra // by address; those on a port of their own are in all alone
	all  map[*extra]bool
	// spare were open before this launcher took another's place, and nobody has asked for
	// them since.
	spare    []*extra
	lastName int
	// others: some worker runs as another user than the launcher, who opens these
	// with its own rights: paths and privileged ports are not for it.
	others bool
}

// privileged is the first port that anybody may bind, ip(7).
func privileged() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if n, aerr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && aerr == nil {
		return n
	}
	return 1024
}

// serve says whether a worker runs as another user.
func (x *extras) serve(others bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.others = others
}

type extra struct {
	socket.Listener
	key   string
	name  string // of its descriptors, where they are kept
	users int
}

func newExtras(log *slog.Logger) *extras {
	return &extras{log: log, open: make(map[string]*extra), all: make(map[*extra]bool)}
}

// listen is protocol.HubOptions.Listen.
func (x *extras) listen(network, address string) (fd int, release func(), err error) {
	_, a, err := socket.ParseAddress(network + "://" + address)
	if err != nil {
		return -1, nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.others && (a.Network == "unix" || a.Port != 0 && a.Port < privileged()) {
		return -1, nil, fmt.Errorf("listen %s: not for a program that runs as another user: make it a [[listen]]: %w", a, syscall.EACCES)
	}
	key := a.String()
	e, err := x.get(key, a)
	if err != nil {
		return -1, nil, err
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

// get finds the address open, or opens it; x.mu is held.
func (x *extras) get(key string, a socket.Address) (*extra, error) {
	e := x.open[key] // of any port there is one for each who asks
	if i := slices.IndexFunc(x.spare, func(e *extra) bool { return e.key == key }); e == nil && i >= 0 {
		e = x.spare[i]
		x.spare = slices.Delete(x.spare, i, i+1)
	}
	if e == nil {
		l, err := socket.Listen(context.Background(), a, socket.Options{Name: key, UID: -1, GID: -1, Shared: true, NonBlocking: true, Log: x.log})
		if err != nil {
			return nil, err
		}
		x.lastName++
		e = &extra{Listener: l, key: key, name: "x" + strconv.Itoa(x.lastName)}
		x.all[e] = true
	}
	if a.Network == "unix" || a.Port != 0 {
		x.open[key] = e
	}
	return e, nil
}

// settle closes what nobody needs of that which another launcher had open.
func (x *extras) settle() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.spare {
		if err := x.unless(e.key, e); err != nil {
			x.log.Warn("an address that is not needed any more", "address", e.key, "error", err)
		}
	}
	x.spare = nil
}

// inodes are the sockets that are open here.
func (x *extras) inodes() map[uint64]bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	held := make(map[uint64]bool)
	for e := range x.all {
		if inode, err := e.Inode(0); err == nil { // an error: it is being closed
			held[inode] = true
		}
	}
	return held
}

// unless closes e unless somebody needs it.
func (x *extras) unless(key string, e *extra) error {
	if e.users > 0 {
		return nil
	}
	if x.open[key] == e {
		delete(x.open, key)
	}
	delete(x.all, e)
	return e.Close()
}

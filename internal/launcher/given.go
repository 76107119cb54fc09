package launcher

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"baton/handoff"
	"baton/internal/keep"
	"baton/internal/socket"
	"baton/internal/systemd"
)

// given are the sockets of .socket units. They stay systemd's, which listens on when
// everybody else has closed them, so they are kept here for as long as the launcher runs,
// those that no listener has too: another configuration may name them. Listeners get
// duplicates.
type given struct {
	mu  sync.Mutex // never held while anything is waited for
	all []*givenSocket
}

type givenSocket struct {
	systemd.Given
	at     socket.Address
	err    error  // why no listener can have it: FD is closed then
	holder string // key of the listener that has it, or had; "": none ever
	said   bool   // that no listener has it
}

func newGiven(sockets []systemd.Given) *given {
	g := &given{}
	for _, s := range sockets {
		x := &givenSocket{Given: s}
		if x.at, x.err = socket.AddressOf(s.FD); x.err != nil {
			_ = syscall.Close(s.FD) // systemd's own stays
		}
		g.all = append(g.all, x)
	}
	return g
}

func (x *givenSocket) String() string { return fmt.Sprintf("systemd's socket %q at %s", x.Name, x.at) }

// check says what is wrong between a configuration and the sockets.
func (g *given) check(all []handoff.ListenerPlan) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, l := range all {
		_, err := g.find(l, all)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// find is the socket that a listener is to have; nil: none. An address is what a socket
// is, and so goes before the name, which all sockets of one unit share.
func (g *given) find(l handoff.ListenerPlan, all []handoff.ListenerPlan) (*givenSocket, error) {
	var here *givenSocket
	var elsewhere []string
	for _, x := range g.all {
		named := x.Name == l.Options.Name
		switch {
		case x.err == nil && x.at.Same(l.Address):
			if here == nil || named {
				here = x
			}
		case named && x.err != nil:
			elsewhere = append(elsewhere, "is none to serve on: "+x.err.Error())
		case named && !slices.ContainsFunc(all, func(o handoff.ListenerPlan) bool { return x.at.Same(o.Address) }):
			elsewhere = append(elsewhere, "listens on "+x.at.String())
		}
	}
	if here != nil || len(elsewhere) == 0 {
		return here, nil
	}
	return nil, fmt.Errorf("listener %s: the address is %s, but what systemd gave by this name %s: make ListenStream= and address the same, or the names different",
		l.Options.Name, l.Address, strings.Join(elsewhere, "; "))
}

// give is handoff.Options.Given.
func (g *given) give(l handoff.ListenerPlan, all []handoff.ListenerPlan, open func(key string) bool) (fd int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x, err := g.find(l, all)
	if x == nil || err != nil {
		return -1, err
	}
	key := l.Address.String()
	if x.holder != "" && open(x.holder) {
		return -1, fmt.Errorf("listener %s: %s serves %s already, which is the same: restart to spell it %s", l.Options.Name, x, x.holder, key)
	}
	own, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(x.FD), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return -1, fmt.Errorf("listener %s: duplicate %s: %w", l.Options.Name, x, errno)
	}
	x.holder, x.said = key, false
	return int(own), nil
}

// warn names the sockets that none of the listeners has, once.
func (g *given) warn(log *slog.Logger, all []handoff.ListenerPlan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range g.all {
		used := slices.ContainsFunc(all, func(l handoff.ListenerPlan) bool { return l.Address.String() == x.holder })
		if used || x.said {
			continue
		}
		x.said = true
		if x.err != nil {
			log.Warn(fmt.Sprintf("what systemd gave as %q is none to serve on: %v", x.Name, x.err))
			continue
		}
		log.Warn(x.String()+" is no listener's, and who connects waits: add a [[listen]] with this address, or stop the .socket unit",
			"name", x.Name, "address", x.at.String())
	}
}

// resumed says which listeners of a launcher before this one have which socket. What was
// told by this very process is not told again.
func (g *given) resumed(st handoff.State, upgraded bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range g.all {
		x.said = upgraded
		var is syscall.Stat_t
		if x.err != nil || syscall.Fstat(x.FD, &is) != nil {
			continue
		}
		for _, l := range st.Listeners {
			if slices.ContainsFunc(l.Socket.Order, func(m socket.Socket) bool { return m.Inode == is.Ino }) {
				x.holder = l.Key
			}
		}
	}
}

// keep puts the descriptors by their places in the list of names that it returns.
func (g *given) keep(f *keep.Files) (names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range g.all {
		if x.err == nil {
			f.Put(givenName(len(names)), x.FD)
			names = append(names, x.Name)
		}
	}
	return names
}

func givenName(n int) string { return "g" + strconv.Itoa(n+1) }

// takeGiven takes up what keep put.
func takeGiven(names []string, f *keep.Files) (all []systemd.Given, err error) {
	for i, name := range names {
		fd, terr := f.Take(givenName(i))
		if terr != nil {
			err = errors.Join(err, fmt.Errorf("systemd's socket %q: %w", name, terr))
			continue
		}
		all = append(all, systemd.Given{Name: name, FD: fd})
	}
	return all, err
}

// checkGiven is takeGiven without a change.
func checkGiven(names []string, f *keep.Files) error {
	for i, name := range names {
		if !f.Has(givenName(i)) {
			return fmt.Errorf("systemd's socket %q: %w", name, keep.ErrMissing)
		}
	}
	return nil
}

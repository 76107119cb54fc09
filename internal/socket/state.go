package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"baton/internal/keep"
)

// State is a listener without its descriptors, which lie beside it by name: what
// another process needs to go on with it (Keep, Resume). A number in it means the same
// in any process; of a field that is not there Resume takes the zero value, and where that
// cannot be right says so.
type State struct {
	Name    string       `json:"name"`
	Address string       `json:"address"` // Address.String, with the port that was bound
	Mode    Mode         `json:"mode"`
	Reason  string       `json:"reason,omitempty"` // why shared
	Options OptionsState `json:"options"`

	// Bound is the IP address of the sockets, with a zone where it has one; the
	// Address may have a host's name. For tcp and udp.
	Bound  netip.Addr `json:"bound,omitzero"`
	Dual   bool       `json:"dual,omitempty"`  // they take IPv4 too
	Origin netip.Addr `json:"origin,omitzero"` // where isolated connections come from
	Unix   *UnixState `json:"unix,omitempty"`  // what only unix sockets have
	Slots  []int      `json:"slots,omitempty"` // shared: all of them; else each socket has its own
	Made   int        `json:"made"`            // sockets so far: no number is used twice
	Table  []Share    `json:"table"`           // of the last Steer; never nil
	Order  []Socket   `json:"sockets"`         // steered: in the order of the group, without strangers'
}

// OptionsState are Options as they are in force. Who is nobody's owner has none.
type OptionsState struct {
	Backlog     int         `json:"backlog,omitempty"`
	Mode        fs.FileMode `json:"mode,omitempty"`
	UID         *int        `json:"uid,omitempty"`
	GID         *int        `json:"gid,omitempty"`
	Shared      bool        `json:"shared,omitempty"`
	NonBlocking bool        `json:"nonblocking,omitempty"`
}

// Socket is one of a listener's sockets.
type Socket struct {
	Number  int    `json:"number"` // of its descriptor: PREFIX.mNUMBER
	Inode   uint64 `json:"inode"`
	Slots   []int  `json:"slots,omitempty"` // those that have it; none for a guard
	Backlog int    `json:"backlog,omitempty"`
	Refused bool   `json:"refused,omitempty"`
	Resting bool   `json:"resting,omitempty"` // Listener.Rest
	// Left are the ends of connections of the launcher's own that may still be queued.
	Left []netip.AddrPort `json:"left,omitempty"`
	// Foreign is a socket that is systemd's: it is not closed for good with the listener,
	// and has then again what it had before.
	Foreign *Foreign `json:"foreign,omitempty"`
	// File is what only a unix socket has.
	File *UnixFile `json:"file,omitempty"`
}

// Foreign is how a socket was when it came from elsewhere.
type Foreign struct {
	ReusePort bool `json:"reuse_port,omitempty"` // SO_REUSEPORT was set
}

// UnixState is what a listener by name has besides. The descriptor of its private
// directory, which carries the lock, is PREFIX.dir.
type UnixState struct {
	At      int      `json:"at"`                 // number of the socket that the path leads to
	Keys    int      `json:"keys"`               // names of files so far
	Names   []string `json:"names,omitempty"`    // under which sockets were bound
	Path    string   `json:"path,omitempty"`     // of a socket that came from outside, where the address is another name
	NoLinks string   `json:"no_links,omitempty"` // why there are no hard links
	NoName  string   `json:"no_name,omitempty"`  // why sockets are not bound under the path's own name
}

// UnixFile is the file a unix socket is bound to.
type UnixFile struct {
	Key    int         `json:"key"` // its name in the private directory
	Device uint64      `json:"device"`
	Inode  uint64      `json:"inode"`
	Plain  fs.FileMode `json:"plain"` // permissions for a Mode of 0
	// Given are the numbers of connections of probes that were given up, in the
	// queue: PREFIX.cNUMBER.
	Given []int `json:"given,omitempty"`
}

// Names of descriptors behind the prefix.
func directoryName(prefix string) string          { return prefix + ".dir" }
func connectionName(prefix string, id int) string { return prefix + ".c" + strconv.Itoa(id) }
func socketName(prefix string, number int) string { return prefix + ".m" + strconv.Itoa(number) }

// optionsState drops what is a state's own (the name) or a process's (the log).
func (o Options) state() OptionsState {
	s := OptionsState{Backlog: o.Backlog, Mode: o.Mode, Shared: o.Shared, NonBlocking: o.NonBlocking}
	if o.UID >= 0 {
		s.UID = &o.UID
	}
	if o.GID >= 0 {
		s.GID = &o.GID
	}
	return s
}

func (s State) options(log *slog.Logger) Options {
	o := Options{
		Name: s.Name, Backlog: s.Options.Backlog, Mode: s.Options.Mode, UID: -1, GID: -1,
		Shared: s.Options.Shared, NonBlocking: s.Options.NonBlocking, Log: log,
	}
	if s.Options.UID != nil {
		o.UID = *s.Options.UID
	}
	if s.Options.GID != nil {
		o.GID = *s.Options.GID
	}
	return o
}

// check holds a state against itself and returns its address. Whatever passes can be
// taken up without a surprise, also when none of its descriptors is there.
func (s State) check() (Address, error) {
	a, err := s.address()
	switch {
	case err != nil:
		return a, err
	case s.Mode != Steered && s.Mode != Shared:
		return a, fmt.Errorf("mode %q is neither %s nor %s", s.Mode, Steered, Shared)
	case len(s.Order) == 0:
		return a, errors.New("no socket")
	case s.Mode == Shared && len(s.Order) > 1:
		return a, fmt.Errorf("%d sockets for one that all slots share", len(s.Order))
	case s.Table == nil:
		return a, errors.New("no table of steering")
	case a.Network != "unix" && (!s.Bound.IsValid() || a.Port == 0):
		return a, errors.New("no address that the sockets are bound to")
	}
	slots, err := s.checkSockets()
	if err != nil {
		return a, err
	}
	if len(s.Table) > 0 {
		err = checkTable(s.Table, func(slot int) bool { return slots[slot] })
	}
	return a, err
}

// address is ParseAddress but for paths that are too long for a configuration.
func (s State) address() (Address, error) {
	if p, ok := strings.CutPrefix(s.Address, "unix://"); ok && path.IsAbs(p) && path.Base(p) != "/" && path.Clean(p) == p {
		return Address{Network: "unix", Path: p}, nil
	}
	name, a, err := ParseAddress(s.Address)
	if err == nil && (name != "" || a.Network == "unix") {
		err = fmt.Errorf("address %q: not as it was kept", s.Address)
	}
	return a, err
}

// checkSockets returns all slots.
func (s State) checkSockets() (map[int]bool, error) {
	slots, numbers := make(map[int]bool), make(map[int]bool)
	add := func(all []int) error {
		for _, slot := range all {
			if slot < 0 || slots[slot] {
				return fmt.Errorf("slot %d twice, or less than 0", slot)
			}
			slots[slot] = true
		}
		return nil
	}
	if err := add(s.Slots); err != nil {
		return nil, err
	}
	for _, m := range s.Order {
		if m.Number < 1 || m.Number > s.Made || numbers[m.Number] {
			return nil, fmt.Errorf("socket number %d of %d: not between, or twice", m.Number, s.Made)
		}
		numbers[m.Number] = true
		if m.Backlog < 0 {
			return nil, fmt.Errorf("socket %d: backlog %d", m.Number, m.Backlog)
		}
		if err := add(m.Slots); err != nil {
			return nil, err
		}
	}
	if len(slots) == 0 {
		return nil, errors.New("no slot")
	}
	return slots, nil
}

// checkUnix is the part of check that is for unix sockets.
func (s State) checkUnix() error {
	if s.Unix == nil {
		return errors.New("nothing of what a unix socket has")
	}
	keys := make(map[int]bool)
	for _, one := range s.Order {
		switch {
		case one.File == nil:
			return fmt.Errorf("socket %d: no file", one.Number)
		case one.File.Key < 0 || one.File.Key >= s.Unix.Keys || keys[one.File.Key]:
			return fmt.Errorf("socket %d: file number %d of %d: not between, or twice", one.Number, one.File.Key, s.Unix.Keys)
		}
		keys[one.File.Key] = true
	}
	return nil
}

// Resume goes on with the sockets of a listener that Keep told of, here or in another
// process. The Listener has the descriptors from then on, those in f that have the prefix.
//
// Workers that hold the sockets notice nothing: no flag of theirs is touched,
// nothing queued is lost. The order of the group is proved anew, the table put in force
// again, and what is missing made: guards, watches, links. A slot whose own
// socket has not come back gets a fresh one, which a Finding says (Broken), for what
// was its worker's can be reached no more. So it goes on with any part of the sockets, and
// only where there is none of them it is an error.
//
// It changes the group, so the listener that Keep was called of must not be at
// work any more: see Check.
func Resume(s State, prefix string, f *keep.Files, log *slog.Logger) (Listener, error) {
	a, err := s.check()
	var l Listener
	if err == nil {
		if a.Network == "unix" {
			l, err = resumeUnix(s, a, prefix, f, log)
		} else {
			l, err = resumeInet(s, a, prefix, f, log)
		}
	}
	if err != nil {
		return nil, s.fail("resume", err)
	}
	return l, nil
}

// Check tells whether Resume would find all that the state names, and that it is what the
// state says. It changes nothing, not even f, so the listener may be at work
// meanwhile: a new program asks before it takes the place of the old one.
func Check(s State, prefix string, f *keep.Files) error {
	a, err := s.check()
	if err == nil && a.Network == "unix" {
		err = s.checkUnix()
	}
	if err != nil {
		return s.fail("check", err)
	}
	fds := make(map[string]int, f.Len())
	f.Each(func(name string, fd int) { fds[name] = fd })
	names := []string(nil)
	if a.Network == "unix" && s.Order[0].Foreign == nil {
		names = append(names, directoryName(prefix))
	}
	var errs []error
	for _, one := range s.Order {
		name := socketName(prefix, one.Number)
		names = append(names, name)
		if fd, ok := fds[name]; ok {
			if err := checkDescriptor(fd, one, s.endpoint(a)); err != nil {
				errs = append(errs, fmt.Errorf("descriptor %q: %w", name, err))
			}
		}
	}
	for _, name := range names {
		if _, ok := fds[name]; !ok {
			errs = append(errs, fmt.Errorf("descriptor %q: %w", name, keep.ErrMissing))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return s.fail("check", err)
	}
	return nil
}

func (s State) fail(doing string, err error) error {
	return fmt.Errorf("%s listener %q: %w", doing, s.Name, err)
}

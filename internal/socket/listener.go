// Package socket owns the listening sockets: it makes them, keeps one per slot,
// and steers new connections among the slots. It is the only package that
// makes socket system calls.
//
// The invariant: after Steer has returned, a new connection reaches a slot of
// the table given to it and no other, whatever the workers do to the sockets
// they hold; where that cannot be had the listener says so (Mode, Reason), and
// where it was lost and won back, a Finding says what it cost.
//
// The package knows slots by number and nothing of workers or generations. It
// never touches the data path, never accepts a connection it did not make
// itself, and never closes a slot while its Listener lives, because closing a
// slot resets what is queued on it.
package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"

	"baton/internal/keep"
)

// DefaultBacklog is the accept queue asked for when Options.Backlog is 0; the
// kernel cuts it to net.core.somaxconn.
const DefaultBacklog = 4096

// Options are what a configuration may say about a listener beyond its address.
type Options struct {
	Name    string      // what the worker and the log call it; "" is the address
	Backlog int         // length of each slot's accept queue; 0 is DefaultBacklog
	Mode    fs.FileMode // unix: permissions of the path; 0 is 0666 less the umask
	UID     int         // unix: owner of the path; -1 leaves it
	GID     int         // unix: group of the path; -1 leaves it
	Shared  bool        // no steering: all slots are one socket
	// NonBlocking hands the sockets over with O_NONBLOCK set. Without it they are
	// blocking, as systemd's are by default (systemd.socket(5)): a plain accept
	// loop breaks on EAGAIN, and a program with an event loop sets the flag itself.
	NonBlocking bool
	Log         *slog.Logger
}

// backlog is the length to ask listen(2) for.
func (o Options) backlog() int {
	if o.Backlog > 0 {
		return o.Backlog
	}
	return DefaultBacklog
}

// logger is the log, or one that discards when none was given.
func (o Options) logger() *slog.Logger {
	if o.Log != nil {
		return o.Log
	}
	return slog.New(slog.DiscardHandler)
}

// Mode tells how a listener's slots relate to each other.
type Mode string

const (
	Steered Mode = "steered" // a socket for each slot, or for those that were united; Steer chooses among them
	Shared  Mode = "shared"  // one socket for all slots; Steer changes nothing
)

// Share is one slot's part of the new connections: Weight out of the sum of
// all weights in the table. A weight is at least 1.
//
// In a table whose shares are all on one side, each connection is given to one of
// them by chance (for udp by its flow: the sender's address and port). In a table with
// two sides the client's address, and nothing else, decides for one of them, and
// chance or flow among the shares of that side. Side 1 has the part of the
// addresses that its weights are of all weights, and as that part grows from table
// to table it keeps those it had. The part is of the sums: if a slot leaves the
// table, the weights of the others must make up for it, or clients change sides.
//
// A unix socket's clients have no address: its shares take turns, whatever their
// sides (see Steer).
type Share struct {
	Slot   int `json:"slot"`
	Weight int `json:"weight"`
	Side   int `json:"side,omitempty"` // 0 or 1
}

// checkTable refuses what has no meaning.
func checkTable(table []Share, exists func(slot int) bool) error {
	if len(table) == 0 {
		return errors.New("no slot to steer to")
	}
	for _, s := range table {
		if !exists(s.Slot) {
			return fmt.Errorf("slot %d: %w", s.Slot, ErrNoSlot)
		}
		if s.Weight < 1 {
			return fmt.Errorf("slot %d: weight %d is less than 1", s.Slot, s.Weight)
		}
		if s.Side != 0 && s.Side != 1 {
			return fmt.Errorf("slot %d: side %d is neither 0 nor 1", s.Slot, s.Side)
		}
	}
	return nil
}

// Pending is what waits on a slot and no worker has taken yet, without what a
// Probe that was given up has left there.
type Pending struct {
	Queued int // connections in the accept queue; for udp, bytes unread (with the kernel's overhead)
}

// Handshake identifies one half-open connection by its two ends.
type Handshake struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}

// Handshakes is a set of half-open connections, as HalfOpen found them. Callers
// only count it and give it back to Remaining.
type Handshakes map[Handshake]struct{}

// MarshalJSON writes a list, for a state that waits for them to end.
func (h Handshakes) MarshalJSON() ([]byte, error) {
	list := make([]Handshake, 0, len(h))
	for one := range h {
		list = append(list, one)
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Handshakes) UnmarshalJSON(b []byte) error {
	var list []Handshake
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*h = make(Handshakes, len(list))
	for _, one := range list {
		(*h)[one] = struct{}{}
	}
	return nil
}

// FindingKind tells what a Listener found out about its sockets.
type FindingKind string

const (
	// Broken: the slot's socket no longer listens in the group (it was shut
	// down or disconnected). The slot already has a fresh socket; the worker
	// that holds the old one receives nothing any more and must be replaced.
	Broken FindingKind = "broken"
	// Stranger: a socket that is not ours listens on the port.
	Stranger FindingKind = "stranger"
	// StrangerGone: a socket reported as Stranger no longer does.
	StrangerGone FindingKind = "stranger-gone"
	// Reasserted: something a worker had undone (SO_REUSEPORT, the order of the
	// group) was put right; nothing need be replaced.
	Reasserted FindingKind = "reasserted"
	// Adjusted: a worker had chosen a backlog of its own, as every program does
	// that calls listen(2) on what it is handed, and it was set back.
	Adjusted FindingKind = "adjusted"
	// Unlinked: the path of a unix socket had gone and was put back.
	Unlinked FindingKind = "unlinked"
)

// Finding is one fact a Listener found out by itself.
type Finding struct {
	Listener string // name of the listener
	Kind     FindingKind
	Slot     int // the slot concerned, or -1
	Detail   string
}

// errShareNonBlocking is what Apply says of a change in shared mode.
var errShareNonBlocking = errors.New("nonblocking cannot be changed while all generations share the open socket")

// ErrNoProof is returned by Probe and Dial where the kernel gives no sign of acceptance.
var ErrNoProof = errors.New("no proof of acceptance for this kind of socket")

// ErrQueueFull is in the error of a Probe or Dial that ended with its context while
// the slot's accept queue was full, so that nobody could connect, instead of
// connecting and waiting in vain. Either way the worker does not accept.
var ErrQueueFull = errors.New("the accept queue is full")

// ErrNoSlot is returned for a slot that was not reserved.
var ErrNoSlot = errors.New("no such slot")

// ErrClosed is returned by every method after Close.
var ErrClosed = errors.New("listener closed")

// Listener is one configured address and all its slots. Slot 0 exists from the
// start and receives everything until the first Steer, so that connections
// which arrive before the first worker is ready wait in its queue. All methods
// are safe for concurrent use.
type Listener interface {
	// Name is Options.Name, or the address where that was empty.
	Name() string
	// Address is what is listened on, with the port filled in where 0 was asked.
	Address() Address
	// Mode tells whether Steer has any effect.
	Mode() Mode
	// Reason tells in a phrase why Mode is Shared; "" when steered.
	Reason() string
	// Apply takes over what a reload changed: backlog, mode, owner, and for the
	// next FD NonBlocking. In shared mode the flag is every worker's, and a
	// change of it is an error, after the rest was done.
	Apply(Options) error
	// Reserve makes slot exist, with its guard, and takes back a Refuse.
	Reserve(slot int) error
	// Unite gives the slots one socket, for workers that serve together: call it with
	// all slots of a generation before the first of its workers gets one, and again,
	// with all of them and one more, before a worker joins them. Each must be reserved
	// all the same. A unix socket's workers have to be united, since a name leads to one
	// file; others are when whoever is free is to take the next connection.
	//
	// They get the socket that one of them has, with its queue, unless slots that are
	// not named have it too or receive new connections by it; else a new one. So a slot
	// that is named alone gets one of its own. A slot that a worker of another
	// generation has is not to be named; that a slot receives new connections by another socket
	// than the one they get is an error, unless they are refused: then it is not
	// steered to any more. In the table the weights of united slots add up. For udp whoever
	// is free takes the next datagram, so a flow is not kept with one worker. In shared
	// mode nothing changes.
	//
	// What follows is as in shared mode, but among these slots alone: Pending, Refuse
	// and Broken concern the one socket, Probe and Dial count only what owner accepts,
	// and a worker that leaves while the others serve may accept until it is
	// signalled. To steer away from all of them is as exact as ever.
	Unite(slots ...int) error
	// Sharing are the slots that have the slot's socket, the slot itself among them:
	// every slot in shared mode, and when steered those that were united with it.
	// nil where there is no such slot.
	Sharing(slot int) []int
	// FD is the slot's descriptor, to be duplicated into a worker. It belongs to
	// the Listener (never close it), is close-on-exec, and its number stays the
	// same until the slot is named in Unite, also when the socket behind it
	// breaks and is replaced. When steered, each call makes O_NONBLOCK what
	// Options.NonBlocking says, whatever the slot's last worker left; in shared
	// mode the flag is the workers' own once the socket was made, and of united slots
	// once Unite has named them, until it names them again while none is steered to or
	// without one that joins them.
	// So ask for it only when a worker is started: one that still runs on the
	// slot finds the flag changed under it.
	FD(slot int) (int, error)
	// Number is FD without any change: for whoever only needs to know which descriptor it
	// is, or duplicates it into a worker that runs.
	Number(slot int) (int, error)
	// Inode is the socket's number as /proc/PID/fd and sock_diag show it. It
	// changes when a broken socket is replaced.
	Inode(slot int) (uint64, error)
	// Rest says that the launcher alone has the slot's socket, that nothing is queued or
	// half open on it, and that nobody is to reach it before Steer names it or something
	// probes it, which its next worker is there for. Until then it is deaf as a guard is. A
	// new slot begins so. It changes nothing for a slot that is steered to or united with
	// others, nor in shared mode, for a unix or udp socket, or for one that systemd has too.
	//
	// When a launcher is killed whose sockets nobody keeps, the group shrinks while its
	// program stays, and the kernel chooses by chance whenever that names an index which is
	// not there any more: connections that came to such a socket would be reset.
	Rest(slot int) error
	// Steer sends every connection that begins after it returns to the slots of
	// table (at least one), by their weights. The slots must be reserved. On a unix
	// socket, slots that are not united take turns of a fraction of a second, as long as
	// their weights say; no client has a side there.
	Steer(table []Share) error
	// Maintain compares the sockets with what they should be and puts right
	// what is not. It is cheap; call it each second, after a worker has become
	// ready, and when one exits. Steer does it by itself.
	Maintain() error
	// Findings delivers what was found out, by Maintain or by the watch. Facts
	// of the same kind and slot may be merged when nobody reads, but none is
	// lost. Closed by Close.
	Findings() <-chan Finding
	// Pending is what waits unaccepted on the slot.
	Pending(slot int) (Pending, error)
	// HalfOpen is the set of handshakes on the port that have begun and not
	// ended; each belongs to the slot chosen at its first packet. Empty for unix
	// and udp.
	HalfOpen() (Handshakes, error)
	// Remaining counts which of those are still half open.
	Remaining(Handshakes) (int, error)
	// Connections counts the accepted connections of the listener whose socket
	// inode owner claims. Always 0 for udp.
	Connections(owner func(inode uint64) bool) (int, error)
	// Probe returns nil once a connection of its own has been accepted on slot,
	// and ctx's error when none was in time. In shared mode the acceptance
	// counts only if owner claims the accepted socket's inode; of united slots too, where
	// owner may be nil: then it is enough that any of their workers accepts. Else when
	// steered owner is not asked. For udp it returns ErrNoProof.
	//
	// A probe that is given up can leave a connection in the slot's queue, which
	// Pending does not count; its client has closed, so that a worker which wakes up
	// later reads the end of it and nothing else. When steered, the next Probe waits for
	// that one to be accepted before it makes another, and so does Dial when there are
	// many: a worker that hangs may be asked for ever.
	Probe(ctx context.Context, slot int, owner func(inode uint64) bool) error
	// Dial returns a connection of the launcher's own that reaches exactly slot,
	// steered to or not, for a probe that talks; ctx bounds the dialling, not the
	// connection. When steered it does not wait for acceptance, and owner may be
	// nil. In shared mode, and to one of united slots, it connects until owner claims the
	// inode of the accepted socket, so each of the others may see connections that carry nothing; it
	// returns ErrNoProof without an owner, and where the worker accepts only what
	// has sent something (TCP_DEFER_ACCEPT). For udp it returns ErrNoProof.
	//
	// The connection has CloseWrite. Close returns at once and lets the worker
	// close first for a moment, so that it sees no reset; when the Listener
	// closes, its goodbyes are cut short.
	Dial(ctx context.Context, slot int, owner func(inode uint64) bool) (net.Conn, error)
	// Refuse makes the slots ignore new connections while what they have queued
	// can still be accepted: the last step before Close at a full stop. A client
	// ignored repeats its SYN, and is refused once the slot is closed. Reserve
	// takes it back. A call that refuses anything waits some 10 ms: name all slots in one.
	Refuse(slots ...int) error
	// Keep tells what Resume needs to go on with the same sockets in another process,
	// and puts their descriptors into f under names that begin with the prefix. A
	// socket has one name as long as it is there, and no other socket gets it. Nothing
	// is changed and no system call is made, so it may be called after every change.
	// What it returns is nothing to Resume once the Listener is closed.
	Keep(prefix string, f *keep.Files) State
	// Close closes every slot, closes Findings, and removes a unix socket's path.
	// Duplicates in workers' hands live on.
	Close() error
}

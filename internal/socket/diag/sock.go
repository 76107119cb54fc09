// Package diag asks the kernel's sock_diag (netlink(7), family
// NETLINK_SOCK_DIAG) which sockets exist: the connections of a port, the one
// connection with given addresses, the length of a Unix socket's queue.
//
// It keeps one invariant: an answer is what the kernel said at one time in
// the caller's network namespace, narrowed by the kernel to the port and the
// states asked for, and a socket appears in it once. Nothing is cached, so
// nothing is stale but by the time that has passed since.
//
// It never changes a socket, needs no privilege, and keeps no descriptor
// open between calls.
package diag

import "net/netip"

// The states of a TCP socket as the masks a query takes: 1 << TCP_*, from
// include/net/tcp_states.h. A UDP socket is StateEstablished once it is
// connected and StateClosed before. A Unix socket has StateEstablished,
// StateListen and StateClosed.
const (
	StateEstablished uint32 = 1 << (iota + 1)
	StateSynSent
	StateSynRecv
	StateFinWait1
	StateFinWait2
	StateTimeWait
	StateClosed
	StateCloseWait
	StateLastAck
	StateListen
	StateClosing
)

// StateAll is every state.
const StateAll = StateClosing<<1 - 2

// StateConnections are the states in which a socket is a connection that a
// process may hold: established, or with one of the two directions closed.
const StateConnections = StateEstablished | StateCloseWait |
	StateFinWait1 | StateFinWait2 | StateLastAck | StateClosing

// Sock is a TCP or UDP socket as the kernel described it (struct
// inet_diag_msg, include/uapi/linux/inet_diag.h).
type Sock struct {
	Family uint8 // AF_INET or AF_INET6: of the socket, not of its addresses
	State  uint8 // TCP_*, a number; see In for the masks

	// Local and Remote are without the v4-in-v6 prefix: a connection of an
	// IPv4 client to a dual-stack socket has Family AF_INET6 and IPv4
	// addresses. A link-local address carries its interface as a numeric zone.
	Local, Remote netip.AddrPort

	Inode  uint64 // of the socket file; 0 while, or since, no process holds it
	UID    uint32 // of whoever made the socket; of the listening one before accept
	RQueue uint32 // bytes to read; of a listening socket: connections to accept
	WQueue uint32 // bytes not acknowledged; of a listening socket: its backlog
	Cookie uint64 // never used twice since the machine was started

	// Sockopt is struct inet_diag_sockopt, bit by bit; zero for a socket that
	// is half open or in TIME_WAIT, of which the kernel tells none.
	Sockopt [2]byte
}

// In reports whether the socket is in one of the states of the mask.
func (s Sock) In(states uint32) bool { return states&(1<<s.State) != 0 }

// HalfOpen reports that the handshake is not complete: the SYN-ACK was sent
// and its ACK has not come.
func (s Sock) HalfOpen() bool { return s.In(StateSynRecv) }

// Unaccepted reports that the connection waits in a listening socket's queue:
// complete, and no process has accepted it. The client may have closed its
// side already. (A socket that a process closes leaves both of these states.)
func (s Sock) Unaccepted() bool {
	return s.Inode == 0 && s.In(StateEstablished|StateCloseWait)
}

// Orphaned reports that a process has accepted the connection and closed it,
// and the kernel alone is still saying goodbye.
func (s Sock) Orphaned() bool {
	return s.Inode == 0 &&
		s.In(StateFinWait1|StateFinWait2|StateTimeWait|StateLastAck|StateClosing)
}

// UnixSock is a Unix stream socket as the kernel described it (struct
// unix_diag_msg, include/uapi/linux/unix_diag.h).
type UnixSock struct {
	State  uint8  // TCP_ESTABLISHED, TCP_LISTEN or TCP_CLOSE, a number
	Inode  uint64 // of the socket file; 0 before accept
	Cookie uint64 // never used twice since the machine was started

	// Name is what the socket was bound under, with no NUL at its end; an
	// abstract name begins with one. An accepted socket has the name of the
	// listening one; renaming the file does not change it.
	Name string

	// File is the file the socket was bound to, zero for an abstract name.
	// An accepted socket has that of the listening one.
	File File

	Peer     uint64 // inode of the other end; 0 if that is unaccepted, closed or none
	RQueue   uint32 // bytes to read; of a listening socket: connections to accept
	WQueue   uint32 // bytes on their way; of a listening socket: its backlog
	Shutdown uint8  // 1: nothing more to read, 2: nothing more to write; 3 once the other end is closed
}

// File names a file of the file system as sock_diag does, by the low 32 bits
// of its inode number and the kernel's own encoding of its device
// (major<<20 | minor). FileOf makes one of stat(2)'s answer.
type File struct{ Device, Inode uint32 }

// In reports whether the socket is in one of the states of the mask.
func (s UnixSock) In(states uint32) bool { return states&(1<<s.State) != 0 }

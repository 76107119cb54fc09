package diag

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Sizes, attributes and flags in include/uapi/linux/unix_diag.h.
const (
	sizeofUnixRequest = 24 // struct unix_diag_req
	sizeofUnixMessage = 16 // struct unix_diag_msg

	attributeName     = 0
	attributeVFS      = 1
	attributePeer     = 2
	attributeQueue    = 4
	attributeShutdown = 6

	showName  = 1 << 0
	showVFS   = 1 << 1
	showPeer  = 1 << 2
	showQueue = 1 << 4
)

// FileOf makes a File of stat(2)'s answer. (The kernel encodes a device in
// sock_diag with 20 bits for the minor number, in stat(2) otherwise.)
func FileOf(st *unix.Stat_t) File {
	device := uint64(st.Dev) //nolint:unconvert // narrower on some architectures
	return File{Device: unix.Major(device)<<20 | unix.Minor(device), Inode: uint32(st.Ino)}
}

// UnixListening returns the listening Unix socket with that inode (fstat(2) of
// its descriptor tells it); false if it does not exist or does not listen.
// RQueue is how many connections wait in its queue, WQueue its backlog.
func UnixListening(inode uint64) (UnixSock, bool, error) {
	s, found, err := getUnix(inode, showName|showVFS|showQueue)
	return s, found && s.In(StateListen), err
}

// UnixListeners returns the listening Unix sockets bound to a file, whatever
// it is called now; in the caller's network namespace.
func UnixListeners(file File) ([]UnixSock, error) {
	return dumpUnix(StateListen, showName|showVFS|showQueue,
		func(s UnixSock) bool { return s.File == file })
}

// UnixPeer returns the connected socket with that inode, false if it does not
// exist, and in its Peer the inode of the other end: that is 0 until the
// server has accepted the connection, and again once the server has closed
// it, when Shutdown is 3.
func UnixPeer(inode uint64) (UnixSock, bool, error) {
	return getUnix(inode, showPeer|showQueue)
}

// UnixConnections counts the accepted connections whose bound name passes
// named and whose inode owner claims. The accepted end has the name of the
// listening socket it came from; the client's end usually has none. (What is
// not accepted the kernel leaves out of a dump: sk_diag_dump in
// net/unix/diag.c.)
func UnixConnections(named func(name string) bool, owner func(inode uint64) bool) (int, error) {
	socks, err := dumpUnix(StateEstablished, showName, func(s UnixSock) bool {
		return s.Name != "" && named(s.Name) && owner(s.Inode)
	})
	return len(socks), err
}

func getUnix(inode uint64, show uint32) (UnixSock, bool, error) {
	if inode == 0 || inode > uint64(^uint32(0)) {
		return UnixSock{}, false, fmt.Errorf("sock_diag unix: no inode %d", inode)
	}
	q, err := open()
	if err != nil {
		return UnixSock{}, false, err
	}
	defer q.close()
	messages, err := q.ask(unixRequest(StateAll, uint32(inode), show), 0)
	if errors.Is(err, unix.ENOENT) {
		return UnixSock{}, false, nil
	}
	if err != nil {
		return UnixSock{}, false, fmt.Errorf("sock_diag unix inode %d: %w", inode, err)
	}
	for _, m := range messages {
		if s, ok := parseUnix(m.Data); ok {
			return s, true, nil
		}
	}
	return UnixSock{}, false, nil
}

// dumpUnix asks for all sockets in the states and keeps those wanted. The
// kernel cannot choose by name or file, so that is done here.
func dumpUnix(states, show uint32, wanted func(UnixSock) bool) ([]UnixSock, error) {
	q, err := open()
	if err != nil {
		return nil, err
	}
	defer q.close()
	messages, err := q.dump(unixRequest(states, 0, show))
	if err != nil {
		return nil, fmt.Errorf("sock_diag unix: %w", err)
	}
	var socks []UnixSock
	seen := make(map[uint64]bool)
	for _, m := range messages {
		s, ok := parseUnix(m.Data)
		if !ok || seen[s.Cookie] || !wanted(s) {
			continue
		}
		seen[s.Cookie] = true
		socks = append(socks, s)
	}
	return socks, nil
}

func unixRequest(states, inode, show uint32) []byte {
	b := make([]byte, sizeofUnixRequest)
	b[0] = unix.AF_UNIX
	native.PutUint32(b[4:], states)
	native.PutUint32(b[8:], inode)
	native.PutUint32(b[12:], show)
	native.PutUint32(b[16:], ^uint32(0)) // INET_DIAG_NOCOOKIE
	native.PutUint32(b[20:], ^uint32(0))
	return b
}

// parseUnix reads struct unix_diag_msg; false if b is too short for one.
func parseUnix(b []byte) (UnixSock, bool) {
	if len(b) < sizeofUnixMessage {
		return UnixSock{}, false
	}
	s := UnixSock{
		State:  b[2],
		Inode:  uint64(native.Uint32(b[4:])),
		Cookie: uint64(native.Uint32(b[8:])) | uint64(native.Uint32(b[12:]))<<32,
	}
	attributes(b[sizeofUnixMessage:], func(kind uint16, value []byte) {
		switch {
		case kind == attributeName:
			s.Name = unixName(value)
		case kind == attributeVFS && len(value) >= 8:
			s.File = File{Inode: native.Uint32(value), Device: native.Uint32(value[4:])}
		case kind == attributePeer && len(value) >= 4:
			s.Peer = uint64(native.Uint32(value))
		case kind == attributeQueue && len(value) >= 8:
			s.RQueue, s.WQueue = native.Uint32(value), native.Uint32(value[4:])
		case kind == attributeShutdown && len(value) >= 1:
			s.Shutdown = value[0]
		}
	})
	return s, true
}

// unixName cuts the NUL that ends a path; in an abstract name, which begins
// with one, every byte counts.
func unixName(value []byte) string {
	if len(value) > 0 && value[0] != 0 {
		value, _, _ = bytes.Cut(value, []byte{0})
	}
	return string(value)
}

package protocol

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxDatagram is systemd's own bound (NOTIFY_BUFFER_MAX, PIPE_BUF).
	maxDatagram = 4096
	// maxFDs is what the kernel passes at most in one message (SCM_MAX_FD, unix(7)).
	maxFDs = 253
	// maxSenders bounds the memory of strangers that were told of.
	maxSenders = 256
)

// Notify is a NOTIFY_SOCKET private to one worker.
//
// Its name is abstract (unix(7)), with 128 random bits: it needs no directory that
// a chroot or another uid might not reach, leaves nothing on disk, and cannot be
// taken beforehand. It is no secret (/proc/net/unix lists it), so what proves a
// message is its sender: the kernel's own word for the sender's pid (SO_PASSCRED),
// which must be one of the worker's processes. A process in another network
// namespace cannot reach it. A sender that has exited, and been reaped, by the time
// its message is read is not recognised; systemd has the same limit, and
// systemd-notify(1) waits for its BARRIER=1 for that reason.
//
// Descriptors that come along are closed at once: for a barrier that is the answer,
// and baton keeps no store of descriptors.
type Notify struct {
	conn   *net.UnixConn
	env    string
	member func(pid int) bool
	on     func(Message)
	log    *slog.Logger
	gate   gate

	// Of the reading goroutine alone:
	strangers map[int]bool // whose first message was told of, or is counted in missed
	missed    int          // senders since the last line about strangers
	lastLine  time.Time
	toldStore bool
}

// OpenNotify makes the socket and begins to read. member says whether a pid is a
// process of the worker now. on is called for each message that says something,
// one at a time, in the order they were sent; what was sent before a barrier has
// been told before the barrier is answered. The goroutine ends at Close.
func OpenNotify(member func(pid int) bool, on func(Message), log *slog.Logger) (*Notify, error) {
	var random [16]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	name := "@baton/notify/" + hex.EncodeToString(random[:])
	// net knows a leading '@' as the abstract namespace.
	conn, err := listenNotify(name)
	if err != nil {
		return nil, err
	}
	n := newNotify(conn, name, member, on, log)
	go n.read()
	return n, nil
}

func newNotify(conn *net.UnixConn, name string, member func(pid int) bool, on func(Message), log *slog.Logger) *Notify {
	return &Notify{
		conn: conn, env: "NOTIFY_SOCKET=" + name, member: member, on: on, log: log, gate: newGate(),
		strangers: make(map[int]bool),
	}
}

func listenNotify(name string) (*net.UnixConn, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	if err := passCredentials(conn); err != nil {
		conn.Close() // nobody knows it yet
		return nil, fmt.Errorf("notify socket: SO_PASSCRED: %w", err)
	}
	return conn, nil
}

func passCredentials(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	})
	return errors.Join(err, failed)
}

// Env is the variable for the worker: "NOTIFY_SOCKET=@...".
func (n *Notify) Env() string { return n.env }

// Close ends the reading; senders are refused from now on. It does not wait for a
// message that is being told at this moment, so it may be called from on itself.
// Closing again does nothing.
func (n *Notify) Close() error {
	n.gate.end()
	if err := n.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (n *Notify) read() {
	data := make([]byte, maxDatagram)
	// Control messages that do not fit are cut off by the kernel, and their
	// descriptors are closed by it.
	control := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxFDs))
	for n.gate.enter() {
		more := n.piece(data, control)
		n.gate.leave()
		if !more {
			return
		}
	}
}

// piece reads one datagram; false: there will be no other.
func (n *Notify) piece(data, control []byte) bool {
	size, oob, flags, _, err := n.conn.ReadMsgUnix(data, control)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true // stop
	case errors.Is(err, net.ErrClosed):
		return false
	case err != nil:
		// Nothing that a sender can bring about; were it to stay, this would spin.
		n.log.Error("notify socket unusable", "error", err)
		n.conn.Close() // so that senders notice; it reads nothing any more
		return false
	}
	n.take(data[:size], control[:oob], flags)
	return true
}

// take tells one datagram, and closes the descriptors that came with it last.
func (n *Notify) take(data, control []byte, flags int) {
	pid, fds := ancillary(control)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd) // what it belongs to is the sender's business
		}
	}()
	if pid <= 0 || !n.member(pid) {
		n.stranger(pid)
		return
	}
	if flags&unix.MSG_TRUNC != 0 {
		n.log.Warn("notify message ignored: too long", "pid", pid, "limit", maxDatagram)
		return
	}
	m, fdstore := parse(string(data))
	if fdstore && !n.toldStore {
		n.toldStore = true
		n.log.Warn("notify message FDSTORE=1 not honoured: the descriptors were closed", "pid", pid, "count", len(fds))
	}
	if m.PID = pid; m.said() {
		n.on(m)
	}
}

// stranger tells of each sender once, and of all together at most once a second:
// whoever it is must not be able to fill the log.
func (n *Notify) stranger(pid int) {
	if n.strangers[pid] {
		return
	}
	if len(n.strangers) == maxSenders {
		clear(n.strangers)
	}
	n.strangers[pid] = true
	if !n.lastLine.IsZero() && time.Since(n.lastLine) < quiet {
		n.missed++
		return
	}
	n.log.Warn("notify message ignored: its sender is not of this worker", "pid", pid, "others", n.missed)
	n.lastLine, n.missed = time.Now(), 0
}

// ancillary reads the sender's pid (0: not told) and all descriptors.
func ancillary(control []byte) (pid int, fds []int) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, nil // the kernel writes it: it is whole
	}
	for i := range messages {
		switch messages[i].Header.Type {
		case unix.SCM_RIGHTS:
			if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
				fds = append(fds, got...)
			}
		case unix.SCM_CREDENTIALS:
			if c, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
				pid = int(c.Pid)
			}
		}
	}
	return pid, fds
}

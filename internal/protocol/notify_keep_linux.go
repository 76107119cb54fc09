package protocol

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

func (n *Notify) keep(prefix string, f *keep.Files) ChannelState {
	state := &NotifyState{Name: strings.TrimPrefix(n.env, "NOTIFY_SOCKET=")}
	state.Closed = !number(n.conn, func(fd int) { f.Put(prefix+".socket", fd) })
	whole := n.gate.still()
	if whole {
		state.ToldStore = n.toldStore
	}
	return ChannelState{Whole: whole, Notify: state}
}

func (n *Notify) stop(late <-chan time.Time) bool {
	_ = n.conn.SetReadDeadline(past) // closed: nobody reads
	return n.gate.hold(late)
}

func (n *Notify) goOn() {
	_ = n.conn.SetReadDeadline(time.Time{}) // likewise
	n.gate.free()
}

// resumeNotify takes the socket with all that lies in it. Where it was not kept one of
// the same name is made, which nobody else can have meanwhile but on purpose: what
// lay in the other is lost, and the error says so.
func resumeNotify(s NotifyState, prefix string, f *keep.Files, member func(pid int) bool, on func(Message), log *slog.Logger) (*Notify, error) {
	name := "@baton/notify/"
	if !strings.HasPrefix(s.Name, name) || len(s.Name) > 100 || strings.ContainsRune(s.Name, 0) {
		return nil, fmt.Errorf("notify socket: its name %q is none of ours", s.Name)
	}
	conn, err := takeConn(prefix+".socket", unix.SOCK_DGRAM, f)
	if err == nil {
		if err = isNotify(conn, s.Name); err != nil {
			conn.Close()
			return nil, fmt.Errorf("notify socket: %w", err)
		}
	}
	if errors.Is(err, keep.ErrMissing) {
		var lerr error
		if conn, lerr = listenNotify(s.Name); lerr != nil {
			// Not to be taken for a channel that lacks something: there is none.
			return nil, fmt.Errorf("notify socket: it was not kept, and another cannot be made: %w", lerr)
		}
	}
	if conn == nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	n := newNotify(conn, s.Name, member, on, log)
	n.toldStore = s.ToldStore
	if s.Closed && err != nil {
		err = nil // it was not missed
	}
	go n.read()
	return n, err
}

// isNotify says whether a socket is the one of that name, and tells its senders.
func isNotify(conn *net.UnixConn, name string) error {
	if at := conn.LocalAddr().String(); at != name {
		return fmt.Errorf("it is called %q, and not %q", at, name)
	}
	return passCredentials(conn)
}

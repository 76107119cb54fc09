package protocol

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// EinhornState is a worker's socket; it is kept as the channel's ".socket", and what is
// connected to it as ".0" and so on.
type EinhornState struct {
	Path  string      `json:"path,omitempty"` // "": there is none
	Talks []TalkState `json:"talks,omitempty"`
}

// TalkState is a connection whose line has not come to its end.
type TalkState struct {
	PID  int    `json:"pid"`
	Read []byte `json:"read,omitempty"`
}

// keep has no connection unless all stands still: they last for as long as it takes to
// write a line.
func (e *einhorn) keep(prefix string, f *keep.Files) ChannelState {
	state := &EinhornState{}
	e.mu.Lock()
	defer e.mu.Unlock()
	whole := e.listener == nil || e.gate.still()
	if e.listener != nil {
		state.Path = e.listener.path
		number(e.listener, func(fd int) { f.Put(prefix+".socket", fd) })
	}
	for t := range e.talks {
		if !t.gate.still() {
			whole = false
			continue
		}
		if t.over {
			continue
		}
		n := prefix + "." + strconv.Itoa(len(state.Talks))
		if number(t.conn, func(fd int) { f.Put(n, fd) }) {
			state.Talks = append(state.Talks, TalkState{t.pid, slices.Clone(t.read)})
		}
	}
	return ChannelState{Words: e.story.told(), Whole: whole, Einhorn: state}
}

func (e *einhorn) stop(late <-chan time.Time) bool {
	if e.listener == nil {
		return true
	}
	e.mu.Lock()
	e.halted = true
	_ = e.listener.SetDeadline(past) // closed: nobody accepts
	e.mu.Unlock()
	still := e.gate.hold(late) // now nobody else comes
	e.mu.Lock()
	talks := e.speaking()
	for _, t := range talks {
		t.deadline(true)
	}
	e.mu.Unlock() // one that ends needs it
	for _, t := range talks {
		still = t.gate.hold(late) && still
	}
	return still
}

// speaking are the connections now. Call it with mu held.
func (e *einhorn) speaking() (talks []*talk) {
	for t := range e.talks {
		talks = append(talks, t)
	}
	return talks
}

func (e *einhorn) goOn() {
	if e.listener == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.halted = false
	_ = e.listener.SetDeadline(time.Time{}) // likewise
	for t := range e.talks {
		t.until = time.Now().Add(einhornPatience)
		t.deadline(false)
		t.gate.free()
	}
	e.gate.free()
}

func (e *einhorn) drop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.hush()
	if e.listener != nil {
		_ = e.listener.Close() // its file stays
	}
}

func resumeEinhorn(h *Hub, c *Choice, w *Worker, s ChannelState, prefix string, f *keep.Files) (channel, error) {
	state := s.Einhorn
	if state == nil {
		state = &EinhornState{}
	}
	e := &einhorn{
		worker: w, configured: slices.Contains(c.Settings.Kinds, KindEinhorn),
		done: make(chan struct{}), gate: newGate(), talks: make(map[*talk]bool),
	}
	e.story.tell(s.Words)
	if state.Path == "" {
		return e, nil
	}
	var err error
	if e.listener, err = h.einhorn.take(state.Path, prefix+".socket", f); err != nil {
		return e, err
	}
	e.resume(state.Talks, prefix, f)
	go e.accept() // ends as in openEinhorn
	return e, nil
}

// resume goes on with the connections; one that was lost has a client that is told so by
// the kernel.
func (e *einhorn) resume(talks []TalkState, prefix string, f *keep.Files) {
	for i, s := range talks {
		conn, err := takeConn(prefix+"."+strconv.Itoa(i), unix.SOCK_STREAM, f)
		if err != nil {
			e.worker.Log.Warn("einhorn's socket: a connection was lost with the former launcher", "pid", s.PID, "error", err)
			continue
		}
		t := &talk{conn: conn, pid: s.PID, until: time.Now().Add(einhornPatience), gate: newGate(), read: s.Read}
		if !e.begin(t) {
			conn.Close()
		}
	}
}

// take takes a worker's socket. The file of its name is removed with it if it lies in one
// of the hub's directories still.
func (h *einhornHub) take(path, name string, f *keep.Files) (*einhornSocket, error) {
	end, err := takeSocket(name, unix.SOCK_STREAM, 1, f)
	if err != nil {
		return nil, err
	}
	defer end.Close() // FileListener has its own duplicate
	l, err := net.FileListener(end)
	if err != nil {
		return nil, fmt.Errorf("descriptor %q: %w", name, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("descriptor %q: it is no unix socket", name), l.Close())
	}
	u.SetUnlinkOnClose(false)
	remove := func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d := h.dirs.find(filepath.Dir(path)); d != nil {
			return d.remove(filepath.Base(path))
		}
		return nil
	}
	return &einhornSocket{u, path, remove}, nil
}

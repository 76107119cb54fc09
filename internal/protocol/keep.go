package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// What outlives a launcher: a state for each thing, and its descriptors by name.
//
// A state that was taken while the link was paused is whole: nothing is read or written
// between it and its successor. Any other is as old as the last time that it was taken,
// and what was under way since then is lost: half a message, an answer in a queue.

// HubState is what a launcher has to know of a Hub.
type HubState struct {
	Einhorn     DirsState                  `json:"einhorn,omitzero"`
	EinhornNext int                        `json:"einhorn_next,omitempty"`
	EinhornTold bool                       `json:"einhorn_told,omitempty"`
	Preload     DirsState                  `json:"preload,omitzero"`
	NodeID      int                        `json:"node_id,omitempty"` // the last one that was given
	NodeData    map[string]json.RawMessage `json:"node_data,omitempty"`
	NodeTold    []string                   `json:"node_told,omitempty"` // what was logged once
}

// LinkState is what a launcher has to know of a Link whose worker runs.
type LinkState struct {
	Channels []ChannelState `json:"channels,omitempty"`
}

// ChannelState is one protocol's part in a Link; the one of its kind is set, if that has
// anything to keep.
type ChannelState struct {
	Kind  Kind   `json:"kind"`
	Words string `json:"words,omitempty"` // for the hint
	// Whole: taken while the link was paused.
	Whole bool `json:"whole,omitempty"`

	Notify    *NotifyState    `json:"notify,omitempty"`
	Tableflip *TableflipState `json:"tableflip,omitempty"`
	Einhorn   *EinhornState   `json:"einhorn,omitempty"`
	S6        *S6State        `json:"s6,omitempty"`
	Node      *NodeState      `json:"node,omitempty"`
}

// keeper is what a channel can do besides its work. The two halves of a pause come from
// one goroutine, and stop and goOn always together.
type keeper interface {
	// keep puts its descriptors into f, and may be called at any time.
	keep(prefix string, f *keep.Files) ChannelState
	// stop has the channel read and write no more, and reports whether it stands still
	// when late comes at the latest.
	stop(late <-chan time.Time) bool
	goOn()
	// drop ends its goroutines and closes what it has open here, and nothing else: the
	// worker does not notice if somebody has a duplicate. It is for tests.
	drop()
}

// Keep says what Hub.Resume needs. The descriptors stay the Link's.
func (l *Link) Keep(prefix string, f *keep.Files) LinkState {
	var s LinkState
	for i, c := range l.channels {
		state := c.keep(prefix+"."+string(l.kinds[i]), f)
		state.Kind = l.kinds[i]
		s.Channels = append(s.Channels, state)
	}
	return s
}

// pauseLimit bounds Pause.
const pauseLimit = time.Second

// Pause has the link stand still: what was read has been told, nothing more is read or
// written, and Keep has what could not be written yet. The error says what did not come
// to stand within pauseLimit. Unpause, which must follow also then, lets it go on.
//
// It waits for messages that are being told, so whoever takes them must go on until then.
func (l *Link) Pause() error {
	late := make(chan time.Time)
	timer := time.AfterFunc(pauseLimit, func() { close(late) })
	defer timer.Stop()
	var errs []error
	for i, c := range l.channels {
		if !c.stop(late) {
			errs = append(errs, fmt.Errorf("%s's channel does not stand still", l.kinds[i]))
		}
	}
	return errors.Join(errs...)
}

// Unpause ends Pause.
func (l *Link) Unpause() {
	for _, c := range l.channels {
		c.goOn()
	}
}

// Keep says what ResumeHub needs. The descriptors stay the Hub's.
func (h *Hub) Keep(prefix string, f *keep.Files) HubState {
	var s HubState
	h.einhorn.keep(prefix+".einhorn", f, &s)
	h.node.keep(prefix+".node", f, &s)
	return s
}

// ResumeHub makes a Hub again.
func ResumeHub(o HubOptions, s HubState, prefix string, f *keep.Files) (*Hub, error) {
	h := NewHub(o)
	if err := errors.Join(h.einhorn.resume(s, prefix+".einhorn", f), h.node.resume(s, prefix+".node", f)); err != nil {
		h.drop()
		return nil, err
	}
	return h, nil
}

// Resume makes the link of a worker that runs again. With an error in which
// keep.ErrMissing is, there is a Link nonetheless: it is the worker's as far as its
// descriptors were kept, and the error says which were not.
//
// Listen of HubOptions is called for each address that the worker has from there.
func (h *Hub) Resume(c *Choice, w *Worker, s LinkState, prefix string, f *keep.Files) (*Link, error) {
	w = w.inTurn()
	l := &Link{}
	var missing []error
	for _, state := range s.Channels {
		take, ok := resumers[state.Kind]
		if !ok {
			l.drop()
			return nil, unknown(state.Kind)
		}
		ch, err := take(h, c, w, state, prefix+"."+string(state.Kind), f)
		if err != nil {
			err = fmt.Errorf("%s's channel: %w", state.Kind, err)
		}
		if err != nil && !errors.Is(err, keep.ErrMissing) {
			l.drop()
			return nil, err
		}
		if err != nil {
			missing = append(missing, err)
		}
		l.channels, l.kinds = append(l.channels, ch), append(l.kinds, state.Kind)
	}
	return l, errors.Join(missing...)
}

func (l *Link) drop() {
	for _, c := range l.channels {
		c.drop()
	}
}

func (h *Hub) drop() {
	h.einhorn.dirs.drop()
	h.node.preload.dirs.drop()
}

// resumer makes a protocol's part for a worker that runs. With keep.ErrMissing there is a
// channel nonetheless.
type resumer func(h *Hub, c *Choice, w *Worker, s ChannelState, prefix string, f *keep.Files) (channel, error)

// resumers are all protocols there are.
var resumers = map[Kind]resumer{
	KindTableflip:     resumeTableflip,
	KindSystemd:       resumeSystemd,
	KindServerStarter: resumeVariables,
	KindEinhorn:       resumeEinhorn,
	KindSocketmaster:  resumeVariables,
	KindEndless:       resumeVariables,
	KindNode:          resumeNode,
	KindS6:            resumeS6,
}

// gate lets one goroutine work at a time, piece by piece, so that it can be stopped
// between two of them. Make it with newGate.
type gate struct {
	turn chan struct{} // has something in it while somebody works, or all stands still
	shut chan struct{} // closed when the channel is
	held chan struct{} // has something in it while all stands still
	once *sync.Once    // closes shut
}

func newGate() gate {
	return gate{make(chan struct{}, 1), make(chan struct{}), make(chan struct{}, 1), new(sync.Once)}
}

// end has nobody enter any more.
func (g gate) end() { g.once.Do(func() { close(g.shut) }) }

// enter begins a piece of work; false: there is no more to do.
func (g gate) enter() bool {
	select {
	case <-g.shut:
		return false
	default:
	}
	select {
	case g.turn <- struct{}{}:
		return true
	case <-g.shut:
		return false
	}
}

// leave ends it.
func (g gate) leave() { <-g.turn }

// hold waits until nobody works, and lets nobody begin.
func (g gate) hold(late <-chan time.Time) bool {
	if len(g.held) > 0 {
		return true
	}
	select {
	case g.turn <- struct{}{}:
		g.held <- struct{}{}
		return true
	case <-late:
		return false
	}
}

// free ends hold.
func (g gate) free() {
	select {
	case <-g.held:
		<-g.turn
	default: // it never held
	}
}

func (g gate) still() bool { return len(g.held) > 0 }

// past is a deadline that ends whatever waits.
var past = time.Unix(1, 0)

// number calls f with a descriptor, unless it is closed.
func number(c syscall.Conn, f func(fd int)) (open bool) {
	raw, err := c.SyscallConn()
	return err == nil && raw.Control(func(fd uintptr) { f(int(fd)) }) == nil
}

// takePipe takes an end of a pipe, in a way that waits without a thread.
func takePipe(name string, mode int, f *keep.Files) (*os.File, error) {
	fd, err := f.Take(name)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err = errors.Join(err, unix.Fstat(fd, &st)); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFIFO || flags&unix.O_ACCMODE != mode) {
		err = errors.New("it is not that end of a pipe")
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd) // nothing was written by it
		return nil, fmt.Errorf("descriptor %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// takeSocket takes a socket, and says whether it is of that type and listens.
func takeSocket(name string, kind, listens int, f *keep.Files) (*os.File, error) {
	fd, err := f.Take(name)
	if err != nil {
		return nil, err
	}
	for _, is := range []struct{ option, want int }{{unix.SO_TYPE, kind}, {unix.SO_ACCEPTCONN, listens}} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, is.option)
		if err == nil && got != is.want {
			err = errors.New("it is another kind of socket")
		}
		if err != nil {
			unix.Close(fd) // nothing is buffered in it
			return nil, fmt.Errorf("descriptor %q: %w", name, err)
		}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// takeConn takes a unix socket of that type.
func takeConn(name string, kind int, f *keep.Files) (*net.UnixConn, error) {
	end, err := takeSocket(name, kind, 0, f)
	if err != nil {
		return nil, err
	}
	defer end.Close() // FileConn has its own duplicate
	c, err := net.FileConn(end)
	if err != nil {
		return nil, fmt.Errorf("descriptor %q: %w", name, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("descriptor %q: it is no unix socket", name)
	}
	return u, nil
}

// resumeVariables has nothing to resume.
func resumeVariables(*Hub, *Choice, *Worker, ChannelState, string, *keep.Files) (channel, error) {
	return variables(func(int) []string { return nil }), nil
}

func (variables) keep(string, *keep.Files) ChannelState { return ChannelState{Whole: true} }
func (variables) stop(<-chan time.Time) bool            { return true }
func (variables) goOn()                                 {}
func (variables) drop()                                 {}

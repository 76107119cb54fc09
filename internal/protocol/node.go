package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// KindNode is what node speaks with the process that started it: the channel of
// its child_process module, and on it the part of the primary of its cluster
// module. A worker's listen() asks the launcher, and gets its slot.
const KindNode Kind = "node"

const (
	// maxNodeQueue bounds what waits to be written to a worker, in messages of each
	// kind; and the sockets that it may have at a time.
	maxNodeQueue = 256
	// nodePatience is how long a worker that does not read may hold up a write. The
	// kernel holds about 200 KiB for it before that begins.
	nodePatience = 3 * time.Second
	// nodeTries is how often a descriptor that did not arrive is sent, as node does.
	nodeTries = 3
)

// node is one worker's channel. It ends when the worker's end does: node closes
// that when it has been asked to disconnect and has nothing left to serve.
type node struct {
	hub      *Hub
	settings Settings
	id       int
	index    int
	conn     *net.UnixConn
	child    int      // the worker's end; -1 once it has it
	options  []string // NODE_OPTIONS, or nothing
	on       func(Message)
	changed  func() // never nil
	log      *slog.Logger

	work    chan struct{} // has something in it once there is more to write
	room    chan struct{} // likewise once there is room for it
	heard   chan int      // the preload's answers: listeners for 'message'
	shut    chan struct{} // has something in it once a socket was closed by the worker
	gone    chan struct{} // closed when the channel has ended
	drained chan struct{} // closed when there is nothing left to wait for

	reading, writing gate

	// Of the reading goroutine:
	complaints throttle
	lines      nodeLines
	unsure     bool // what comes first may be the end of a message

	mu       sync.Mutex
	out      nodeOut
	seq      int64
	sockets  []nodeSocket
	first    int // number of the first of them in the worker
	lent     map[string]lease
	leases   int
	ended    bool
	closed   bool
	halted   bool // stop was called
	draining bool
	again    bool // drain may be called once more: the link was resumed
	phase    nodePhase
	shutSeen bool // a socket was closed since shut was last emptied
	story    nodeStory
	once     sync.Once // closes drained
}

// lease is a socket that the worker listens on.
type lease struct {
	socket           int    // in sockets; -1: not one of them
	release          func() // never nil
	network, address string // of one that is not: what HubOptions.Listen was asked for
	fd               int    // and what it answered; the launcher's
}

// openNode makes the channel for one worker, and begins to read and to write. Both
// goroutines end with the channel, or at close.
func openNode(h *Hub, c *Choice, w *Worker) (channel, error) {
	conn, child, err := nodeChannel()
	if err != nil {
		return nil, fmt.Errorf("node channel: %w", err)
	}
	n := newNode(h, c, w)
	n.conn, n.child = conn, child
	n.id = h.node.nextID()
	if n.sockets, err = hold(w.Sockets); err != nil {
		conn.Close()
		unix.Close(child) // nobody has seen it yet
		return nil, fmt.Errorf("node channel: %w", err)
	}
	if c.Settings.NodePreload {
		n.options = h.node.nodeOptions(w.Base, w.Log)
	}
	go n.read()
	go n.write()
	return n, nil
}

func newNode(h *Hub, c *Choice, w *Worker) *node {
	changed := w.Changed
	if changed == nil {
		changed = func() {}
	}
	return &node{
		changed: changed,
		hub:     h, settings: c.Settings, index: w.Index, child: -1, on: w.On, log: w.Log,
		work: make(chan struct{}, 1), room: make(chan struct{}, 1),
		heard: make(chan int, 1), shut: make(chan struct{}, 1),
		gone: make(chan struct{}), drained: make(chan struct{}),
		reading: newGate(), writing: newGate(),
		lent: make(map[string]lease),
	}
}

// hold duplicates the sockets: the numbers in Worker are the listeners', who may
// close and reuse them while this channel still hands them out.
func hold(sockets []Socket) (kept []nodeSocket, err error) {
	defer func() {
		if err != nil {
			letGo(kept)
		}
	}()
	for _, s := range sockets {
		k := nodeSocket{Socket: s, own: -1}
		if s.FD >= 0 {
			if k.own, err = duplicate(s.FD); err != nil {
				return kept, fmt.Errorf("duplicate %s: %w", s.Address, err)
			}
			k.look()
		}
		kept = append(kept, k)
	}
	return kept, nil
}

func letGo(sockets []nodeSocket) {
	for i := range sockets {
		if sockets[i].own >= 0 {
			unix.Close(sockets[i].own) // a duplicate: the socket itself stays as it is
		}
	}
}

func duplicate(fd int) (int, error) {
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

func (n *node) files() []int { return []int{n.child} }

func (n *node) env(sockets, files int) []string {
	n.mu.Lock()
	n.first = sockets
	n.mu.Unlock()
	return append([]string{
		"NODE_CHANNEL_FD=" + strconv.Itoa(files),
		"NODE_CHANNEL_SERIALIZATION_MODE=json",
		"NODE_UNIQUE_ID=" + strconv.Itoa(n.id),
		"NODE_APP_INSTANCE=" + strconv.Itoa(n.index),
	}, n.options...)
}

// started closes the worker's end, so that the worker's exit is seen as the end of
// the channel.
func (n *node) started() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child >= 0 {
		unix.Close(n.child) // the worker has its own
		n.child = -1
	}
}

// close ends the channel; node ends itself when that happens, unless it was asked
// to disconnect. It may be called from on.
func (n *node) close() error {
	n.started()
	err := n.hangUp()
	n.end()
	n.reading.end()
	n.writing.end()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.closed = true
		letGo(n.sockets)
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// hangUp closes our end; there is none where it was lost with a former launcher.
func (n *node) hangUp() error {
	if n.conn == nil {
		return nil
	}
	return n.conn.Close()
}

// read hears the worker until the channel ends.
func (n *node) read() {
	data := make([]byte, 16<<10)
	control := make([]byte, unix.CmsgSpace(4*maxNodeFDs))
	for n.reading.enter() {
		more := n.piece(data, control)
		if !more {
			n.conn.Close() // nothing is buffered in it
			n.end()
		}
		n.reading.leave()
		if !more {
			return
		}
	}
	n.end()
}

// piece hears what there is; false: the worker has ended the channel, or close has.
func (n *node) piece(data, control []byte) bool {
	size, oob, _, _, err := n.conn.ReadMsgUnix(data, control)
	size, oob = max(0, size), max(0, oob) // either may be -1 with an error
	if smuggled := closeRights(control[:oob]); smuggled > 0 {
		n.complain("node sent descriptors: they were closed", "count", smuggled)
	}
	if long := n.lines.feed(data[:size], n.take); long > 0 {
		n.complain("node message ignored: too long", "limit", maxNodeLine)
	}
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded) // stop
}

// closeRights closes all descriptors that came with a message.
func closeRights(control []byte) (count int) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0 // the kernel writes it: it is whole
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // another kind of message, without descriptors
		}
		for _, fd := range fds {
			unix.Close(fd) // what it belongs to is the sender's business
		}
		count += len(fds)
	}
	return count
}

// maxNodeFDs is what the kernel passes at most in one message (SCM_MAX_FD, unix(7)).
const maxNodeFDs = 253

// end gives back what the worker has, once nobody can be told of it any more.
func (n *node) end() {
	n.mu.Lock()
	var release []func()
	if !n.ended {
		n.ended = true
		close(n.gone)
		for _, l := range n.lent {
			release = append(release, l.release)
		}
		n.lent = nil
	}
	n.mu.Unlock()
	n.finish()
	for _, f := range release {
		f()
	}
}

func (n *node) finish() { n.once.Do(func() { close(n.drained) }) }

// complain tells of something that node does not do by itself, at most once a
// second.
func (n *node) complain(what string, attributes ...any) {
	if missed, ok := n.complaints.now(); ok {
		n.log.Warn(what, append(attributes, "others", missed)...)
	}
}

// throttle lets one line a second through. It is one goroutine's.
type throttle struct {
	last   time.Time
	missed int
}

func (t *throttle) now() (missed int, ok bool) {
	if !t.last.IsZero() && time.Since(t.last) < time.Second {
		t.missed++
		return 0, false
	}
	missed = t.missed
	t.last, t.missed = time.Now(), 0
	return missed, true
}

// lose gives up a channel that cannot be written to.
func (n *node) lose(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		n.log.Warn("node channel closed: the worker does not read from it", "waited", nodePatience)
		n.mu.Lock()
		n.story.deaf = true
		n.mu.Unlock()
	}
	n.conn.Close() // the reading goroutine ends by it
	n.end()
}

// reply fills in what every message of ours has. Call it with mu held.
func (n *node) reply(r nodeReply) nodeReply {
	r.Seq = n.seq
	n.seq++
	if r.Data == nil {
		r.Data = json.RawMessage("null")
	}
	return r
}

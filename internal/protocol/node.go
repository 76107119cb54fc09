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
	log      *slog.Logger

	plain   chan []byte   // messages to be written
	parcels chan parcel   // the same with a descriptor: one at a time is under way
	arrived chan bool     // what the worker says of that one
	heard   chan int      // the preload's answers: listeners for 'message'
	shut    chan struct{} // has something in it once a socket was closed by the worker
	gone    chan struct{} // closed when the channel has ended
	drained chan struct{} // closed when there is nothing left to wait for

	complaints throttle // of the reading goroutine

	mu       sync.Mutex
	seq      int64
	sockets  []nodeSocket
	first    int // number of the first of them in the worker
	lent     map[string]lease
	leases   int
	ended    bool
	closed   bool
	draining bool
	story    nodeStory
	once     sync.Once // closes drained
}

// parcel is a message with a descriptor, its own duplicate.
type parcel struct {
	key    string // of the lease
	line   []byte
	fd     int
	refuse []byte // what to say instead when it cannot be delivered
}

// lease is a socket that the worker listens on.
type lease struct {
	socket  int    // in sockets; -1: not one of them
	release func() // never nil
}

// openNode makes the channel for one worker, and begins to read and to write. Both
// goroutines end with the channel, or at close.
func openNode(h *Hub, c *Choice, w *Worker) (channel, error) {
	conn, child, err := nodeChannel()
	if err != nil {
		return nil, fmt.Errorf("node channel: %w", err)
	}
	n := &node{
		hub: h, settings: c.Settings, index: w.Index, conn: conn, child: child, on: w.On, log: w.Log,
		plain: make(chan []byte, maxNodeQueue), parcels: make(chan parcel, maxNodeQueue),
		arrived: make(chan bool, 1), heard: make(chan int, 1), shut: make(chan struct{}, 1),
		gone: make(chan struct{}), drained: make(chan struct{}),
		lent: make(map[string]lease),
	}
	n.id = h.node.nextID()
	if n.sockets, err = keep(w.Sockets); err != nil {
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

// keep duplicates the sockets: the numbers in Worker are the listeners', who may
// close and reuse them while this channel still hands them out.
func keep(sockets []Socket) (kept []nodeSocket, err error) {
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
	err := n.conn.Close()
	n.end()
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

// read hears the worker until the channel ends.
func (n *node) read() {
	defer n.end()
	defer n.conn.Close()
	var lines nodeLines
	data := make([]byte, 16<<10)
	control := make([]byte, unix.CmsgSpace(4*maxNodeFDs))
	for {
		size, oob, _, _, err := n.conn.ReadMsgUnix(data, control)
		size, oob = max(0, size), max(0, oob) // either may be -1 with an error
		if smuggled := closeRights(control[:oob]); smuggled > 0 {
			n.complain("node sent descriptors: they were closed", "count", smuggled)
		}
		if long := lines.feed(data[:size], n.take); long > 0 {
			n.complain("node message ignored: too long", "limit", maxNodeLine)
		}
		if err != nil {
			return // the worker has ended it, or close has
		}
	}
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

// write sends what is queued, until the channel ends. Of descriptors there is one
// under way at a time: node itself never has two, and loses the order if it gets
// them.
func (n *node) write() {
	var flying *parcel
	tries := 0
	defer func() {
		if flying != nil {
			unix.Close(flying.fd) // a duplicate
		}
		n.sweep()
	}()
	for {
		parcels := n.parcels
		if flying != nil {
			parcels = nil
		}
		var err error
		select {
		case <-n.gone:
			return
		case line := <-n.plain:
			err = n.send(line, -1)
		case p := <-parcels:
			flying, tries = &p, 1
			err = n.send(p.line, p.fd)
		case whole := <-n.arrived:
			if flying == nil {
				continue // an answer to nothing
			}
			if !whole && tries < nodeTries {
				tries++
				err = n.send(flying.line, flying.fd)
				break
			}
			unix.Close(flying.fd) // a duplicate; the worker has its own, or never will
			if !whole {
				n.takeBack(flying.key)
				err = n.send(flying.refuse, -1)
			}
			flying = nil
		}
		if err != nil {
			n.lose(err)
			return
		}
	}
}

// sweep closes the descriptors that were never sent. Nothing is queued once the
// channel has ended.
func (n *node) sweep() {
	<-n.gone
	for {
		select {
		case p := <-n.parcels:
			unix.Close(p.fd) // a duplicate
		default:
			return
		}
	}
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

// send writes a line, with a descriptor unless fd is -1.
func (n *node) send(line []byte, fd int) error {
	if err := n.conn.SetWriteDeadline(time.Now().Add(nodePatience)); err != nil {
		return err
	}
	if fd < 0 {
		_, err := n.conn.Write(line)
		return err
	}
	// The flag belongs to the open file, that is to all who hold the socket, and may
	// have been changed since. With it missing, node would wait in accept for ever.
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	size, _, err := n.conn.WriteMsgUnix(line, unix.UnixRights(fd), nil)
	if err != nil || size == len(line) {
		return err
	}
	_, err = n.conn.Write(line[size:]) // the descriptor went with the first byte
	return err
}

// say queues a message. When there is no room it waits for some: who asks faster than
// it reads is not read from meanwhile, and loses the channel if it reads nothing. The
// messages are lost with the channel.
func (n *node) say(line []byte) {
	select {
	case n.plain <- line:
	case <-n.gone:
	}
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

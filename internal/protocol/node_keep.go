package protocol

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// NodeState is a node channel; our end is kept as the channel's ".channel". The worker's
// sockets are not: whoever resumes has them from their listeners.
type NodeState struct {
	ID     int   `json:"id"`
	Index  int   `json:"index"`
	First  int   `json:"first,omitempty"` // number of the first socket in the worker
	Seq    int64 `json:"seq,omitempty"`   // of our next message
	Leases int   `json:"leases,omitempty"`
	Ended  bool  `json:"ended,omitempty"`

	Lent     []LeaseState   `json:"lent,omitempty"`
	Draining bool           `json:"draining,omitempty"`
	Phase    int            `json:"phase,omitempty"`
	Shut     bool           `json:"shut,omitempty"` // a socket was closed since the drain began
	Story    NodeStoryState `json:"story,omitzero"`

	// What waits to be written.
	Half    []byte        `json:"half,omitempty"`
	Plain   [][]byte      `json:"plain,omitempty"`
	Parcels []ParcelState `json:"parcels,omitempty"`
	Flying  *ParcelState  `json:"flying,omitempty"`
	// What was read of a message whose end has not come.
	Rest     []byte `json:"rest,omitempty"`
	Skipping bool   `json:"skipping,omitempty"` // it is too long, and passed over
}

// LeaseState is a socket that the worker listens on.
type LeaseState struct {
	Key    string `json:"key"`
	Socket int    `json:"socket"` // of the worker's, from 0; -1: another one
	// Of another one: what HubOptions.Listen is asked for, again.
	Network string `json:"network,omitempty"`
	Address string `json:"address,omitempty"`
}

// ParcelState is a message with the socket of a lease.
type ParcelState struct {
	Key    string `json:"key"`
	Line   []byte `json:"line"`
	Refuse []byte `json:"refuse"`
	Tries  int    `json:"tries,omitempty"`
	Waits  bool   `json:"waits,omitempty"`
}

// NodeStoryState is what has come over the channel.
type NodeStoryState struct {
	Online    bool     `json:"online,omitempty"`
	Ready     bool     `json:"ready,omitempty"`
	Listening bool     `json:"listening,omitempty"`
	Leaving   bool     `json:"leaving,omitempty"`
	Deaf      bool     `json:"deaf,omitempty"`
	Preload   bool     `json:"preload,omitempty"`
	Asked     []string `json:"asked,omitempty"`
	Mine      []string `json:"mine,omitempty"`
	Refusals  []string `json:"refusals,omitempty"`
}

func (n *node) keep(prefix string, f *keep.Files) ChannelState {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &NodeState{
		ID: n.id, Index: n.index, First: n.first, Seq: n.seq, Leases: n.leases, Ended: n.ended,
		Draining: n.draining, Phase: int(n.phase), Shut: n.shutSeen, Story: n.story.keep(),
	}
	if !s.Ended {
		s.Ended = n.conn == nil || !number(n.conn, func(fd int) { f.Put(prefix+".channel", fd) })
	}
	for _, key := range slices.Sorted(maps.Keys(n.lent)) {
		l := n.lent[key]
		s.Lent = append(s.Lent, LeaseState{key, l.socket, l.network, l.address})
	}
	whole := n.reading.still() && n.writing.still()
	s.Half, s.Plain = slices.Clone(n.out.half), slices.Clone(n.out.plain)
	for _, p := range n.out.parcels {
		s.Parcels = append(s.Parcels, p.keep())
	}
	if p := n.out.flying; p != nil {
		state := p.keep()
		s.Flying = &state
	}
	if whole {
		s.Rest, s.Skipping = slices.Clone(n.lines.rest), n.lines.skipping
	}
	return ChannelState{Whole: whole, Node: s}
}

func (p *parcel) keep() ParcelState { return ParcelState{p.key, p.line, p.refuse, p.tries, p.waits} }

func (s *nodeStory) keep() NodeStoryState {
	return NodeStoryState{s.online, s.ready, s.listening, s.leaving, s.deaf, s.preload,
		slices.Clone(s.asked), slices.Clone(s.mine), slices.Clone(s.refusals)}
}

func (s NodeStoryState) story() nodeStory {
	return nodeStory{s.Online, s.Ready, s.Listening, s.Leaving, s.Deaf, s.Preload, s.Asked, s.Mine, s.Refusals}
}

func (n *node) stop(late <-chan time.Time) bool {
	if n.conn == nil {
		return true
	}
	n.mu.Lock()
	n.halted = true
	_ = n.conn.SetDeadline(past) // closed: nobody reads or writes
	n.mu.Unlock()
	poke(n.room) // who waits for some gets it
	reading, writing := n.reading.hold(late), n.writing.hold(late)
	return reading && writing
}

func (n *node) goOn() {
	if n.conn == nil {
		return
	}
	n.mu.Lock()
	n.halted = false
	_ = n.conn.SetDeadline(time.Time{}) // likewise
	n.mu.Unlock()
	n.reading.free()
	n.writing.free()
	poke(n.work)
}

func (n *node) drop() {
	n.mu.Lock()
	n.lent = nil // nothing is given back
	n.mu.Unlock()
	_ = n.close() // nothing is buffered in it
}

// ahead is by how much a channel's numbers may have gone on after a state that is not
// whole was taken. Node ends a worker that is told a key twice.
const ahead = 1 << 20

func resumeNode(h *Hub, c *Choice, w *Worker, cs ChannelState, prefix string, f *keep.Files) (channel, error) {
	s := cs.Node
	if s == nil {
		s = &NodeState{Ended: true}
	}
	n := newNode(h, c, w)
	n.id, n.index, n.first, n.seq, n.leases = s.ID, s.Index, s.First, s.Seq, s.Leases
	n.story, n.draining, n.again, n.phase, n.shutSeen = s.Story.story(), s.Draining, s.Draining, nodePhase(s.Phase), s.Shut
	var err error
	if n.sockets, err = hold(w.Sockets); err != nil {
		return nil, err
	}
	if !s.Ended {
		n.conn, err = takeConn(prefix+".channel", unix.SOCK_STREAM, f)
		if err != nil && !errors.Is(err, keep.ErrMissing) {
			letGo(n.sockets)
			return nil, err
		}
	}
	if n.conn == nil {
		n.reading.end()
		n.writing.end()
		n.end()
		return n, err
	}
	n.resume(s, cs.Whole)
	go n.read() // both end as in openNode
	go n.write()
	if n.draining {
		go n.retire() // ends at the latest with the channel
	}
	return n, nil
}

// resume goes on where the other one was. Where that is not known for sure, a message is
// rather lost than told twice, but for a socket, for which a program waits for ever.
func (n *node) resume(s *NodeState, whole bool) {
	if whole {
		n.out.half, n.out.plain = s.Half, s.Plain
	}
	for _, l := range s.Lent {
		if err := n.lend(l); err != nil {
			n.log.Warn("node keeps a socket that its launcher has no more", "network", l.Network, "address", l.Address, "error", err)
		}
	}
	for _, p := range s.Parcels {
		if q := n.parcel(p); q != nil {
			n.out.parcels = append(n.out.parcels, q)
		}
	}
	if s.Shut {
		poke(n.shut)
	}
	if !whole {
		n.seq, n.leases, n.unsure = n.seq+ahead, n.leases+ahead, true
		return
	}
	if s.Flying != nil {
		n.out.flying = n.parcel(*s.Flying)
	}
	n.lines.skipping = s.Skipping
	if n.lines.rest = s.Rest; len(s.Rest) > maxNodeLine {
		n.lines.rest, n.lines.skipping = nil, true
	}
}

// lend books a lease that the worker has.
func (n *node) lend(s LeaseState) error {
	l := lease{socket: s.Socket, release: func() {}, network: s.Network, address: s.Address, fd: -1}
	switch {
	case s.Socket >= 0 && s.Socket < len(n.sockets):
		n.sockets[s.Socket].lent = true
	case s.Socket >= 0:
		return errors.New("the worker has fewer listeners now")
	case n.hub.options.Listen == nil:
		return errors.New("only listeners can be listened on")
	default:
		var err error
		if l.fd, l.release, err = n.hub.options.Listen(s.Network, s.Address); err != nil {
			return err
		}
	}
	if old, there := n.lent[s.Key]; there {
		old.release()
	}
	n.lent[s.Key] = l
	return nil
}

// parcel is one as it was, with a duplicate of its socket; nil when there is none any
// more: then the program is told so.
func (n *node) parcel(s ParcelState) *parcel {
	p := &parcel{key: s.Key, line: s.Line, fd: -1, refuse: s.Refuse, tries: s.Tries, waits: s.Waits}
	l, ok := n.lent[s.Key]
	if ok && l.socket >= 0 {
		l.fd = n.sockets[l.socket].own
	}
	err := errors.New("nobody has booked it")
	if ok && l.fd >= 0 {
		p.fd, err = duplicate(l.fd)
	}
	if err == nil && valid(s.Line) && valid(s.Refuse) {
		return p
	}
	p.close()
	n.log.Warn("node does not get a socket that it was promised", "key", s.Key, "error", err)
	if valid(s.Refuse) {
		n.out.plain = append(n.out.plain, s.Refuse)
	}
	return nil
}

// valid: it is a message of ours.
func valid(line []byte) bool {
	return len(line) > 0 && line[len(line)-1] == '\n' && json.Valid(line)
}

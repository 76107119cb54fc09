package protocol

import (
	"errors"
	"strconv"
	"syscall"
)

// take makes sense of one line of the worker's.
func (n *node) take(line []byte) {
	m, err := readNode(line)
	unsure := n.unsure
	n.unsure = false
	if err != nil {
		if !unsure {
			n.complain("node message ignored", "error", err)
		}
		return
	}
	switch {
	case m.ready:
		n.tellReady()
	case m.Cmd == nodeCluster:
		n.cluster(&m)
	case m.Cmd == nodeACK, m.Cmd == nodeNACK:
		n.answered(m.Cmd == nodeACK)
	case m.Cmd == nodeHandle:
		// The program sends its parent a socket. That was closed on arrival; without an
		// answer its next message would wait for ever.
		n.say(nodeLine(struct {
			Cmd string `json:"cmd"`
		}{nodeACK}))
	case m.Cmd == nodeBaton:
		n.fromPreload(&m)
	}
}

// tellReady passes the program's "ready" on, the first time.
func (n *node) tellReady() {
	n.mu.Lock()
	first := !n.story.ready
	n.story.ready = true
	n.mu.Unlock()
	if first {
		n.on(Message{Ready: true, Via: "process.send('ready')"})
	}
}

// cluster obeys one message of node's cluster module.
func (n *node) cluster(m *nodeMessage) {
	switch m.Act {
	case "online":
		n.mu.Lock()
		n.story.online = true
		n.mu.Unlock()
		n.changed()
	case "queryServer":
		n.listen(m)
	case "listening":
		n.mu.Lock()
		n.story.listening = true
		n.mu.Unlock()
	case "close":
		n.closeSocket(m.Key)
	case "exitedAfterDisconnect":
		n.leaving(m.Seq)
	}
}

// leaving answers a program that leaves by itself: it waits for that.
func (n *node) leaving(seq int64) {
	n.mu.Lock()
	unasked := !n.draining && !n.story.leaving
	n.story.leaving = true
	line := n.reply(nodeReply{Ack: &seq}).line()
	n.mu.Unlock()
	n.say(line)
	if unasked {
		n.on(Message{Stopping: true, Via: "worker.disconnect()"})
	}
}

// listen answers one listen() of the program: with a socket, or with an errno,
// which the program gets as its server's error.
func (n *node) listen(m *nodeMessage) {
	a, err := m.ask()
	if err != nil {
		n.complain("node message ignored", "error", err)
		n.refuse(m, nodeAsk{}, syscall.EINVAL)
		return
	}
	n.mu.Lock()
	n.story.asks(a)
	full := len(n.lent) >= maxNodeQueue
	found, inUse := pick(n.sockets, a, n.first)
	other := false
	if found < 0 && !inUse && n.settings.NodeAnyPort {
		found = pickAny(n.sockets, a)
		other = found >= 0
	}
	n.mu.Unlock()
	switch {
	case full:
		n.refuse(m, a, syscall.EMFILE)
	case inUse:
		n.refuse(m, a, syscall.EADDRINUSE)
	case found >= 0:
		n.lendOwn(m, a, found, other)
	case a.class == "fd":
		n.refuse(m, a, syscall.EBADF)
	default:
		n.lendOther(m, a)
	}
}

// lendOwn hands over a socket of the worker's; other: on another port than it asks
// for, which node must not look at.
func (n *node) lendOwn(m *nodeMessage, a nodeAsk, found int, other bool) {
	n.mu.Lock()
	s := n.sockets[found]
	n.story.got(a, s.Address)
	n.mu.Unlock()
	if a.class == "udp" && a.family == 4 && s.bound.Addr().Is6() && n.hub.node.first("udp4 "+s.Address) {
		n.log.Warn("node asked for an IPv4 socket and gets one of both families: its senders look like ::ffff:192.0.2.1",
			"listener", s.Address, "write", "udp4://"+a.hostPort())
	}
	var errno *int
	if !other {
		errno = new(int)
	}
	if !n.handOver(m, a, s.own, errno, lease{socket: found, release: func() {}}) {
		n.refuse(m, a, syscall.EBADF)
		return
	}
	n.changed()
}

// lendOther opens what no listener is configured for.
func (n *node) lendOther(m *nodeMessage, a nodeAsk) {
	listen := n.hub.options.Listen
	if listen == nil {
		n.refuse(m, a, syscall.EADDRNOTAVAIL)
		return
	}
	network, address := a.network()
	fd, release, err := listen(network, address)
	if err != nil {
		n.log.Warn("node asked for an address that is no listener, and it cannot be opened", "asked", a.String(), "error", err)
		var errno syscall.Errno
		if !errors.As(err, &errno) || errno == 0 {
			errno = syscall.EADDRNOTAVAIL
		}
		n.refuse(m, a, errno)
		return
	}
	if a.class != "unix" && n.hub.node.first("open "+a.String()) {
		n.log.Warn("node asked for an address that is no listener: all workers share one socket there, and it is not steered",
			"asked", a.String(), "listener_to_add", a.listener())
	}
	if !n.handOver(m, a, fd, new(int), lease{-1, release, network, address, fd}) {
		release()
		n.refuse(m, a, syscall.EMFILE)
		return
	}
	n.changed()
}

// handOver queues the answer with the descriptor and books the lease; false: it
// could not, and nothing was booked.
func (n *node) handOver(m *nodeMessage, a nodeAsk, fd int, errno *int, l lease) bool {
	data := n.hub.node.shared(a.same(), m.Data)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended || n.closed || fd < 0 {
		return false
	}
	own, err := duplicate(fd)
	if err != nil {
		n.log.Warn("node gets no socket", "asked", a.String(), "error", err)
		return false
	}
	n.leases++
	key := "baton:" + strconv.Itoa(n.leases)
	refusal := -int(syscall.EBADF)
	p := &parcel{
		key:    key,
		line:   n.reply(nodeReply{Ack: &m.Seq, Errno: errno, Key: key, Data: data}).withHandle(a.class == "udp"),
		fd:     own,
		refuse: n.reply(nodeReply{Ack: &m.Seq, Errno: &refusal, Data: m.Data}).line(),
	}
	if len(n.out.parcels) >= maxNodeQueue { // it gives back what it has not received yet: node does not
		p.close()
		return false
	}
	n.out.parcels = append(n.out.parcels, p)
	poke(n.work)
	n.lent[key] = l
	if l.socket >= 0 {
		n.sockets[l.socket].lent = true
	}
	return true
}

// refuse answers with an errno.
func (n *node) refuse(m *nodeMessage, a nodeAsk, errno syscall.Errno) {
	code := -int(errno)
	n.mu.Lock()
	n.story.refused(a, errno)
	line := n.reply(nodeReply{Ack: &m.Seq, Errno: &code, Data: m.Data}).line()
	n.mu.Unlock()
	n.say(line)
}

// closeSocket hears that the worker does not listen on a socket any more.
func (n *node) closeSocket(key string) {
	n.mu.Lock()
	release := n.forget(key)
	n.shutSeen = n.shutSeen || release != nil
	n.mu.Unlock()
	if release != nil {
		release()
		poke(n.shut)
		n.changed()
	}
}

// forget ends a lease; nil: there is none of that key. Call it with mu held, and what it
// returns without.
func (n *node) forget(key string) (release func()) {
	l, ok := n.lent[key]
	if !ok {
		return nil
	}
	delete(n.lent, key)
	if l.socket >= 0 {
		n.sockets[l.socket].lent = false
	}
	return l.release
}

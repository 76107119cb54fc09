package protocol

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// maxNodeStory bounds what a hint enumerates.
const maxNodeStory = 4

// nodeStory is what has come over a channel, for hints.
type nodeStory struct {
	online    bool // node runs, and has taken the channel
	ready     bool // the program said so
	listening bool // on anything
	leaving   bool // by its own wish
	deaf      bool // it did not read
	preload   bool // it is there
	asked     []string
	mine      []string // the listeners it got
	refusals  []string
}

func note(list *[]string, what string) {
	if len(*list) < maxNodeStory && !slices.Contains(*list, what) {
		*list = append(*list, what)
	}
}

func (s *nodeStory) asks(a nodeAsk) { note(&s.asked, a.String()) }

func (s *nodeStory) got(_ nodeAsk, listener string) { note(&s.mine, listener) }

func (s *nodeStory) refused(a nodeAsk, errno syscall.Errno) {
	note(&s.refusals, fmt.Sprintf("%s: %s", a, errno))
}

// hint says what the channel tells about a worker that is not ready.
func (n *node) hint() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &n.story
	var listeners []string
	for i := range n.sockets {
		note(&listeners, n.sockets[i].Address)
	}
	switch {
	case s.deaf:
		return "node did not read from its channel, which was closed"
	case !s.online && n.ended:
		return "node never came online, and the channel to it has ended: what was started is not node, or closed its descriptors"
	case !s.online:
		return "node has not come online: it is still starting, or what was started is not node"
	case len(s.refusals) > 0:
		return "node was refused " + strings.Join(s.refusals, ", ")
	case len(listeners) == 0 || len(s.mine) > 0:
		return ""
	case len(s.asked) == 0:
		return "node came online and never asked for " + strings.Join(listeners, " or ") +
			": a wrapper (npm, yarn, tsx, nodemon) seems to have taken the channel, or the program has not got to its listen() yet," +
			" or it binds by itself (exclusive, reusePort, a server that is not node's): run the program itself, as in node server.js"
	}
	return "node came online and never asked for " + strings.Join(listeners, " or ") +
		"; it asked for " + strings.Join(s.asked, ", ") + ": set PORT, or node.any_port = true"
}

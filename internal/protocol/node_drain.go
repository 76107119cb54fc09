package protocol

import "time"

// nodeShutdown is how long a program that was sent "shutdown" may take to close its
// first server. Not all that listen for messages know this one.
const nodeShutdown = time.Second

// drain asks the worker to finish. PM2's message "shutdown" goes to a program that
// listens for messages, cluster's disconnect to all others, and to those that do
// nothing about the message: node then closes each server, waits for their
// connections, and ends the channel.
//
// It is nil for a worker that is not node, or not yet, or whose channel is gone.
func (n *node) drain() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.again {
		n.again = false
		return n.drained
	}
	if !n.story.online || n.ended || n.draining {
		return nil
	}
	n.draining = true
	go n.retire() // ends at the latest with the channel
	return n.drained
}

// nodePhase is how far a drain is.
type nodePhase int

const (
	phaseNone  nodePhase = iota
	phaseAsked           // "shutdown" is on its way
	phaseOver            // it ends by itself from here
	phaseDone            // there is nothing to wait for
)

func (n *node) retire() {
	n.mu.Lock()
	preload, phase := n.story.preload, n.phase
	if phase == phaseNone {
		n.shutSeen = false
		select {
		case <-n.shut: // closed long before: it says nothing about "shutdown"
		default:
		}
	}
	n.mu.Unlock()
	switch {
	case phase == phaseDone:
		n.finish()
		return
	case phase == phaseOver:
		return
	case phase == phaseAsked, !preload, n.listeners() > 0:
		if phase == phaseNone {
			n.sayAs([]byte("\"shutdown\"\n"), phaseAsked)
		}
		if preload && n.listeners() < 0 { // the second answer comes when it has seen the message
			return
		}
		select {
		case <-n.gone:
			return
		case <-n.shut: // it knows what to do: the channel ends when it exits
			n.reach(phaseOver)
			return
		case <-time.After(nodeShutdown):
		}
	}
	n.disconnect()
}

func (n *node) reach(p nodePhase) {
	n.mu.Lock()
	n.phase = max(n.phase, p)
	n.mu.Unlock()
	n.changed()
}

// disconnect sends cluster's own message for it. A second one would make node end
// the channel at once, with connections open.
func (n *node) disconnect() {
	n.mu.Lock()
	serves := len(n.lent) > 0
	leaving := n.story.leaving
	line := n.reply(nodeReply{Act: "disconnect"}).line()
	n.mu.Unlock()
	switch {
	case leaving: // it does that by itself already
		n.reach(phaseOver)
	case serves:
		n.sayAs(line, phaseOver)
	default:
		// What it serves, if anything, does not pass here: node would end the channel at
		// once, which says nothing.
		n.reach(phaseDone)
		n.finish()
	}
}

// listeners asks the preload how many listeners for messages the program has; -1:
// the channel has ended.
func (n *node) listeners() int {
	n.say(nodeLine(struct {
		Cmd string `json:"cmd"`
		Act string `json:"act"`
	}{nodeBaton, "listeners"}))
	select {
	case count := <-n.heard:
		return count
	case <-n.gone:
		return -1
	}
}

// fromPreload takes what the preload says.
func (n *node) fromPreload(m *nodeMessage) {
	switch m.Act {
	case "here":
		n.mu.Lock()
		n.story.preload = true
		n.mu.Unlock()
		n.changed()
	case "listeners":
		select {
		case n.heard <- m.Listeners:
		default: // more answers than questions
		}
	}
}

package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// maxNodeLine bounds one message from a worker, in bytes. What is meant for a
// primary is below 1 KiB; the rest is the program's own process.send.
const maxNodeLine = 1 << 20

// maxNodeField bounds what is kept or sent back of a message, in bytes: a path has at
// most 108 (unix(7)), https' ticket keys have 115.
const maxNodeField = 1024

// The messages with a meaning to node itself: their cmd begins with nodePrefix, and
// no program ever sees them (lib/internal/child_process.js, isInternal).
const (
	nodePrefix  = "NODE_"
	nodeCluster = "NODE_CLUSTER"
	nodeHandle  = "NODE_HANDLE"
	nodeACK     = "NODE_HANDLE_ACK"
	nodeNACK    = "NODE_HANDLE_NACK"
	nodeBaton   = "NODE_BATON" // between the preload and the launcher
)

// nodeMessage is one message from a worker: an internal one of node's, "ready", or
// neither, which is the program's own business.
type nodeMessage struct {
	Cmd string `json:"cmd"`
	Act string `json:"act"`
	Seq int64  `json:"seq"`
	Key string `json:"key"` // close
	// Of queryServer and listening:
	Index       int             `json:"index"`
	Data        json.RawMessage `json:"data"`
	Address     *string         `json:"address"` // nil: none given; a path for a unix socket
	Port        *int            `json:"port"`    // -1 for a unix socket, nil with a descriptor
	AddressType any             `json:"addressType"`
	FD          *int            `json:"fd"`
	Flags       int             `json:"flags"` // UV_TCP_IPV6ONLY and the like
	// Of the preload: how many listeners for 'message' the program has.
	Listeners int `json:"listeners"`

	ready bool
}

// readNode reads one line. An error means that node did not write it.
func readNode(line []byte) (m nodeMessage, err error) {
	if string(line) == `"ready"` { // as JSON.stringify writes it
		return nodeMessage{ready: true}, nil
	}
	if !json.Valid(line) {
		return m, fmt.Errorf("no JSON")
	}
	if line = bytes.TrimSpace(line); line[0] != '{' {
		return m, nil
	}
	var head struct {
		Cmd any `json:"cmd"`
	}
	// Valid as a whole: this can fail in no way.
	_ = json.Unmarshal(line, &head)
	if cmd, ok := head.Cmd.(string); !ok || len(cmd) <= len(nodePrefix) || !strings.HasPrefix(cmd, nodePrefix) {
		return m, nil
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return nodeMessage{}, fmt.Errorf("a field of the wrong type: %w", err)
	}
	if len(m.Data) > maxNodeField || m.Address != nil && len(*m.Address) > maxNodeField {
		return nodeMessage{}, fmt.Errorf("a field longer than %d bytes", maxNodeField)
	}
	return m, nil
}

// nodeReply is what the launcher says to node's cluster module.
type nodeReply struct {
	Cmd   string          `json:"cmd"`
	Act   string          `json:"act,omitempty"`
	Ack   *int64          `json:"ack,omitempty"` // the question's seq
	Errno *int            `json:"errno"`         // libuv's; null: the port is not looked at
	Key   string          `json:"key,omitempty"`
	Data  json.RawMessage `json:"data"`
	Seq   int64           `json:"seq"`
}

func (r nodeReply) line() []byte {
	r.Cmd = nodeCluster
	return nodeLine(r)
}

// withHandle wraps a reply that goes with a descriptor; node finds out by itself
// what kind of socket it is, and wants to be told tcp and unix from udp only.
func (r nodeReply) withHandle(udp bool) []byte {
	r.Cmd = nodeCluster
	kind := "net.Native"
	if udp {
		kind = "dgram.Native"
	}
	return nodeLine(struct {
		Cmd  string    `json:"cmd"`
		Type string    `json:"type"`
		Msg  nodeReply `json:"msg"`
	}{nodeHandle, kind, r})
}

// nodeLine encodes a message of ours.
func nodeLine(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own structs, and data that was valid JSON when it came
	}
	return append(b, '\n')
}

// nodeLines cuts a stream into lines of at most maxNodeLine bytes.
type nodeLines struct {
	rest     []byte // of a line that has not ended
	skipping bool   // until the end of a line that is too long
}

// feed calls take for each line that ends in chunk; the line is take's until it
// returns. It says how many were begun that are too long: those are passed over.
func (l *nodeLines) feed(chunk []byte, take func(line []byte)) (tooLong int) {
	for len(chunk) > 0 {
		piece, after, ended := bytes.Cut(chunk, []byte{'\n'})
		chunk = after
		if !l.skipping && len(l.rest)+len(piece) > maxNodeLine {
			l.skipping, l.rest = true, nil
			tooLong++
		}
		switch {
		case l.skipping:
			l.skipping = !ended
		case !ended:
			l.rest = append(l.rest, piece...)
		case len(l.rest) == 0:
			take(piece)
		default:
			line := append(l.rest, piece...)
			l.rest = nil
			take(line)
		}
	}
	return tooLong
}

package protocol

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
)

// KindTableflip is cloudflare/tableflip: to a program of it the launcher is the
// process that is being upgraded. The facts are from its parent.go and child.go
// (v1.2.3).
const KindTableflip Kind = "tableflip"

// tableflipReady is the byte by which the worker says that it is ready.
const tableflipReady = 42

// flipper is that for one worker. Its two pipes are descriptors 3 and 4 there: on
// the one it says that it is ready, from the other it reads what its sockets, from 5
// on, are called; and the end of that one means that its predecessor is gone.
type flipper struct {
	ready  *os.File
	names  *os.File
	lent   [2]lent // the worker's ends: of ready, of names
	extra  []int   // sockets once more, for their other names
	worker *Worker
	story  story

	reading, writing gate

	mu     sync.Mutex
	rest   []byte // of the names, what is not written
	told   bool   // the names are written
	lonely bool   // nothing of an older generation is left
}

// openTableflip makes the pipes and begins to read and to write. The one goroutine
// ends with the worker's byte, when it has closed its end, or at close; the other
// when the names are written, the worker is gone, or at close.
func openTableflip(_ *Hub, _ *Choice, w *Worker) (channel, error) {
	ready, readyW, err := pipe("tableflip's ready pipe", true)
	if err != nil {
		return nil, err
	}
	names, namesR, err := pipe("tableflip's names pipe", false)
	if err != nil {
		ready.Close()
		closeFD(readyW)
		return nil, err
	}
	t := &flipper{ready: ready, names: names, worker: w, reading: newGate(), writing: newGate()}
	t.lent[0].fd, t.lent[1].fd = readyW, namesR
	all := tableflipNames(w.Sockets)
	for _, n := range all[len(w.Sockets):] {
		t.extra = append(t.extra, w.Sockets[n.socket].FD)
	}
	t.rest = t.encode(all)
	go t.read()
	go t.write()
	return t, nil
}

func (t *flipper) below() []int { return []int{t.lent[0].number(), t.lent[1].number()} }
func (t *flipper) files() []int { return t.extra }

func (t *flipper) env(int, int) []string {
	return []string{variable(tableflipVariable) + "=yes"}
}

func (t *flipper) started() {
	for i := range t.lent {
		t.lent[i].letGo()
	}
}

func (t *flipper) close() error {
	t.started()
	t.reading.end()
	t.writing.end()
	t.ready.Close() // only read from
	return closed(t.names.Close())
}

// read waits for the one byte.
func (t *flipper) read() {
	for t.reading.enter() {
		more := t.byte()
		if !more {
			t.ready.Close() // only read from
		}
		t.reading.leave()
		if !more {
			return
		}
	}
}

// byte reads it; false: there is nothing more to wait for.
func (t *flipper) byte() bool {
	var b [1]byte
	switch n, err := t.ready.Read(b[:]); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true // stop
	case n == 0 && closed(err) == nil:
		return false // close
	case n == 0:
		t.story.tell("it closed tableflip's ready pipe without a word")
	case b[0] != tableflipReady:
		t.story.tell(fmt.Sprintf("it wrote %#02x to tableflip's ready pipe, not %#02x", b[0], tableflipReady))
		t.worker.Log.Warn("tableflip's ready pipe closed: something else was written to it",
			"byte", fmt.Sprintf("%#02x", b[0]), "expected", fmt.Sprintf("%#02x", tableflipReady))
	default:
		t.worker.On(Message{Ready: true, Via: "tableflip's ready byte"})
	}
	return false
}

// encode is what the sockets are called, as the worker reads it.
func (t *flipper) encode(all []tableflipName) []byte {
	list := make([][]string, len(all)) // not nil: gob refuses that
	for i, n := range all {
		list[i] = []string{n.kind, n.network, n.address}
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(list); err != nil {
		t.worker.Log.Error("tableflip's names cannot be written", "error", err)
	}
	return b.Bytes()
}

// write tells what the sockets are called. The pipe may be smaller than that
// (pipe(7), pipe-user-pages-soft), so it waits for the worker to read.
func (t *flipper) write() {
	for t.writing.enter() {
		n, err := t.names.Write(t.rest)
		t.mu.Lock()
		t.rest = t.rest[n:]
		stopped := errors.Is(err, os.ErrDeadlineExceeded)
		if !stopped { // else the worker is gone, which shows by itself, or it is close
			t.told = true
			t.hangUp()
		}
		t.mu.Unlock()
		t.writing.leave()
		if !stopped {
			return
		}
	}
}

// alone ends the names pipe: to the worker that is the exit of its predecessor.
func (t *flipper) alone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lonely = true
	t.hangUp()
}

// hangUp closes the names pipe once everything has been said. Call it with mu held.
func (t *flipper) hangUp() {
	if t.told && t.lonely {
		t.names.Close() // a pipe loses nothing that was written
	}
}

func (t *flipper) hint() string {
	if words := t.story.told(); words != "" {
		return words
	}
	t.mu.Lock()
	told := t.told
	t.mu.Unlock()
	if !told || unread(t.names) > 0 {
		return `it carries tableflip's variable, but has not called tableflip.New: if it does not use it, set protocols = ["systemd"]`
	}
	return "it has called tableflip.New, but not Ready"
}

// tableflipName is what a worker finds a socket by: the arguments of Listen or
// ListenPacket, letter for letter.
type tableflipName struct {
	kind, network, address string
	socket                 int // which
}

// tableflipNames are the names of all sockets in their order, and after them other
// ways to write the same addresses, each of which takes a descriptor of its own. Nothing
// is offered twice. A path has one name only: tableflip unlinks those that were not
// asked for.
func tableflipNames(sockets []Socket) []tableflipName {
	var names []tableflipName
	offer := func(n tableflipName) {
		same := func(x tableflipName) bool { x.socket = n.socket; return x == n }
		if !slices.ContainsFunc(names, same) {
			names = append(names, n)
		}
	}
	for i, s := range sockets {
		names = append(names, tableflipName{tableflipKind(s.Network), s.Network, s.Address, i})
	}
	for i, s := range sockets {
		host, port, err := net.SplitHostPort(s.Address)
		if s.Network == "unix" || err != nil {
			continue
		}
		for _, network := range networks(s.Network, host) {
			for _, h := range spellings(network, host) {
				offer(tableflipName{tableflipKind(network), network, net.JoinHostPort(h, port), i})
			}
		}
	}
	return names
}

func tableflipKind(network string) string {
	if strings.HasPrefix(network, "udp") {
		return "packet"
	}
	return "listener"
}

// networks are those by which a program may ask for a socket of the network and
// host: the more general one, and those of the families that it serves.
func networks(network, host string) []string {
	class := strings.TrimRight(network, "46")
	v4 := network != class+"6" && !strings.Contains(host, ":")
	v6 := network != class+"4" && !strings.Contains(host, ".")
	if host == "::" && network == class {
		v4 = true // of both families (ipv6(7), net.ipv6.bindv6only)
	}
	list := []string{class}
	if v4 {
		list = append(list, class+"4")
	}
	if v6 {
		list = append(list, class+"6")
	}
	return list
}

// spellings are the hosts by which a program may mean the same on a network.
func spellings(network, host string) []string {
	v4, v6 := !strings.HasSuffix(network, "6"), !strings.HasSuffix(network, "4")
	var list []string
	add := func(ok bool, host string) {
		if ok {
			list = append(list, host)
		}
	}
	switch host {
	case "", "0.0.0.0", "::":
		add(true, "")
		add(v4, "0.0.0.0")
		add(v6, "::")
	case "127.0.0.1", "::1", "localhost":
		add(true, "localhost")
		add(v4 && host != "::1", "127.0.0.1")
		add(v6 && host != "127.0.0.1", "::1")
	default:
		add(true, host)
	}
	return list
}

package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// KindEinhorn is stripe/einhorn. The facts are from its lib/einhorn/worker.rb,
// client.rb and command/interface.rb.
const KindEinhorn Kind = "einhorn"

const (
	// maxEinhornLine bounds a message, in bytes.
	maxEinhornLine = 4096
	// maxEinhornTalks is how many connections of one worker are listened to at a time.
	maxEinhornTalks = 8
	// einhornPatience is how long one may take to say its line.
	einhornPatience = 3 * time.Second
)

// einhornHub keeps the directory of the workers' sockets. A client wants a path (Ruby's
// UNIXSocket.open), and it may run as another user than the launcher: so the
// directory lets everybody pass and nobody look, under a random name, and who may
// speak is decided by the kernel's word for the peer's pid.
type einhornHub struct {
	mu   sync.Mutex
	dirs publicDirs
	next int
	told bool // that it cannot be made
}

// newEinhornHub bounds where the directory lies: the address of a unix socket has
// room for 108 bytes (unix(7)).
func newEinhornHub() einhornHub {
	return einhornHub{dirs: publicDirs{prefix: "baton-einhorn-", mode: 0o711, longest: 64}}
}

// einhornSocket is a worker's socket, and where it lies.
type einhornSocket struct {
	*net.UnixListener
	path   string
	remove func() error
}

// listen makes the next worker's socket.
func (h *einhornHub) listen() (*einhornSocket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.dirs.get()
	if err != nil {
		return nil, err
	}
	h.next++
	name := strconv.Itoa(h.next)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.relative(name), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.join(name), err)
	}
	l.SetUnlinkOnClose(false) // its number may be another directory's by then
	d.names[name] = true
	remove := func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		return d.remove(name)
	}
	if err := d.open(name); err != nil {
		return nil, errors.Join(err, l.Close(), d.remove(name))
	}
	return &einhornSocket{l, d.join(name), remove}, nil
}

func (h *einhornHub) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dirs.close()
}

// first says whether it is the first failure to tell of.
func (h *einhornHub) first() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	told := h.told
	h.told = true
	return !told
}

// einhorn is one worker's part. Each message is a connection of its own, and gets
// no answer, as from Einhorn.
type einhorn struct {
	listener   *einhornSocket // nil: there is none, and no message will come
	worker     *Worker
	configured bool
	story      story
	done       chan struct{} // closed by close
	gate       gate          // of accept

	mu     sync.Mutex
	talks  map[*talk]bool
	closed bool
	halted bool      // stop was called
	last   time.Time // of the last line of complaint
	missed int       // complaints since
}

// openEinhorn makes the socket and begins to accept. The goroutine ends at close, and
// so do those of its connections. Where the socket cannot be made, a worker that was
// only taken for one of Einhorn's learns its sockets and no more.
func openEinhorn(h *Hub, c *Choice, w *Worker) (channel, error) {
	e := &einhorn{
		worker: w, configured: slices.Contains(c.Settings.Kinds, KindEinhorn),
		done: make(chan struct{}), gate: newGate(), talks: make(map[*talk]bool),
	}
	l, err := h.einhorn.listen()
	switch {
	case err == nil:
		e.listener = l
		go e.accept()
	case e.configured:
		return nil, fmt.Errorf("einhorn's socket: %w", err)
	case h.einhorn.first():
		w.Log.Warn("einhorn's socket cannot be made: no worker:ack is heard", "error", err)
	}
	return e, nil
}

func (e *einhorn) files() []int { return nil }
func (e *einhorn) started()     {}

func (e *einhorn) env(sockets, _ int) []string {
	count := len(e.worker.Sockets)
	env := []string{
		variable(einhornVariable) + "=" + strconv.Itoa(count),
		"EINHORN_CHILD_INDEX=" + strconv.Itoa(e.worker.Index),
	}
	for i := range count {
		env = append(env, "EINHORN_FD_"+strconv.Itoa(i)+"="+strconv.Itoa(sockets+i))
	}
	if count > 0 {
		env = append(env, socketmasterFDs(sockets, count))
	}
	if e.listener != nil { // a client with the parent's pid insists on the socket
		env = append(env, "EINHORN_SOCK_PATH="+e.listener.path,
			variable(einhornParentVariable)+"="+strconv.Itoa(os.Getpid()))
	}
	return env
}

func (e *einhorn) hint() string {
	if words := e.story.told(); words != "" || !e.configured {
		return words
	}
	return "it sent no worker:ack to EINHORN_SOCK_PATH"
}

func (e *einhorn) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.hush()
	if e.listener == nil {
		return nil
	}
	return errors.Join(e.listener.Close(), e.listener.remove())
}

// hush ends all connections. Call it with mu held, and once.
func (e *einhorn) hush() {
	e.closed = true
	close(e.done)
	e.gate.end()
	for t := range e.talks {
		t.gate.end()
		t.conn.Close() // what it still says is for nobody
	}
}

func (e *einhorn) accept() {
	for e.gate.enter() {
		c, err := e.listener.AcceptUnix()
		if err == nil {
			e.admit(c)
		}
		e.gate.leave()
		switch {
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded): // stop
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		// Descriptors or memory are short: let others end first.
		e.complain("einhorn's socket: a connection was not accepted", "error", err)
		select {
		case <-e.done:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// admit listens to a connection of the worker's, and closes any other.
func (e *einhorn) admit(c *net.UnixConn) {
	pid, err := peer(c)
	if err != nil || !e.worker.Member(pid) {
		c.Close()
		e.complain("message to einhorn's socket ignored: its sender is not of this worker", "pid", pid)
		return
	}
	t := &talk{conn: c, pid: pid, until: time.Now().Add(einhornPatience), gate: newGate()}
	if !e.begin(t) {
		c.Close()
		e.complain("message to einhorn's socket ignored: too many connections at once", "pid", pid, "limit", maxEinhornTalks)
	}
}

// begin listens to a connection; false: there are too many.
func (e *einhorn) begin(t *talk) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(e.talks) == maxEinhornTalks {
		return false
	}
	e.talks[t] = true
	t.deadline(e.halted)
	go e.talk(t) // ends with the line, einhornPatience, or close
	return true
}

// talk is one connection.
type talk struct {
	conn  *net.UnixConn
	pid   int
	until time.Time // its patience ends then
	gate  gate
	read  []byte // of its line, so far
	over  bool   // it is heard, or refused
}

func (t *talk) deadline(halted bool) {
	at := t.until
	if halted {
		at = past
	}
	_ = t.conn.SetReadDeadline(at) // closed: nobody reads
}

func (e *einhorn) talk(t *talk) {
	defer func() {
		t.conn.Close()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.talks, t)
	}()
	for t.gate.enter() {
		t.over = !e.piece(t)
		t.gate.leave()
		if t.over {
			return
		}
	}
}

// piece reads what a connection says, and tells it when that was all.
func (e *einhorn) piece(t *talk) (more bool) {
	line, err := t.line()
	var m einhornMessage
	if err == nil {
		m, err = parseEinhorn(line)
	}
	switch {
	case errors.Is(err, errStopped):
		return true
	case errors.Is(err, net.ErrClosed):
	case err != nil:
		e.story.tell("what it sent to EINHORN_SOCK_PATH was refused: " + err.Error())
		e.complain("message to einhorn's socket ignored", "pid", t.pid, "error", err)
	case m.Command == "worker:ack":
		e.worker.On(Message{Ready: true, PID: t.pid, Via: "einhorn's worker:ack"})
	}
	return false
}

// errStopped is what a read is ended with that is to go on later.
var errStopped = errors.New("stopped")

// line reads what a connection has to say.
func (t *talk) line() (string, error) {
	buf := make([]byte, maxEinhornLine)
	for {
		if end := bytes.IndexByte(t.read, '\n'); end >= 0 {
			return string(t.read[:end+1]), nil
		}
		if len(t.read) >= maxEinhornLine {
			return "", fmt.Errorf("a line of more than %d bytes", maxEinhornLine)
		}
		n, err := t.conn.Read(buf[:maxEinhornLine-len(t.read)])
		t.read = append(t.read, buf[:n]...)
		switch {
		case n > 0:
		case errors.Is(err, io.EOF):
			return "", fmt.Errorf("%d bytes without the newline at their end", len(t.read))
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(t.until):
			return "", errStopped
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "", fmt.Errorf("no whole line within %v", einhornPatience)
		case err != nil:
			return "", err
		}
	}
}

// complain logs at most once a second: whoever it is must not be able to fill the log.
func (e *einhorn) complain(what string, attributes ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.last.IsZero() && time.Since(e.last) < quiet {
		e.missed++
		return
	}
	e.worker.Log.Warn(what, append(attributes, slog.Int("others", e.missed))...)
	e.last, e.missed = time.Now(), 0
}

// einhornMessage is what a worker has to say.
type einhornMessage struct {
	Command string
	PID     int // as it believes; in another pid namespace that is not the launcher's
}

// einhornUnescape undoes what Einhorn's client does to keep a message on one line.
var einhornUnescape = strings.NewReplacer("%25", "%", "%0A", "\n")

// parseEinhorn reads one line: a mapping with command and pid, in JSON or in the
// YAML that Ruby makes of such a hash. The error says what is wrong with it.
func parseEinhorn(line string) (m einhornMessage, err error) {
	text := strings.TrimSpace(einhornUnescape.Replace(line))
	text = strings.TrimSpace(strings.TrimPrefix(text, "---"))
	var pid string
	if strings.HasPrefix(text, "{") {
		var fields struct {
			Command string
			PID     json.Number
		}
		if err := json.Unmarshal([]byte(text), &fields); err != nil {
			return m, fmt.Errorf("it begins as JSON: %s", harmless(err.Error())) // which may repeat all of it
		}
		m.Command, pid = fields.Command, fields.PID.String()
	} else {
		m.Command, pid = yamlField(text, "command"), yamlField(text, "pid")
	}
	m.PID, err = strconv.Atoi(pid)
	switch {
	case m.Command == "":
		return m, errors.New("neither JSON nor YAML with a command")
	case m.Command != "worker:ack" && m.Command != "worker:ping":
		return m, fmt.Errorf("command %q; baton knows worker:ack and worker:ping", harmless(m.Command))
	case err != nil || m.PID <= 0:
		return m, fmt.Errorf("%s without a pid", m.Command)
	}
	return m, nil
}

// yamlField is a scalar of a mapping in block style, at its outermost level; "":
// there is none. A key may be a symbol of Ruby's.
func yamlField(text, key string) string {
	for line := range strings.SplitSeq(text, "\n") {
		name, value, ok := strings.Cut(line, ": ")
		if ok && strings.Trim(strings.TrimPrefix(name, ":"), `"'`) == key {
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return ""
}

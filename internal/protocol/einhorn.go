package protocol

import (
	"bufio"
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

	mu     sync.Mutex
	talks  map[*net.UnixConn]bool
	closed bool
	last   time.Time // of the last line of complaint
	missed int       // complaints since
}

// openEinhorn makes the socket and begins to accept. The goroutine ends at close, and
// so do those of its connections. Where the socket cannot be made, a worker that was
// only taken for one of Einhorn's learns its sockets and no more.
func openEinhorn(h *Hub, c *Choice, w *Worker) (channel, error) {
	e := &einhorn{
		worker: w, configured: slices.Contains(c.Settings.Kinds, KindEinhorn),
		done: make(chan struct{}), talks: make(map[*net.UnixConn]bool),
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
	e.closed = true
	close(e.done)
	for c := range e.talks {
		c.Close() // what it still says is for nobody
	}
	if e.listener == nil {
		return nil
	}
	return errors.Join(e.listener.Close(), e.listener.remove())
}

func (e *einhorn) accept() {
	for {
		c, err := e.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // descriptors or memory are short: let others end first
			e.complain("einhorn's socket: a connection was not accepted", "error", err)
			select {
			case <-e.done:
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		e.admit(c)
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
	e.mu.Lock()
	full := e.closed || len(e.talks) == maxEinhornTalks
	if !full {
		e.talks[c] = true
	}
	e.mu.Unlock()
	if full {
		c.Close()
		e.complain("message to einhorn's socket ignored: too many connections at once", "pid", pid, "limit", maxEinhornTalks)
		return
	}
	go e.talk(c, pid) // ends with the line, einhornPatience, or close
}

func (e *einhorn) talk(c *net.UnixConn, pid int) {
	defer func() {
		c.Close()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.talks, c)
	}()
	line, err := e.line(c)
	var m einhornMessage
	if err == nil {
		m, err = parseEinhorn(line)
	}
	switch {
	case errors.Is(err, net.ErrClosed):
	case err != nil:
		e.story.tell("what it sent to EINHORN_SOCK_PATH was refused: " + err.Error())
		e.complain("message to einhorn's socket ignored", "pid", pid, "error", err)
	case m.Command == "worker:ack":
		e.worker.On(Message{Ready: true, PID: pid, Via: "einhorn's worker:ack"})
	}
}

// line reads what a connection has to say.
func (e *einhorn) line(c *net.UnixConn) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(einhornPatience)); err != nil {
		return "", err
	}
	line, err := bufio.NewReaderSize(c, maxEinhornLine).ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		return "", fmt.Errorf("%d bytes without the newline at their end", len(line))
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("a line of more than %d bytes", maxEinhornLine)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", fmt.Errorf("no whole line within %v", einhornPatience)
	case err != nil:
		return "", err
	}
	return string(line), nil
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

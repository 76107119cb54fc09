package protocol

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// impostor holds a worker's end of the channel, and is no node.
type impostor struct {
	t    *testing.T
	conn *net.UnixConn
	node *node
	link *Link
	box  inbox
	rest []byte
	fds  []int // that came with the last message

	choice *Choice
	worker *Worker
}

func (s *stand) impostor() *impostor {
	s.t.Helper()
	i := &impostor{t: s.t, box: make(inbox, 64)}
	i.choice = &Choice{Settings: s.settings, Kinds: []Kind{KindNode}}
	i.worker = &Worker{Generation: 1, Sockets: s.sockets, On: func(m Message) { i.box <- m }, Log: s.hub.options.Log}
	link, err := s.hub.Open(i.choice, i.worker)
	if err != nil {
		s.t.Fatal(err)
	}
	i.link, i.node = link, link.channels[0].(*node)
	files := link.Files()
	own, err := duplicate(files[len(files)-1])
	if err != nil {
		s.t.Fatal(err)
	}
	link.Started()
	f := os.NewFile(uintptr(own), "worker's end")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		s.t.Fatal(err)
	}
	i.conn = c.(*net.UnixConn)
	_ = i.conn.SetDeadline(time.Now().Add(time.Minute)) // a fresh connection takes one
	s.t.Cleanup(func() {
		i.conn.Close()
		if err := i.link.Close(); err != nil {
			s.t.Error(err)
		}
		i.drop()
	})
	return i
}

func (i *impostor) drop() {
	for _, fd := range i.fds {
		unix.Close(fd) // the impostor's own
	}
	i.fds = nil
}

func (i *impostor) write(lines ...string) {
	i.t.Helper()
	if _, err := i.conn.Write([]byte(strings.Join(lines, "\n") + "\n")); err != nil {
		i.t.Fatal(err)
	}
}

// said is a message of the launcher's, a reply taken out of what goes with a
// descriptor.
type said struct {
	Cmd, Type, Act, Key string
	Ack                 *int64
	Errno               *int
	Msg                 *said
}

// hears reads the next message, and keeps the descriptors that came with it.
func (i *impostor) hears() said {
	i.t.Helper()
	i.drop()
	for !bytes.ContainsRune(i.rest, '\n') {
		data, control := make([]byte, 4096), make([]byte, 256)
		n, oob, _, _, err := i.conn.ReadMsgUnix(data, control)
		if err != nil {
			i.t.Fatal(err)
		}
		i.rest = append(i.rest, data[:n]...)
		messages, err := unix.ParseSocketControlMessage(control[:oob])
		if err != nil {
			i.t.Fatal(err)
		}
		for m := range messages {
			fds, err := unix.ParseUnixRights(&messages[m])
			if err != nil {
				i.t.Fatal(err)
			}
			i.fds = append(i.fds, fds...)
		}
	}
	line, rest, _ := bytes.Cut(i.rest, []byte{'\n'})
	i.rest = bytes.Clone(rest)
	var s said
	if string(line) == `"shutdown"` {
		return said{Cmd: "shutdown"}
	}
	if err := json.Unmarshal(line, &s); err != nil {
		i.t.Fatalf("%s: %v", line, err)
	}
	return s
}

const online = `{"cmd":"NODE_CLUSTER","act":"online","seq":0}`

func query(port, seq int) string {
	return fmt.Sprintf(`{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":%d,"addressType":4,"seq":%d}`, port, seq)
}

func TestGarbageOnTheChannelIsSaidAndPassedOver(t *testing.T) {
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	i := s.impostor()
	i.write(
		"", " ", "\x00\xff", `"read`, `"ready`, `{"cmd":"NODE_CLUSTER"`, `[[[[`, `"not ready"`, `7`, `null`, `{"ready":"ready"}`,
		`{"cmd":"NODE_CLUSTER","act":5}`, `{"cmd":"NODE_CLUSTER","act":"queryServer","seq":"x"}`,
		`{"cmd":"NODE_CLUSTER","act":"queryServer","port":1e99,"addressType":4,"seq":1}`,
		`{"cmd":"NODE_CLUSTER","act":"close","key":["baton:1"]}`, `{"cmd":"NODE_CLUSTER","act":"close","key":"baton:1"}`,
		`{"cmd":["NODE_CLUSTER"],"act":"online"}`, `{"cmd":"NODE_"}`, `{"cmd":"NODE_OTHER"}`, `{"cmd":"NODE_HANDLE_ACK"}`, `{"cmd":"NODE_HANDLE_NACK"}`,
		`{"cmd":"NODE_BATON","act":"listeners","listeners":-9}`, strings.Repeat("[", 20000),
		`{"cmd":"NODE_CLUSTER","act":"queryServer","data":"`+strings.Repeat("x", maxNodeField)+`","port":1,"addressType":4,"seq":1}`,
		strings.Repeat("x", maxNodeLine+1), `"`+strings.Repeat("y", maxNodeLine-2)+`"`,
	)
	for range 100 {
		i.write(strings.Repeat("{\n", 100))
	}
	i.write(query(web.port(t), 77))
	if m := i.hears(); m.Cmd != nodeHandle || m.Msg == nil || *m.Msg.Ack != 77 || *m.Msg.Errno != 0 || len(i.fds) != 1 {
		t.Errorf("%+v with %d descriptors", m, len(i.fds))
	}
	if len(i.box) != 0 {
		t.Errorf("taken for %+v", <-i.box)
	}
	if n := s.log.count("ignored"); n == 0 || n > 10 {
		t.Errorf("said %d times", n)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestSmuggledDescriptorsAreClosed(t *testing.T) {
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	i := s.impostor()
	before := descriptors(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	many := make([]int, 200)
	for k := range many {
		many[k] = pipe[1]
	}
	for range 20 {
		if _, _, err := i.conn.WriteMsgUnix([]byte("{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{}}\n"), unix.UnixRights(many...), nil); err != nil {
			t.Fatal(err)
		}
		if m := i.hears(); m.Cmd != nodeACK || len(i.fds) != 0 {
			t.Fatalf("answer %+v", m)
		}
	}
	unix.Close(pipe[1])
	// The end of the pipe proves that nobody else holds its writing side.
	if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	unix.Close(pipe[0])
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	if n := s.log.count("node sent descriptors"); n == 0 || n > 3 {
		t.Errorf("said %d times", n)
	}
}

func TestAWorkerThatDoesNotReadLosesItsChannelAndNothingElse(t *testing.T) {
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	i := s.impostor()
	i.write(online)
	question := []byte(strings.Repeat(query(1, 1)+"\n", 100))
	for {
		if _, err := i.conn.Write(question); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("it was never given up")
			}
			break
		}
	}
	within(t, "the channel's end", i.node.gone)
	if n := s.log.count("does not read"); n != 1 {
		t.Errorf("said %d times", n)
	}
	if hint := i.link.Hint(); !strings.Contains(hint, "did not read") {
		t.Errorf("hint %q", hint)
	}
	if i.link.Drain() != nil {
		t.Error("can be drained")
	}
}

func TestOneDescriptorIsUnderWayAtATime(t *testing.T) {
	one, two := listening(t, "tcp", "127.0.0.1:0"), listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, one, two)
	s.settings.NodePreload = false
	i := s.impostor()
	i.write(online, query(one.port(t), 1), query(two.port(t), 2))
	if m := i.hears(); m.Msg == nil || *m.Msg.Ack != 1 || len(i.fds) != 1 {
		t.Fatalf("%+v", m)
	}
	// What needs no descriptor passes: a worker that never answers can be drained.
	drained := i.link.Drain()
	if m := i.hears(); m.Cmd != "shutdown" {
		t.Fatalf("%+v", m)
	}
	if m := i.hears(); m.Act != "disconnect" {
		t.Fatalf("%+v", m)
	}
	i.write(`{"cmd":"NODE_HANDLE_ACK"}`)
	if m := i.hears(); m.Msg == nil || *m.Msg.Ack != 2 || len(i.fds) != 1 {
		t.Fatalf("%+v", m)
	}
	for range nodeTries - 1 {
		i.write(`{"cmd":"NODE_HANDLE_NACK"}`)
		if m := i.hears(); m.Msg == nil || *m.Msg.Ack != 2 || len(i.fds) != 1 {
			t.Fatalf("not sent again: %+v", m)
		}
	}
	i.write(`{"cmd":"NODE_HANDLE_NACK"}`)
	if m := i.hears(); m.Cmd != nodeCluster || *m.Ack != 2 || *m.Errno != -int(unix.EBADF) || len(i.fds) != 0 {
		t.Errorf("%+v", m)
	}
	// What was not delivered is free again.
	i.write(query(two.port(t), 3))
	if m := i.hears(); m.Msg == nil || *m.Msg.Ack != 3 || *m.Msg.Errno != 0 {
		t.Errorf("%+v", m)
	}
	i.conn.Close()
	within(t, "drained", drained)
}

func TestWhatAWorkerCanHaveIsBounded(t *testing.T) {
	opened := newOpener(t)
	s := newStand(t, HubOptions{Listen: opened.listen})
	i := s.impostor()
	for k := range maxNodeQueue {
		i.write(query(0, k))
		m := i.hears()
		if m.Msg == nil || *m.Msg.Errno != 0 {
			t.Fatalf("question %d: %+v", k, m)
		}
		i.write(`{"cmd":"NODE_HANDLE_ACK"}`)
	}
	i.write(query(0, 999))
	if m := i.hears(); m.Ack == nil || *m.Ack != 999 || *m.Errno != -int(unix.EMFILE) {
		t.Errorf("%+v", m)
	}
	i.conn.Close()
	within(t, "the channel's end", i.node.gone)
	eventually(t, "all to be given back", func() bool { return len(opened.given()) == maxNodeQueue })
}

func TestWhoAsksALotAndReadsIsAnsweredAndHeardOnce(t *testing.T) {
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	i := s.impostor()
	const questions = 5000
	done := make(chan int, 1)
	go func() { // ends with the count, or at the connection's deadline
		count := 0
		for lines := bufio.NewScanner(i.conn); count < questions && lines.Scan(); {
			count++
		}
		done <- count
	}()
	for k := range questions {
		i.write(`"ready"`, `"metrics"`, `{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":`+fmt.Sprint(k)+`}`)
	}
	if count := within(t, "answers", done); count != questions {
		t.Errorf("%d answers", count)
	}
	if m := i.box.next(t); !m.Ready {
		t.Errorf("%+v", m)
	}
	if m := i.box.next(t); !m.Stopping {
		t.Errorf("%+v", m)
	}
	if len(i.box) != 0 {
		t.Errorf("told again: %+v", <-i.box)
	}
}

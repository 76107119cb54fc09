package protocol

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
)

var einhornOnly = Settings{Kinds: []Kind{KindEinhorn}}

const einhornAck = "einhorn's worker:ack"

// einhornChild sends each argument over a connection of its own, and says how that
// ended; then it stays. "half:" ends without a newline, "hold:" says nothing and is
// held, until "await:" waits for the end of all that are; "huge:" and
// "binary:" are lines of such.
func einhornChild() {
	var held []net.Conn
	for i, text := range os.Args[1:] {
		if text == "await:" {
			for _, c := range held {
				_, _ = c.Read(make([]byte, 1)) // its end is what is waited for
			}
			continue
		}
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: os.Getenv("EINHORN_SOCK_PATH"), Net: "unix"})
		if err != nil {
			fmt.Println(err)
			continue
		}
		if text == "hold:" {
			held = append(held, c)
			continue
		}
		text, half := strings.CutPrefix(text, "half:")
		switch text {
		case "huge:":
			text = strings.Repeat("x", 3<<20)
		case "binary:":
			text = "\x00\xff\x1b[2J"
		}
		text = strings.ReplaceAll(text, "PID", strconv.Itoa(os.Getpid()))
		if !half {
			text += "\n"
		}
		_, _ = c.Write([]byte(text)) // refused in the middle of it is an answer too
		_ = c.CloseWrite()           // likewise
		reply, err := io.ReadAll(c)
		if err != nil {
			err = fmt.Errorf("reset") // with some of it not read
		}
		fmt.Printf("%d: %q %v\n", i, reply, err)
		c.Close()
	}
	fmt.Println("sent")
	<-time.After(time.Hour) // it is killed before
}

func einhorned(t *testing.T, texts ...string) *crew {
	t.Helper()
	return crewed(t, einhornOnly, two(t), []string{childVariable + "=einhorn"}, append([]string{self(t)}, texts...)...)
}

func TestEinhornsAckIsReadyInAllItsForms(t *testing.T) {
	for _, text := range []string{
		`{"command":"worker:ack","pid":PID}`,
		`{"pid": PID, "command": "worker:ack", "more": [1, {"a": "b"}]}`,
		`---%0Acommand: worker:ack%0Apid: PID%0A`,       // Psych
		`--- %0Apid: PID%0Acommand: worker:ack%0A`,      // Syck
		`---%0A:command: "worker:ack"%0A:pid: 'PID'%0A`, // symbols, quotes
		`--- {"command":"worker:ack","pid":PID}`,
	} {
		w := einhorned(t, text)
		if m := w.ready(einhornAck); m.PID != w.proc.PID() {
			t.Errorf("sent by %d", m.PID)
		}
		w.says(`0: "" <nil>`) // closed without a reply
		w.end()
		w.close()
		if w.log.String() != "" {
			t.Error(w.log)
		}
	}
}

func TestEinhornsPingIsNeitherReadyNorWrong(t *testing.T) {
	w := einhorned(t, `{"command":"worker:ping","pid":PID,"request_id":"r1"}`, `{"command":"worker:ack","pid":PID}`)
	w.ready(einhornAck)
	w.says("sent")
	if w.log.String() != "" || len(w.box) > 0 {
		t.Error(w.log, len(w.box))
	}
}

func TestWhatIsNoAckIsNotReadyAndSaysWhy(t *testing.T) {
	for text, want := range map[string]string{
		"READY=1":                                 "neither JSON nor YAML with a command",
		"":                                        "neither JSON nor YAML with a command",
		"binary:":                                 "neither JSON nor YAML with a command",
		`{"command":"worker:ack"`:                 "it begins as JSON: unexpected end of JSON input",
		`{"command":"worker:ack"}`:                "worker:ack without a pid",
		`{"command":"worker:ack","pid":-1}`:       "worker:ack without a pid",
		`{"command":"worker:ack","pid":{}}`:       "it begins as JSON: json: cannot unmarshal",
		`--- !ruby/object:Gem%0Aname: x`:          "neither JSON nor YAML with a command",
		`{"command":"upgrade","pid":1}`:           `command \"upgrade\"; baton knows worker:ack and worker:ping`,
		`half:{"command":"worker:ack","pid":PID}`: "bytes without the newline at their end",
		"half:":                               "0 bytes without the newline",
		strings.Repeat("x", maxEinhornLine+1): "a line of more than 4096 bytes",
		"huge:":                               "a line of more than 4096 bytes",
	} {
		w := einhorned(t, text, `{"command":"worker:ack","pid":PID}`)
		w.says("sent")
		w.logs("message to einhorn's socket ignored")
		if w.log.count(want) != 1 || w.log.count("\n") != 1 {
			t.Errorf("log %s, want %s", w.log, want)
		}
		if hint := w.link.Hint(); !strings.HasPrefix(hint, "what it sent to EINHORN_SOCK_PATH was refused: ") {
			t.Errorf("hint %q", hint)
		}
		w.ready(einhornAck) // unharmed
		w.silent()
		w.end()
		w.close()
	}
}

func TestAFloodOnEinhornsSocketFillsNoLog(t *testing.T) {
	w := einhorned(t, append(slices.Repeat([]string{"nonsense"}, 500), `{"command":"worker:ack","pid":PID}`)...)
	begun := time.Now()
	w.ready(einhornAck)
	if lines := w.log.count("\n"); lines == 0 || lines > 1+int(time.Since(begun)/quiet) {
		t.Errorf("%d lines: %s", lines, w.log)
	}
}

func TestAFewConnectionsAtOnceAndNoneForLong(t *testing.T) {
	ack := `{"command":"worker:ack","pid":PID}`
	w := einhorned(t, append(slices.Repeat([]string{"hold:"}, maxEinhornTalks), ack, "await:", ack)...)
	w.logs("too many connections at once")
	w.ready(einhornAck)
	w.says("sent")
	w.silent() // the first was not heard
	if hint := w.link.Hint(); !strings.Contains(hint, "no whole line within 3s") {
		t.Errorf("hint %q", hint)
	}
}

func TestAClosedLinkEndsItsConnections(t *testing.T) {
	w := einhorned(t, "hold:", "await:")
	e := w.link.channels[1].(*einhorn)
	talks := func() int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.talks)
	}
	eventually(t, "the connection is listened to", func() bool { return talks() == 1 })
	begun := time.Now()
	w.close()
	w.says("sent")
	if took := time.Since(begun); took > einhornPatience/2 {
		t.Errorf("ended only after %v", took)
	}
	w.silent()
	if w.log.String() != "" {
		t.Errorf("closing was taken for a fault: %s", w.log)
	}
}

func TestAStrangerOnEinhornsSocketIsIgnored(t *testing.T) {
	w := einhorned(t)
	w.says("sent")
	c, err := net.Dial("unix", w.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, `{"command":"worker:ack","pid":%d}`+"\n", w.proc.PID()) // closed by now is as good
	w.logs("its sender is not of this worker")
	if reply, _ := io.ReadAll(c); len(reply) > 0 {
		t.Errorf("reply %q", reply)
	}
	w.silent()
	if hint := w.link.Hint(); hint != "it sent no worker:ack to EINHORN_SOCK_PATH" {
		t.Errorf("hint %q", hint)
	}
}

// socket is EINHORN_SOCK_PATH.
func (w *crew) socket() string {
	for _, kv := range w.link.Env() {
		if path, ok := strings.CutPrefix(kv, "EINHORN_SOCK_PATH="); ok {
			return path
		}
	}
	return ""
}

// pythonic is a client in Python, as its documentation has it for other languages
// than Ruby.
const pythonic = `
import json, os, socket
assert int(os.environ["EINHORN_MASTER_PID"]) == os.getppid()
assert os.environ["EINHORN_FD_COUNT"] == "2" and os.environ["EINHORN_CHILD_INDEX"] == "2"
web = socket.socket(fileno=int(os.environ["EINHORN_FD_0"]))
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(os.environ["EINHORN_SOCK_PATH"])
s.sendall(json.dumps({"command": "worker:ack", "pid": os.getpid()}).encode() + b"\n")
assert s.recv(1) == b""
c, _ = web.accept()
c.sendall(b"hello")
c.close()
web.accept()
`

func TestAPythonProgramUnderEinhorn(t *testing.T) {
	python := needs(t, "python3")
	sockets := two(t)
	w := crewed(t, einhornOnly, sockets, nil, python, "-c", pythonic)
	w.ready(einhornAck)
	c, err := net.Dial("tcp", sockets[0].Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if answer, err := io.ReadAll(c); err != nil || string(answer) != "hello" {
		t.Errorf("%q %v", answer, err)
	}
}

func TestAWorkerOfAnotherUserReachesEinhornsSocket(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: to become another user")
	}
	setpriv, perl := needs(t, "setpriv"), needs(t, "perl")
	w := crewed(t, einhornOnly, two(t), nil, setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", perl, "-MIO::Socket::UNIX", "-e", `
		my $s = IO::Socket::UNIX->new($ENV{EINHORN_SOCK_PATH}) or die "connect: $!";
		print $s "{\"command\":\"worker:ack\",\"pid\":$$}\n"; $s->flush;
		sleep 60;`)
	w.ready(einhornAck)
}

func TestEinhornsDirectoryLetsNobodyLookAndGoesWithTheHub(t *testing.T) {
	hub := NewHub(HubOptions{})
	c := choose(t, einhornOnly, executable("/srv/app", ""))
	open := func() (*Link, string) {
		l, err := hub.Open(c, &Worker{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return l, (&crew{link: l}).socket()
	}
	first, a := open()
	second, b := open()
	dir := filepath.Dir(a)
	if a == b || filepath.Dir(b) != dir {
		t.Errorf("%s and %s", a, b)
	}
	for path, mode := range map[string]os.FileMode{dir: os.ModeDir | 0o711, a: os.ModeSocket | 0o666} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v %v, want %v", path, info.Mode(), err, mode)
		}
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(a); !os.IsNotExist(err) {
		t.Errorf("a closed link leaves its socket: %v", err)
	}
	// Somebody cleans up in /tmp.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	third, d := open()
	if filepath.Dir(d) == dir {
		t.Error("the same directory again")
	}
	for _, l := range []*Link{second, third, third} {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := hub.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(d)); !os.IsNotExist(err) {
		t.Errorf("a closed hub leaves its directory: %v", err)
	}
}

func TestWhereThereIsNoRoomForEinhornsSocket(t *testing.T) {
	log := &logbook{}
	hub := NewHub(HubOptions{})
	w := &Worker{Sockets: two(t), Log: slog.New(slog.NewTextHandler(log, nil))}
	hub.einhorn.dirs.bases = []string{"/nonexistent"}
	if l, err := hub.Open(choose(t, einhornOnly, executable("/srv/app", "")), w); err == nil || !strings.Contains(err.Error(), "einhorn's socket: ") {
		t.Errorf("configured: %v %v", l, err)
	}
	for range 2 { // taken for one, perhaps: it learns its sockets
		l, err := hub.Open(choose(t, Settings{}, executable("/srv/app", "#!/bin/sh")), w)
		if err != nil {
			t.Fatal(err)
		}
		env := strings.Join(l.Env(), " ")
		if !strings.Contains(env, "EINHORN_FD_1=4") || strings.Contains(env, "EINHORN_MASTER_PID") || strings.Contains(env, "EINHORN_SOCK_PATH") {
			t.Errorf("environment %s", env)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if log.count("no worker:ack is heard") != 1 {
		t.Errorf("log %s", log)
	}
	long := filepath.Join(publicTemp(t), strings.Repeat("long/", 30))
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	hub.einhorn.dirs.bases = nil
	l, err := hub.Open(choose(t, einhornOnly, executable("/srv/app", "")), w)
	if err != nil {
		t.Fatalf("where the path would be too long: %v", err)
	}
	if path := (&crew{link: l}).socket(); len(path) >= 108 { // sun_path, unix(7)
		t.Errorf("no client can connect to %s", path)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := hub.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzEinhorn: no line makes the parser fall; what it takes for a message is one, and
// what it says of others can be shown.
func FuzzEinhorn(f *testing.F) {
	f.Add(`{"command":"worker:ack","pid":1}`)
	f.Add(`---%0A:command: "worker:ping"%0Apid: 12%0A`)
	f.Add("%25%0A---: : \x1b")
	f.Add("command: " + strings.Repeat("x", 4000))
	f.Add(`{"pid":"` + strings.Repeat("x", 4000) + `"}`)
	f.Fuzz(func(t *testing.T, line string) {
		m, err := parseEinhorn(line)
		if err == nil && (m.PID <= 0 || m.Command != "worker:ack" && m.Command != "worker:ping") {
			t.Errorf("%q: %+v", line, m)
		}
		if err != nil && (strings.ContainsFunc(err.Error(), unicode.IsControl) || len(err.Error()) > 2*maxStatus) {
			t.Errorf("%q: error %q", line, err)
		}
	})
}

package protocol

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// succeed has another launcher take the program up, as after an exec.
func (s *stand) succeed(p *program) {
	s.t.Helper()
	still(s.t, p.link)
	e := bequeath(s.t, s.hub, p.link)
	s.hub, p.link = e.inherit(s.t, s.hub.options, p.choice, p.worker)
	p.node = part[*node](p.link)
}

// replace does so with an impostor; whole: as after an exec, else after a kill.
func (s *stand) replace(i *impostor, whole bool, meanwhile ...func()) NodeState {
	s.t.Helper()
	if whole {
		still(s.t, i.link)
	}
	e := bequeath(s.t, s.hub, i.link)
	for _, do := range meanwhile {
		do()
	}
	s.hub, i.link = e.inherit(s.t, s.hub.options, i.choice, i.worker)
	i.node = part[*node](i.link)
	if e.Link.Channels[0].Whole != whole {
		s.t.Errorf("whole %v", !whole)
	}
	return *e.Link.Channels[0].Node
}

func TestANodeProgramDoesNotNoticeItsNextLauncher(t *testing.T) {
	node := needsNode(t)
	one, two := listening(t, "tcp", "127.0.0.1:0"), listening(t, "tcp", "127.0.0.1:0")
	free := listening(t, "tcp", "127.0.0.1:0")
	admin := free.port(t)
	unix.Close(free.FD) // its number is free from now on, as good as certainly
	opened := newOpener(t)
	s := newStand(t, HubOptions{Listen: opened.listen}, one, two)
	p := s.start(nil, node, script(t, "steps.js", fmt.Sprintf(`
const http = require('http');
const second = http.createServer((request, response) => response.end('{"url":"second"}'));
http.createServer((request, response) => {
  if (request.url === '/listen') return second.listen(%d, () => response.end('{"url":"listens"}'));
  if (request.url === '/close') return second.close(() => response.end('{"url":"closed"}'));
  response.end('{"url":"first"}');
}).listen(%d, () => require('net').createServer().listen(%d, () => process.send('ready')));
process.on('disconnect', () => console.log('disconnected'));
`, two.port(t), one.port(t), admin))).ready()
	for range 3 {
		s.succeed(p)
		for path, want := range map[string]string{"/": "first", "/listen": "listens"} {
			if a := get(t, "tcp", one.Address, path); a.URL != want {
				t.Errorf("%s: %+v", path, a)
			}
		}
		s.succeed(p)
		if a := get(t, "tcp", two.Address, "/"); a.URL != "second" {
			t.Errorf("the second: %+v", a)
		}
		if a := get(t, "tcp", one.Address, "/close"); a.URL != "closed" {
			t.Errorf("closing: %+v", a)
		}
		eventually(t, "the second to be given back", func() bool {
			p.node.mu.Lock()
			defer p.node.mu.Unlock()
			return len(p.node.lent) == 2
		})
	}
	if hint := p.link.Hint(); hint != "" {
		t.Errorf("hint %q", hint)
	}
	if p.out.count("disconnected") > 0 || s.log.count("WARN") != 1 { // that the admin's address is no listener: once
		t.Errorf("output %s, log %s", p.out, s.log)
	}
	// Each launcher has asked for the address that is no listener, and the last gives it back.
	if asked := opened.list(); len(asked) != 7 {
		t.Errorf("asked %q", asked)
	}
	within(t, "drained", p.link.Drain())
	within(t, "exit", p.exited)
	p.says("disconnected")
	if given := opened.given(); len(given) != 1 {
		t.Errorf("given back %q", given)
	}
}

func TestADrainIsNotBegunTwice(t *testing.T) {
	needsNode(t)
	for name, env := range map[string][]string{"by disconnect": nil, "by the program": {"ON=shutdown"}} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
			p := s.shop(t, env...)
			busy, release := keepAlive(t, s.sockets[0].Address, nil), keepAlive(t, s.sockets[0].Address, nil)
			release.get(t, "/")
			if err := busy.ask("/hold"); err != nil {
				t.Fatal(err)
			}
			p.link.Drain()
			s.succeed(p) // at once: it may not have been told yet
			p.closes()
			s.succeed(p)
			drained := p.link.Drain()
			if drained == nil {
				t.Fatal("the drain was forgotten")
			}
			if p.link.Drain() != nil {
				t.Error("drained twice")
			}
			select {
			case <-drained:
				t.Error("drained with a request in flight")
			default:
			}
			release.get(t, "/release")
			if last, err := busy.hear(); err != nil || !last {
				t.Errorf("in flight: last %v, %v", last, err)
			}
			within(t, "drained", drained)
			if env != nil {
				within(t, "exit", p.exited)
				if n := p.out.count("shutdown"); n != 1 {
					t.Errorf("it was told %d times", n)
				}
			}
			// One that is drained stays so.
			s.succeed(p)
			within(t, "drained", p.link.Drain())
		})
	}
}

func TestADrainGoesOnWhereItWas(t *testing.T) {
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	s.settings.NodePreload = false
	i := s.impostor()
	i.write(online, query(web.port(t), 1))
	i.hears()
	i.write(`{"cmd":"NODE_HANDLE_ACK"}`)
	i.link.Drain()
	if m := i.hears(); m.Cmd != "shutdown" {
		t.Fatalf("%+v", m)
	}
	if state := s.replace(i, true); state.Phase != int(phaseAsked) {
		t.Errorf("kept %+v", state)
	}
	if m := i.hears(); m.Act != "disconnect" {
		t.Fatalf("after \"shutdown\": %+v", m)
	}
	for _, whole := range []bool{true, false} {
		s.replace(i, whole)
		i.write(query(web.port(t), 2))
		if m := i.hears(); m.Ack == nil || *m.Ack != 2 {
			t.Fatalf("after the end was asked for: %+v", m)
		}
	}
}

func TestTheNextLauncherHearsTheRestOfAMessage(t *testing.T) {
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	i := s.impostor()
	question := query(web.port(t), 7)
	if _, err := i.conn.Write([]byte(online + "\n" + question[:30])); err != nil {
		t.Fatal(err)
	}
	i.heard(online)
	state := s.replace(i, true, func() { i.write(question[30:]) })
	if string(state.Rest) != question[:30] || !state.Story.Online {
		t.Errorf("kept %+v", state)
	}
	if m := i.hears(); m.Msg == nil || *m.Msg.Ack != 7 || len(i.fds) != 1 {
		t.Errorf("%+v", m)
	}
	i.write(`{"cmd":"NODE_HANDLE_ACK"}`, query(web.port(t), 8))
	if m := i.hears(); m.Ack == nil || *m.Errno != -int(unix.EADDRINUSE) {
		t.Errorf("what it has is given once more: %+v", m)
	}
}

// heard waits until all that was written was read, and a message among it was obeyed.
func (i *impostor) heard(string) {
	i.t.Helper()
	eventually(i.t, "the message to be heard", func() bool {
		i.node.mu.Lock()
		defer i.node.mu.Unlock()
		return i.node.story.online && unreadOf(i.t, i.node.conn) == 0
	})
}

// A launcher that was killed has read what nobody knows: half a message is passed over,
// and no key is given that it may have given.
func TestAfterAKillHalfAMessageIsPassedOver(t *testing.T) {
	one, two := listening(t, "tcp", "127.0.0.1:0"), listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, one, two)
	i := s.impostor()
	i.write(online, query(one.port(t), 1))
	first := i.hears().Msg.Key
	i.write(`{"cmd":"NODE_HANDLE_ACK"}`)
	if _, err := i.conn.Write([]byte(query(two.port(t), 2)[:30])); err != nil {
		t.Fatal(err)
	}
	i.heard(online)
	s.replace(i, false, func() { i.write(query(two.port(t), 2)[30:], query(two.port(t), 3)) })
	m := i.hears()
	if m.Msg == nil || *m.Msg.Ack != 3 || len(i.fds) != 1 {
		t.Fatalf("%+v", m)
	}
	if m.Msg.Key == first || m.Msg.Key == "baton:2" {
		t.Errorf("key %q may be given twice", m.Msg.Key)
	}
	if s.log.String() != "" {
		t.Error(s.log)
	}
	i.write(`{"cmd":"NODE_HANDLE_ACK"}`, "garbage", query(one.port(t), 4))
	if m := i.hears(); *m.Errno != -int(unix.EADDRINUSE) || s.log.count("node message ignored") != 1 {
		t.Errorf("%+v, %s", m, s.log)
	}
}

// Whoever stores states must hear of what a channel does by itself.
func TestAChannelTellsThatItsStateHasChanged(t *testing.T) {
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	s.settings.NodePreload = false
	i := s.impostor()
	changed := make(chan bool, 64)
	i.worker.Changed = func() { changed <- true }
	s.replace(i, true)
	next := func(what string, is func(*NodeState) bool) {
		t.Helper()
		for known := false; !known; { // it may be another one before
			within(t, what, changed)
			known = is(i.link.Keep("w1", &keep.Files{}).Channels[0].Node)
		}
	}
	i.write(online)
	next("that it is online", func(s *NodeState) bool { return s.Story.Online })
	i.write(query(web.port(t), 1))
	next("that it has a socket", func(s *NodeState) bool { return len(s.Lent) == 1 })
	i.hears()
	i.write(`{"cmd":"NODE_HANDLE_ACK"}`)
	i.link.Drain()
	next("that it was told to end", func(s *NodeState) bool { return s.Phase == int(phaseAsked) })
	next("that it was disconnected", func(s *NodeState) bool { return s.Phase == int(phaseOver) })
	i.write(`{"cmd":"NODE_CLUSTER","act":"close","key":"baton:1"}`)
	next("that it gave the socket back", func(s *NodeState) bool { return len(s.Lent) == 0 })
}

func TestASocketUnderWayArrivesFromTheNextLauncher(t *testing.T) {
	one, two := listening(t, "tcp", "127.0.0.1:0"), listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, one, two)
	i := s.impostor()
	i.write(online, query(one.port(t), 1), query(two.port(t), 2))
	if m := i.hears(); m.Msg == nil || *m.Msg.Ack != 1 {
		t.Fatalf("%+v", m)
	}
	i.heard(online)
	state := s.replace(i, true)
	if state.Flying == nil || len(state.Parcels) != 1 || len(state.Lent) != 2 {
		t.Errorf("kept %+v", state)
	}
	i.write(`{"cmd":"NODE_HANDLE_NACK"}`)
	m := i.hears()
	if m.Msg == nil || *m.Msg.Ack != 1 || len(i.fds) != 1 || !isSocket(t, i.fds[0], one) {
		t.Fatalf("not sent again: %+v", m)
	}
	s.replace(i, true)
	i.write(`{"cmd":"NODE_HANDLE_ACK"}`)
	if m := i.hears(); m.Msg == nil || *m.Msg.Ack != 2 || len(i.fds) != 1 || !isSocket(t, i.fds[0], two) {
		t.Fatalf("%+v", m)
	}
	for range nodeTries - 1 {
		s.replace(i, true)
		i.write(`{"cmd":"NODE_HANDLE_NACK"}`)
		i.hears()
	}
	s.replace(i, true)
	i.write(`{"cmd":"NODE_HANDLE_NACK"}`)
	if m := i.hears(); *m.Ack != 2 || *m.Errno != -int(unix.EBADF) || len(i.fds) != 0 {
		t.Errorf("sent too often: %+v", m)
	}
}

func isSocket(t *testing.T, fd int, s Socket) bool {
	t.Helper()
	k := nodeSocket{own: fd}
	k.look()
	return k.bound.String() == s.Address
}

// Of what a worker has not read there is as much as a pipe holds, and half a message.
func TestNoMessageIsLostOrDoubledByANextLauncher(t *testing.T) {
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	i := s.impostor()
	const questions = 600
	written := make(chan error, 1)
	go func() { // ends when all was read by launchers
		var lines strings.Builder
		for k := range questions { // an answer to each, and more than a kilobyte of it
			data := `"data":"` + strings.Repeat("x", maxNodeField-10) + `"`
			lines.WriteString(strings.Replace(query(1, k), `"data":null`, data, 1) + "\n")
		}
		_, err := i.conn.Write([]byte(lines.String()))
		written <- err
	}()
	eventually(t, "the launcher to be stuck", func() bool {
		i.node.mu.Lock()
		defer i.node.mu.Unlock()
		return len(i.node.out.plain) >= maxNodeQueue
	})
	state := s.replace(i, true)
	if len(state.Plain) < maxNodeQueue || len(state.Half) == 0 {
		t.Errorf("%d messages and %d bytes are left: the test shows too little", len(state.Plain), len(state.Half))
	}
	for k := range questions {
		if k%50 == 0 {
			s.replace(i, true)
		}
		if m := i.hears(); m.Ack == nil || *m.Ack != int64(k) {
			t.Fatalf("answer %d is %+v", k, m)
		}
	}
	if err := within(t, "all to be asked", written); err != nil {
		t.Error(err)
	}
}

func TestAChannelThatIsLostHasEnded(t *testing.T) {
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	i := s.impostor()
	i.write(online)
	i.heard(online)
	e := bequeath(t, s.hub, i.link)
	e.files.Close()
	hub, err := ResumeHub(s.hub.options, e.Hub, "hub", e.files)
	if err != nil {
		t.Fatal(err)
	}
	link, err := hub.Resume(i.choice, i.worker, e.Link, "w1", e.files)
	if !errors.Is(err, keep.ErrMissing) || link == nil {
		t.Fatalf("%v, %v", link, err)
	}
	s.hub, i.link = hub, link
	if link.Drain() != nil {
		t.Error("it can be drained")
	}
	still(t, link)
	if s := link.Keep("w1", &keep.Files{}); !s.Channels[0].Node.Ended {
		t.Errorf("kept %+v", s)
	}
	link.Unpause()
}

func TestWhatTheHubKnowsIsKept(t *testing.T) {
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	keys := `{"ticketKeys":"` + strings.Repeat("0a", 48) + `"}`
	s.hub.node.shared("tcp :1", []byte(keys))
	s.hub.node.first("a line")
	old := s.hub.node.nextID()
	path := strings.TrimPrefix(s.hub.node.nodeOptions(nil, s.hub.options.Log)[0], "NODE_OPTIONS=--require=")
	i := s.impostor()
	i.write(online)
	i.heard(online)
	s.replace(i, true)
	other := strings.Replace(keys, "0a", "ff", 1)
	if got := s.hub.node.shared("tcp :1", []byte(other)); string(got) != keys {
		t.Errorf("shared data %s", got)
	}
	if s.hub.node.first("a line") {
		t.Error("it is said again")
	}
	if n := s.hub.node.nextID(); n != old+2 { // the impostor's lies between
		t.Errorf("number %d after %d", n, old)
	}
	if got := s.hub.node.nodeOptions(nil, s.hub.options.Log); got[0] != "NODE_OPTIONS=--require="+path {
		t.Errorf("the preload has moved to %s", got)
	}
	// A launcher with another preload leaves this one to the workers that have it.
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("// another version's"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.replace(i, true)
	got := s.hub.node.nodeOptions(nil, s.hub.options.Log)
	if got[0] == "NODE_OPTIONS=--require="+path {
		t.Error("another version's preload is used")
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("it is gone: %v", err)
	}
	if err := s.hub.Close(); err != nil {
		t.Error(err)
	}
	for _, p := range []string{path, strings.TrimPrefix(got[0], "NODE_OPTIONS=--require=")} {
		if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", p, err)
		}
	}
}

func TestADirectoryThatIsGoneIsForgotten(t *testing.T) {
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	path := strings.TrimPrefix(s.hub.node.nodeOptions(nil, s.hub.options.Log)[0], "NODE_OPTIONS=--require=")
	i := s.impostor()
	e := bequeath(t, s.hub, i.link)
	e.files.Close()
	dir := path[:strings.LastIndexByte(path, '/')]
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o750); err != nil { // another's: its inode may be the same
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	hub, err := ResumeHub(s.hub.options, e.Hub, "hub", e.files)
	if err != nil {
		t.Fatal(err)
	}
	s.hub = hub
	if got := hub.node.nodeOptions(nil, s.hub.options.Log); strings.Contains(got[0], dir+"/") {
		t.Errorf("another's directory is used: %s", got)
	}
}

func BenchmarkKeepLink(b *testing.B) {
	hub := NewHub(HubOptions{})
	l, err := hub.Open(&Choice{Kinds: []Kind{KindSystemd, KindNode}}, &Worker{On: func(Message) {}})
	if err != nil {
		b.Fatal(err)
	}
	l.Started()
	for b.Loop() {
		var f keep.Files
		l.Keep("w1", &f)
	}
	if err := l.Close(); err != nil {
		b.Error(err)
	}
}

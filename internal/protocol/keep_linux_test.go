package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// estate is what a launcher leaves behind of one worker, and of what all share.
type estate struct {
	Hub  HubState
	Link LinkState

	files *keep.Files
}

// bequeath takes the state of a hub and a link by way of JSON, and duplicates of their
// descriptors; after that both are gone, in the way of a launcher that is.
func bequeath(t *testing.T, h *Hub, l *Link) (e estate) {
	t.Helper()
	var old keep.Files
	text, err := json.Marshal(estate{Hub: h.Keep("hub", &old), Link: l.Keep("w1", &old)})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	old.Each(func(name string, _ int) {
		if !keep.Valid(name) {
			t.Errorf("systemd does not keep the name %q", name)
		}
	})
	if e.files, err = old.Dup(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.files.Close() })
	l.drop()
	h.drop()
	return e
}

// inherit makes both again.
func (e estate) inherit(t *testing.T, o HubOptions, c *Choice, w *Worker) (*Hub, *Link) {
	t.Helper()
	h, err := ResumeHub(o, e.Hub, "hub", e.files)
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.Resume(c, w, e.Link, "w1", e.files)
	if err != nil {
		t.Fatal(err)
	}
	if e.files.Len() > 0 {
		e.files.Each(func(name string, _ int) { t.Errorf("nobody has taken %q", name) })
	}
	return h, l
}

// part is the channel of that type.
func part[T channel](l *Link) (found T) {
	for _, c := range l.channels {
		if c, ok := c.(T); ok {
			return c
		}
	}
	return found
}

func still(t *testing.T, l *Link) {
	t.Helper()
	if err := l.Pause(); err != nil {
		t.Fatal(err)
	}
}

// succeed has another launcher take the worker up, as after an exec.
func (w *crew) succeed() {
	w.t.Helper()
	still(w.t, w.link)
	e := bequeath(w.t, w.hub, w.link)
	for _, c := range e.Link.Channels {
		if !c.Whole {
			w.t.Errorf("%s's state is not whole", c.Kind)
		}
	}
	w.hub, w.link = e.inherit(w.t, w.hub.options, w.choice, w.worker)
}

// sends sends a datagram of this process to a notify socket.
func sends(t *testing.T, env []string, text string) error {
	t.Helper()
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: lookup(env, "NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(text))
	return err
}

// notified is a worker that this process itself is.
func notified(t *testing.T) (w *crew, send func(text string) error) {
	t.Helper()
	w = unstarted(t, Settings{}, two(t))
	w.worker.Member = func(pid int) bool { return pid == os.Getpid() }
	w.succeed() // the new one has the other Member
	env := w.link.Env()
	if env != nil {
		t.Errorf("a worker that runs is given %q", env)
	}
	env = []string{part[*systemd](w.link).notify.Env()}
	return w, func(text string) error { return sends(t, env, text) }
}

func (w *crew) status(want string) {
	w.t.Helper()
	if m := w.box.next(w.t); m.Status != want || m.PID != os.Getpid() {
		w.t.Errorf("message %+v, want status %q", m, want)
	}
}

func TestANotifySocketIsReadOn(t *testing.T) {
	w, send := notified(t)
	say := func(text string) {
		t.Helper()
		if err := send("STATUS=" + text); err != nil {
			t.Fatal(err)
		}
	}
	say("before")
	w.status("before")
	still(t, w.link)
	say("queued")
	say("queued too")
	w.silent()
	e := bequeath(t, w.hub, w.link)
	say("to nobody yet")
	w.hub, w.link = e.inherit(t, w.hub.options, w.choice, w.worker)
	for _, want := range []string{"queued", "queued too", "to nobody yet"} {
		w.status(want)
	}
	say("after")
	w.status("after")
	w.close()
	if err := send("STATUS=refused"); err == nil {
		t.Error("the socket outlives its link")
	}
}

func TestUnpauseReadsOn(t *testing.T) {
	w, send := notified(t)
	for range 3 {
		still(t, w.link)
		still(t, w.link) // again does nothing
		if err := send("STATUS=x"); err != nil {
			t.Fatal(err)
		}
		if n := unreadOf(t, part[*systemd](w.link).notify.conn); n == 0 {
			t.Error("it was read while all stood still")
		}
		w.silent()
		w.link.Unpause()
		w.status("x")
	}
	still(t, w.link) // and Close ends it
}

func unreadOf(t *testing.T, c *net.UnixConn) (n int) {
	t.Helper()
	number(c, func(fd int) {
		var err error
		if n, err = unix.IoctlGetInt(fd, unix.TIOCINQ); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Pause waits for who is told something, but not for ever.
func TestAPauseEnds(t *testing.T) {
	w, send := notified(t)
	hold, told := make(chan struct{}), make(chan struct{}, 1)
	w.worker.On = func(Message) { told <- struct{}{}; <-hold }
	w.succeed()
	if err := send("STATUS=x"); err != nil {
		t.Fatal(err)
	}
	within(t, "the message", told)
	begun := time.Now()
	if err := w.link.Pause(); err == nil || !strings.Contains(err.Error(), "systemd's channel does not stand still") {
		t.Error(err)
	}
	if took := time.Since(begun); took < pauseLimit || took > pauseLimit+time.Minute/2 {
		t.Errorf("it took %v", took)
	}
	w.link.Unpause()
	close(hold)
	if err := send("STATUS=y"); err != nil {
		t.Fatal(err)
	}
	within(t, "another message", told)
}

// Without a store the name is all that is left, and workers have it in their environment.
func TestANotifySocketThatIsLostIsMadeAgain(t *testing.T) {
	w, send := notified(t)
	e := bequeath(t, w.hub, w.link)
	e.files.Close()
	hub, err := ResumeHub(w.hub.options, e.Hub, "hub", e.files)
	if err != nil {
		t.Fatal(err)
	}
	link, err := hub.Resume(w.choice, w.worker, e.Link, "w1", e.files)
	if !errors.Is(err, keep.ErrMissing) || link == nil {
		t.Fatalf("%v, %v", link, err)
	}
	w.hub, w.link = hub, link
	if err := send("STATUS=again"); err != nil {
		t.Fatal(err)
	}
	w.status("again")
}

func TestAnS6NewlineIsHeardByTheNextLauncher(t *testing.T) {
	now := filepath.Join(t.TempDir(), "now")
	w := crewed(t, newline(7), two(t), nil, "sh", "-c",
		fmt.Sprintf(`printf starting >&7; until [ -e %s ]; do sleep 0.01; done; printf '\nmore' >&7; exec 7>&-; exec sleep 60`, now))
	eventually(t, "its first words", func() bool { return w.link.Hint() != "" })
	hint := w.link.Hint()
	w.succeed()
	if got := w.link.Hint(); got != hint {
		t.Errorf("hint %q, want %q", got, hint)
	}
	s := part[*s6](w.link)
	if s.total != len("starting") {
		t.Errorf("%d bytes were read", s.total)
	}
	if err := os.WriteFile(now, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.ready("a newline on descriptor 7")
	w.succeed() // of one that has ended
	w.silent()
}

func TestATableflipProgramDoesNotNoticeItsNextLauncher(t *testing.T) {
	sockets := two(t)
	w := flipped(t, sockets, "tcp "+sockets[0].Address)
	w.ready(flipReady)
	w.says("the parent lives")
	w.succeed()
	w.succeed()
	s := w.link.Keep("w1", &keep.Files{}).Channels[0].Tableflip
	if s == nil || s.Hung || s.Lonely || !s.Told || w.out.count("the parent is gone") > 0 {
		t.Errorf("to the worker its parent is gone: %+v", s)
	}
	w.link.Alone()
	w.says("the parent is gone <nil>")
	w.succeed()
	w.link.Alone()
}

// The names may not fit into the pipe, and the byte may not have come.
func TestATableflipProgramIsToldTheRestByTheNextLauncher(t *testing.T) {
	w := unstarted(t, flip, two(t))
	f := part[*flipper](w.link)
	namesR, err := unix.Dup(f.lent[1].number())
	if err != nil {
		t.Fatal(err)
	}
	readyW, err := unix.Dup(f.lent[0].number())
	if err != nil {
		t.Fatal(err)
	}
	names, ready := os.NewFile(uintptr(namesR), "names"), os.NewFile(uintptr(readyW), "ready")
	defer names.Close()
	defer ready.Close()
	w.link.Started()
	eventually(t, "the names", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.told })
	// As with more names than a pipe holds: some of them are not written.
	still(t, w.link)
	f.mu.Lock()
	f.told, f.rest = false, []byte("the rest of the names")
	f.mu.Unlock()
	e := bequeath(t, w.hub, w.link)
	if s := e.Link.Channels[0].Tableflip; s == nil || string(s.Rest) != "the rest of the names" {
		t.Errorf("kept %+v", e.Link)
	}
	if _, err := ready.Write([]byte{tableflipReady}); err != nil {
		t.Fatal(err)
	}
	w.hub, w.link = e.inherit(t, w.hub.options, w.choice, w.worker)
	w.ready(flipReady)
	w.link.Alone()
	text, err := readAll(names)
	if err != nil || !strings.HasSuffix(text, "the rest of the names") {
		t.Errorf("%q, %v", text, err)
	}
}

func readAll(f *os.File) (string, error) {
	var b strings.Builder
	_, err := f.WriteTo(&b)
	return b.String(), err
}

func TestEinhornsSocketIsListenedToByTheNextLauncher(t *testing.T) {
	w := unstarted(t, einhornOnly, two(t))
	w.worker.Member = func(pid int) bool { return pid == os.Getpid() }
	w.succeed()
	path := part[*einhorn](w.link).listener.path
	dial := func() *net.UnixConn {
		t.Helper()
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	write := func(c *net.UnixConn, text string) {
		t.Helper()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	half := dial()
	write(half, `{"command":"worker:a`)
	e := part[*einhorn](w.link)
	eventually(t, "half a line", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		for talk := range e.talks {
			return unreadOf(t, talk.conn) == 0
		}
		return false
	})
	still(t, w.link)
	queued := dial()
	write(queued, "---%0Acommand: worker:ack%0Apid: 1%0A\n")
	estate := bequeath(t, w.hub, w.link)
	if talks := estate.Link.Channels[1].Einhorn.Talks; len(talks) != 1 || string(talks[0].Read) != `{"command":"worker:a` {
		t.Errorf("connections that are kept: %+v", talks)
	}
	w.hub, w.link = estate.inherit(t, w.hub.options, w.choice, w.worker)
	w.ready(einhornAck)
	write(half, `ck","pid":1}`+"\n")
	w.ready(einhornAck)
	if w.log.String() != "" {
		t.Error(w.log)
	}
	// Its file and the directory are the next launcher's to remove.
	w.close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", path, err)
	}
	if err := w.hub.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", filepath.Dir(path), err)
	}
}

func TestALinkOfVariablesAloneHasNothingToKeep(t *testing.T) {
	w := unstarted(t, Settings{Kinds: []Kind{KindServerStarter, KindSocketmaster, KindEndless}}, two(t))
	w.succeed()
	var f keep.Files
	s := w.link.Keep("w1", &f)
	if f.Len() != 1 || !f.Has("w1.systemd.socket") || len(s.Channels) != 4 {
		t.Errorf("%d descriptors, %+v", f.Len(), s)
	}
}

func TestStatesOfLinksThatCannotBeTakenUp(t *testing.T) {
	before := openFDs(t)
	hub := NewHub(HubOptions{})
	null := func() int {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	stream := func() int {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(pair[1]) // only one is needed
		return pair[0]
	}
	for _, test := range []struct {
		channel ChannelState
		name    string
		fd      func() int
		want    string
	}{
		{ChannelState{Kind: "pigeons"}, "", nil, `"pigeons"`},
		{ChannelState{Kind: KindSystemd}, "", nil, "is none of ours"},
		{ChannelState{Kind: KindSystemd, Notify: &NotifyState{Name: "@other"}}, "", nil, "is none of ours"},
		{ChannelState{Kind: KindSystemd, Notify: &NotifyState{Name: "@baton/notify/x"}}, "socket", null, "descriptor"},
		{ChannelState{Kind: KindSystemd, Notify: &NotifyState{Name: "@baton/notify/x"}}, "socket", stream, "another kind of socket"},
		{ChannelState{Kind: KindS6, S6: &S6State{FD: 7}}, "pipe", null, "not that end of a pipe"},
		{ChannelState{Kind: KindTableflip, Tableflip: &TableflipState{Ready: true}}, "names", null, "not that end of a pipe"},
		{ChannelState{Kind: KindEinhorn, Einhorn: &EinhornState{Path: "/x/1"}}, "socket", stream, "another kind of socket"},
		{ChannelState{Kind: KindNode, Node: &NodeState{}}, "channel", null, "descriptor"},
	} {
		var f keep.Files
		if test.fd != nil {
			f.Put("w1."+string(test.channel.Kind)+"."+test.name, test.fd())
		}
		l, err := hub.Resume(&Choice{}, &Worker{}, LinkState{Channels: []ChannelState{test.channel}}, "w1", &f)
		if l != nil || err == nil || errors.Is(err, keep.ErrMissing) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.channel, err, test.want)
		}
	}
	eventually(t, "as many descriptors as before", func() bool { return openFDs(t) <= before })
}

// FuzzResumeLink: of whatever is left of a state, a link can be made that can be
// paused, kept and closed, or an error says why not.
func FuzzResumeLink(f *testing.F) {
	for _, seed := range []string{
		`{"channels":[{"kind":"s6"},{"kind":"tableflip","tableflip":{"rest":"YQ==","told":false}},{"kind":"einhorn","einhorn":{"path":"/x/1","talks":[{"pid":1}]}}]}`,
		`{"channels":[{"kind":"node","whole":true,"node":{"lent":[{"key":"a","socket":0},{"key":"b","socket":9},{"key":"c","socket":-1}],"flying":{"key":"a","line":"e30K"},"parcels":[{"key":"b","refuse":"e30K"}],"plain":["YQ==",null],"rest":"YQ==","draining":true,"phase":9}}]}`,
		`{"channels":[{"kind":"systemd","notify":{"name":"@baton/notify/f"}},{"kind":"endless"}]}`,
	} {
		f.Add(seed, `{"einhorn":{"dirs":[{"path":"/nowhere","names":["../a"]}],"now":true},"node_data":{"a":null},"node_told":["x"]}`)
	}
	f.Fuzz(func(t *testing.T, link, hub string) {
		var ls LinkState
		var hs HubState
		if json.Unmarshal([]byte(link), &ls) != nil || json.Unmarshal([]byte(hub), &hs) != nil {
			return
		}
		log := &logbook{}
		h, err := ResumeHub(HubOptions{Log: slog.New(slog.NewTextHandler(log, nil))}, hs, "hub", &keep.Files{})
		if err != nil {
			return
		}
		files := &keep.Files{}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		files.Put("w1.node.channel", pair[0])
		defer files.Close()
		l, err := h.Resume(&Choice{}, &Worker{On: func(Message) {}, Member: func(int) bool { return false }, Log: slog.New(slog.NewTextHandler(log, nil)),
			Sockets: []Socket{{Name: "a", Network: "tcp", FD: -1}}}, ls, "w1", files)
		if err != nil && !errors.Is(err, keep.ErrMissing) {
			return
		}
		if err := l.Pause(); err != nil {
			t.Error(err)
		}
		l.Keep("w1", &keep.Files{})
		h.Keep("hub", &keep.Files{})
		l.Drain()
		l.Alone()
		l.Hint()
		l.Unpause()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		h.drop() // a state of chance must remove nothing
	})
}

package protocol

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// kept is a client's connection that is kept alive, without any retry.
type kept struct {
	net.Conn
	in *bufio.Reader
}

func connect(address string, config *tls.Config) (*kept, error) {
	c, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return nil, err
	}
	if config != nil {
		c = tls.Client(c, config)
	}
	return &kept{c, bufio.NewReader(c)}, c.SetDeadline(time.Now().Add(time.Minute))
}

func keepAlive(t *testing.T, address string, config *tls.Config) *kept {
	t.Helper()
	k, err := connect(address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func (k *kept) ask(path string) error {
	_, err := fmt.Fprintf(k, "GET %s HTTP/1.1\r\nHost: server\r\n\r\n", path)
	return err
}

// hear reads one response; last: the server will close the connection.
func (k *kept) hear() (last bool, err error) {
	response, err := http.ReadResponse(k.in, nil)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return false, err
	}
	if response.StatusCode != http.StatusOK {
		return false, fmt.Errorf("status %d", response.StatusCode)
	}
	return response.Close, nil
}

func (k *kept) get(t *testing.T, path string) (last bool) {
	t.Helper()
	if err := k.ask(path); err != nil {
		t.Fatal(err)
	}
	last, err := k.hear()
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// over waits for the server's end of the connection.
func (k *kept) over(t *testing.T) {
	t.Helper()
	if b, err := k.in.ReadByte(); err != io.EOF {
		t.Errorf("byte %d, %v; want the end of the connection", b, err)
	}
}

// shop starts shop.js.
func (s *stand) shop(t *testing.T, env ...string) *program {
	t.Helper()
	return s.start(append(env, port(s.sockets[0].port(t))), needsNode(t), "testdata/node/shop.js").ready()
}

// closes waits until node has closed all its servers.
func (p *program) closes() {
	p.t.Helper()
	eventually(p.t, "the servers to be closed", func() bool {
		p.node.mu.Lock()
		defer p.node.mu.Unlock()
		return len(p.node.lent) == 0
	})
}

func TestADrainEndsEachConnectionPolitely(t *testing.T) {
	needsNode(t)
	cert, key := certificate(t)
	secure := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // who it is does not matter here
	for name, c := range map[string]struct {
		env    []string
		config *tls.Config
		exits  bool
	}{
		"by disconnect":           {},
		"by the program":          {env: []string{"ON=shutdown"}, exits: true},
		"by disconnect, https":    {env: []string{"MODULE=https", "CERT=" + cert, "KEY=" + key}, config: secure},
		"by the program, https":   {env: []string{"ON=shutdown", "MODULE=https", "CERT=" + cert, "KEY=" + key}, config: secure, exits: true},
		"of messages that differ": {env: []string{"ON=other"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
			p := s.shop(t, c.env...)
			at := s.sockets[0].Address
			idle, busy, set := keepAlive(t, at, c.config), keepAlive(t, at, c.config), keepAlive(t, at, c.config)
			object, array, reason := keepAlive(t, at, c.config), keepAlive(t, at, c.config), keepAlive(t, at, c.config)
			release := keepAlive(t, at, c.config)
			for _, k := range []*kept{idle, busy, set, object, array, reason, release} {
				if k.get(t, "/") {
					t.Fatal("closed before the drain")
				}
			}
			if err := busy.ask("/hold"); err != nil {
				t.Fatal(err)
			}
			drained := p.link.Drain()
			if p.link.Drain() != nil {
				t.Error("drained twice")
			}
			p.closes()
			for path, k := range map[string]*kept{"/": idle, "/set": set, "/object": object, "/array": array, "/reason": reason} {
				if !k.get(t, path) {
					t.Errorf("%s: kept alive", path)
				}
				k.over(t)
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
			if c.exits {
				within(t, "exit", p.exited)
				p.says("shutdown")
				return
			}
			if p.out.count("exits") != 0 {
				t.Errorf("the program has ended: %s", p.out)
			}
			if name == "of messages that differ" {
				p.says("message shutdown")
			}
		})
	}
}

// unread, silent and upgraded connections
func TestADrainWaitsForThoseWhoAreSilent(t *testing.T) {
	needsNode(t)
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	p := s.shop(t)
	at := s.sockets[0].Address
	spare, never := keepAlive(t, at, nil), keepAlive(t, at, nil) // not a byte yet
	idle, socket, slow := keepAlive(t, at, nil), keepAlive(t, at, nil), keepAlive(t, at, nil)
	idle.get(t, "/")
	slow.get(t, "/")
	if _, err := fmt.Fprint(socket, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(socket.in, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", response, err)
	}
	response.Body.Close()
	begun := time.Now()
	drained := p.link.Drain()
	p.closes()
	if !spare.get(t, "/") {
		t.Error("a connection that was open before is kept alive")
	}
	if _, err := fmt.Fprint(slow, "GET / HT"); err != nil { // half a request
		t.Fatal(err)
	}
	idle.over(t)
	never.over(t)
	if took := time.Since(begun); took < 4*time.Second || took > 9*time.Second {
		t.Errorf("silent connections ended after %v", took)
	}
	if _, err := fmt.Fprint(slow, "TP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if last, err := slow.hear(); err != nil || !last {
		t.Errorf("a request that took its time: last %v, %v", last, err)
	}
	if _, err := fmt.Fprint(socket, "still here\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := socket.in.ReadString('\n'); line != "still here\n" {
		t.Errorf("%q, %v", line, err)
	}
	select {
	case <-drained:
		t.Error("drained with an upgraded connection")
	default:
	}
	socket.Close()
	within(t, "drained", drained)
}

func TestWithoutThePreloadADrainStillEnds(t *testing.T) {
	needsNode(t)
	start := func(t *testing.T, on string) *program {
		t.Helper()
		s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
		s.settings.NodePreload = false
		p := s.shop(t, "ON="+on)
		if get := p.link.Env(); strings.Contains(fmt.Sprint(get), "NODE_OPTIONS") {
			t.Errorf("environment %q", get)
		}
		within(t, "drained", p.link.Drain())
		return p
	}
	for _, on := range []string{"other", ""} {
		t.Run("on "+on, func(t *testing.T) {
			p := start(t, on)
			p.says("disconnects") // after the time that the message has to act
			if on == "other" {
				p.says("message shutdown")
			}
			if p.out.count("exits") != 0 {
				t.Errorf("the program has ended: %s", p.out)
			}
		})
	}
	// Who knows the message ends by itself, and is not disconnected; unless it was held
	// up for longer than nodeShutdown, as on a busy machine it may be.
	t.Run("on shutdown", func(t *testing.T) {
		alone := false
		for range 5 {
			p := start(t, "shutdown")
			within(t, "exit", p.exited)
			p.says("shutdown")
			if alone = p.out.count("disconnects") == 0; alone {
				break
			}
		}
		if !alone {
			t.Error("it was disconnected each time, though it closes its server on the message")
		}
	})
}

func TestKeepAliveClientsWithoutRetryLoseNothing(t *testing.T) {
	needsNode(t)
	var target atomic.Pointer[string]
	lost, answered, moved := make(chan error, 64), atomic.Int64{}, atomic.Int64{}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	defer clients.Wait()
	client := func(pause time.Duration) {
		var k *kept
		for {
			select {
			case <-stop:
				if k != nil {
					k.Close()
				}
				return
			case <-time.After(pause): // how often it speaks
			}
			last, err := false, error(nil)
			if k == nil {
				k, err = connect(*target.Load(), nil)
			}
			if err == nil {
				err = k.ask("/?wait=5")
			}
			if err == nil {
				last, err = k.hear()
			}
			if err != nil {
				lost <- err
				return
			}
			answered.Add(1)
			if last {
				moved.Add(1)
				k.Close()
				k = nil
			}
		}
	}
	s := newStand(t, HubOptions{}, Socket{})
	next := func() *program {
		s.sockets = []Socket{listening(t, "tcp", "127.0.0.1:0")}
		p := s.shop(t)
		target.Store(&s.sockets[0].Address)
		return p
	}
	p := next()
	defer close(stop)
	for i := range 8 {
		clients.Go(func() { client(time.Duration(i+1) * time.Millisecond) })
	}
	for range 3 {
		want := answered.Load() + 50
		eventually(t, "answers", func() bool { return answered.Load() > want || len(lost) > 0 })
		newcomer := next()
		within(t, "drained", p.link.Drain())
		p.end()
		p = newcomer
	}
	if len(lost) > 0 {
		t.Errorf("lost %d of %d, first: %v", len(lost), answered.Load(), <-lost)
	}
	if moved.Load() < 3*8 {
		t.Errorf("only %d connections moved on", moved.Load())
	}
}

func TestAProgramThatLeavesByItselfIsStopping(t *testing.T) {
	node := needsNode(t)
	web := listening(t, "tcp", "127.0.0.1:0")
	s := newStand(t, HubOptions{}, web)
	p := s.start([]string{port(web.port(t))}, node, script(t, "leaves.js", `
const server = require('http').createServer().listen(Number(process.env.PORT), () => {
  process.send('ready');
  process.send('ready'); // is told once
  require('cluster').worker.disconnect();
});
`)).ready()
	if m := p.box.next(t); !m.Stopping || m.Via != "worker.disconnect()" {
		t.Errorf("message %+v", m)
	}
	within(t, "exit", p.exited)
	within(t, "the channel's end", p.node.gone)
	if p.link.Drain() != nil {
		t.Error("a channel that has ended can be drained")
	}
	if len(p.box) != 0 {
		t.Errorf("one more message: %+v", <-p.box)
	}
}

func TestWhoNeverCameOnlineIsDrainedByASignal(t *testing.T) {
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	p := s.start(nil, "sleep", "60")
	if p.link.Drain() != nil {
		t.Error("something that is not node can be drained by a message")
	}
	if got, want := p.link.Hint(), "node has not come online: it is still starting, or what was started is not node"; got != want {
		t.Errorf("hint %q", got)
	}
	_ = unix.Kill(p.cmd.Process.Pid, unix.SIGKILL) // a child of ours that has not been waited for
	within(t, "the channel's end", p.node.gone)
	if got := p.link.Hint(); !strings.Contains(got, "never came online") {
		t.Errorf("hint %q", got)
	}
}

func TestWhatServesBesidesTheChannelIsNotCalledDrained(t *testing.T) {
	node := needsNode(t)
	s := newStand(t, HubOptions{}, listening(t, "tcp", "127.0.0.1:0"))
	p := s.start(nil, node, script(t, "alone.js", `
require('cluster').worker.on('disconnect', () => console.log('disconnect'));
require('http').createServer().listen({ port: 0, exclusive: true }, () => process.send('ready'));
`)).ready()
	if got := p.link.Hint(); !strings.Contains(got, "never asked for") || !strings.Contains(got, "a wrapper") {
		t.Errorf("hint %q", got)
	}
	within(t, "the signal's turn", p.link.Drain())
	if p.out.count("disconnect") != 0 {
		t.Error("it was disconnected, which says nothing about what it serves")
	}
	p.node.mu.Lock()
	defer p.node.mu.Unlock()
	if p.node.ended {
		t.Error("the channel has ended")
	}
}

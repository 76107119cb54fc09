package e2e

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// Each worker unlinks the path of its unix socket when it ends, as Go's own
// listeners, tableflip programs and puma do: the path comes back at once, and
// goes when baton stops.
func TestAUnixPathThatWorkersUnlinkComesBack(t *testing.T) {
	testkit.Leaks(t)
	path := shortDir(t) + "/web.sock"
	a := run(t, config(t, testkit.Target("unlink"), quick, listen("web", "unix://"+path)))
	target := a.address("web")
	fresh := begun(t, load.Options{Targets: []load.Target{target}, Clients: 4})
	for range 10 {
		a.HUP()
		a.serving(a.last + 1)
		a.gone(a.last - 1)
	}
	r := fresh.Stop()
	// Between the unlink and the link there is a moment without a path.
	if r.Lost*100 > r.Requests || r.Requests < 100 || r.Lost > r.Reasons[load.Refused] {
		t.Errorf("%d requests, %d lost: %v", r.Requests, r.Lost, r.Reasons)
	}
	t.Logf("%d requests, %d found no path in the moment between unlink and link", r.Requests, r.Lost)
	if g := served(t, target); g != fmt.Sprint(a.last) {
		t.Errorf("served by generation %s, want %d", g, a.last)
	}
	a.Stop()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after the stop the path is still there (%v)", err)
	}
}

// Without steering a swap works too; what it may lose is the reason for
// steering, and what the demo shows.
func TestASharedSocketIsSwappedAndSaysWhyItIsShared(t *testing.T) {
	testkit.Leaks(t)
	off := `steering = "off"`
	a := run(t, config(t, testkit.Target(), quick,
		listen("web", "127.0.0.1:0", off), listen("file", "unix://"+shortDir(t)+"/s", off)))
	for _, name := range []string{"web", "file"} {
		line := a.WaitEvent(0, "listener-opened", "listener", name)
		if e := line.Event(); e["mode"] != "shared" || !strings.Contains(fmt.Sprint(e["reason"]), "off") {
			t.Errorf("%s", line.Text)
		}
	}
	fresh := begun(t, load.Options{Targets: []load.Target{a.address("web"), a.address("file")}, Clients: 8})
	for range 10 {
		a.HUP()
		a.serving(a.last + 1)
		a.gone(a.last - 1)
	}
	r := fresh.Stop()
	if n := r.Reasons[load.Refused] + r.Reasons[load.Timeout]; n > 0 || r.Requests < 100 || r.Lost*20 > r.Requests {
		t.Errorf("%d requests, %d lost: %v", r.Requests, r.Lost, r.Reasons)
	}
	for _, name := range []string{"web", "file"} {
		if g := served(t, a.address(name)); g != fmt.Sprint(a.last) {
			t.Errorf("%s is served by generation %s, want %d alone", name, g, a.last)
		}
	}
	a.Stop()
}

// ask sends one datagram from a socket of its own and returns the pid that
// answered, 0 for no answer in time.
func ask(address string) int {
	c, err := net.Dial("udp", address)
	if err != nil {
		return 0
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return 0
	}
	if _, err := c.Write([]byte("who?")); err != nil {
		return 0
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		return 0
	}
	word, _, _ := strings.Cut(string(buf[:n]), " ")
	pid, _ := strconv.Atoi(word) // 0 is no pid either
	return pid
}

// Datagrams are steered as connections are: each is answered, by who serves.
func TestUDPIsSwappedWithoutLosingADatagram(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target("ready=notify"), "[handoff]\nready = \"notify\"\ndrain_delay = \"500ms\"", listen("dns", "udp://127.0.0.1:0")))
	address := a.address("dns").Address
	var mu sync.Mutex
	asked, lost := 0, 0
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() { // ends when stop is closed
			for {
				select {
				case <-stop:
					return
				default:
				}
				pid := ask(address)
				mu.Lock()
				asked++
				if pid == 0 {
					lost++
				}
				mu.Unlock()
			}
		})
	}
	for range 20 {
		a.HUP()
		a.serving(a.last + 1)
		if pid := ask(address); pid != a.pid(a.last) {
			t.Errorf("generation %d (pid %d) serves, and pid %d answers", a.last, a.pid(a.last), pid)
		}
	}
	close(stop)
	clients.Wait()
	t.Logf("%d datagrams, %d unanswered", asked, lost)
	if lost > 0 || asked < 200 {
		t.Errorf("%d of %d datagrams unanswered", lost, asked)
	}
	a.Stop()
}

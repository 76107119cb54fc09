package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/boot"
)

// Here systemd listens before the launcher does, by the units of examples/systemd.

const (
	socketUnit = "baton-web.socket"
	unitsDir   = "/etc/systemd/system/"
)

// inActivated boots a machine that has the example.
func inActivated(t *testing.T, part func(*testing.T)) {
	t.Helper()
	example, err := filepath.Abs("../../examples/systemd")
	if err != nil {
		t.Fatal(err)
	}
	boot.Machine{Binds: map[string]string{"/srv/example": example}}.Test(t, part)
}

// example is the example's configuration with the target in the place of its server, and
// fewer listeners or others by pairs of old and new.
func (s service) example(pairs ...string) {
	s.t.Helper()
	text := contents(s.t, "/srv/example/baton.toml") + "\n" + quick + "\n"
	pairs = append([]string{`["/usr/local/bin/server"]`, quoted(testkit.Target("@" + behaviour))}, pairs...)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			s.t.Fatalf("no %q in the example:\n%s", pairs[i], text)
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	write(s.t, webDir+"/baton.toml", text)
}

// newActivated installs the example. Its sockets listen, and nobody has connected.
func newActivated(t *testing.T) service {
	t.Helper()
	if err := os.MkdirAll(webDir, 0o755); err != nil {
		t.Fatal(err)
	}
	testkit.Behave(t, behaviour)
	s := service{t}
	s.example()
	boot.Do(t, "baton", "start", "--config", webDir+"/baton.toml")
	boot.Do(t, "baton", "startup", "web")
	boot.Do(t, "baton", "stop", "web")
	boot.Do(t, "cp", "-r", "/srv/example/"+socketUnit, "/srv/example/"+webUnit+".d", unitsDir)
	boot.Do(t, "systemctl", "daemon-reload")
	boot.Do(t, "systemctl", "start", socketUnit)
	if got := s.property("ActiveState"); got != "inactive" {
		t.Fatalf("before anybody has connected the service is %s", got)
	}
	return s
}

// doors are the addresses of the example, and both families of the first.
func doors() []load.Target {
	return []load.Target{
		onBoot(8080), {Network: "tcp", Address: "[::1]:8080"}, onBoot(8081), {Network: "unix", Address: "/run/web.sock"},
	}
}

// modes of the listeners, by name, with the reasons.
func (s service) modes() map[string]string {
	s.t.Helper()
	all := make(map[string]string)
	for _, l := range s.report().Listeners {
		all[l.Name] = l.Mode + " " + l.Reason
	}
	return all
}

// journal is what the unit has logged.
func (s service) journal() string {
	s.t.Helper()
	return boot.Do(s.t, "journalctl", "--no-pager", "--output=cat", "--unit", webUnit)
}

// A connection starts it; systemd's sockets are steered like its own, over swaps, upgrades
// and kills.
func TestAServiceIsStartedByAConnectionAndSteersSystemdsSockets(t *testing.T) {
	inActivated(t, func(t *testing.T) {
		s := newActivated(t)
		for _, at := range doors() { // the first waits in the queue until there is a server
			asks(t, at)
		}
		s.state("active")
		modes := s.modes()
		if modes["http"] != "steered " || modes["admin"] != "steered " || !strings.HasPrefix(modes["file"], "shared the socket came from outside") {
			t.Errorf("the listeners are %q", modes)
		}
		out := boot.Do(t, "baton", "show", "web")
		for _, want := range []string{"steered", "shared", "came from outside"} {
			if !strings.Contains(out, want) {
				t.Errorf("show says no %q:\n%s", want, out)
			}
		}
		dropIn(t, "RestartSec=50ms")
		fresh := begun(t, load.Options{Targets: doors()[:3], Clients: 9})
		slow := begun(t, load.Options{Targets: doors()[:3], Clients: 3, Kind: load.Slow})
		for range 10 {
			boot.Do(t, "systemctl", "reload", webUnit)
			more(t, fresh, 50)
		}
		for i := range 6 {
			before := s.report()
			if i%3 == 2 {
				boot.Do(t, "baton", "upgrade", "web")
			} else {
				s.kill()
			}
			s.same(before, "step "+strconv.Itoa(i))
			boot.Do(t, "systemctl", "reload", webUnit)
			more(t, fresh, 20)
		}
		none(t, "fresh", fresh.Stop(), 400)
		none(t, "slow", slow.Stop(), 5)
		asks(t, doors()[3])
		if now := s.modes(); now["http"] != modes["http"] || now["admin"] != modes["admin"] || now["file"] != modes["file"] {
			t.Errorf("the listeners are %q", now)
		}
		// systemd holds the sockets, and is no process that a worker left behind.
		if out := s.journal(); strings.Contains(out, "left behind") || strings.Contains(out, "no listener's") {
			t.Errorf("the journal:\n%s", out)
		}
	})
}

// Between a stop and the next start who connects waits; nobody is refused.
func TestSystemdsSocketsQueueWhileTheServiceIsDown(t *testing.T) {
	inActivated(t, func(t *testing.T) {
		s := newActivated(t)
		asks(t, onBoot(8080))
		fresh := begun(t, load.Options{Targets: doors()[:3], Clients: 6})
		for range 3 {
			old := s.main()
			boot.Do(t, "systemctl", "restart", webUnit)
			if s.main() == old {
				t.Error("it was not restarted")
			}
			more(t, fresh, 20)
		}
		none(t, "fresh, over restarts", fresh.Stop(), 100)
		for _, at := range doors() {
			boot.Do(t, "systemctl", "stop", webUnit)
			if got := s.property("ActiveState"); got != "inactive" {
				t.Errorf("after the stop it is %s", got)
			}
			c, err := net.Dial(at.Network, at.Address) // nobody serves: it is queued
			if err != nil {
				t.Fatalf("%s, stopped: %v", at.Address, err)
			}
			answersOn(t, c)
			asks(t, at)
		}
		for _, words := range [][]string{
			{"systemd-analyze", "verify", "--man=no", unitsDir + socketUnit, unitsDir + webUnit},
		} {
			if out, code := boot.Run(t, words...); code != 0 || strings.Contains(out, "/baton-web.") {
				t.Errorf("%v: exit code %d\n%s", words, code, out)
			}
		}
	})
}

// asks is served on a connection of its own, which is closed behind it.
func asks(t *testing.T, at load.Target) {
	t.Helper()
	c, err := net.Dial(at.Network, at.Address)
	if err != nil {
		t.Fatal(err)
	}
	answersOn(t, c)
}

// answersOn sends a request on a connection that is open, and waits for an answer.
func answersOn(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()                                                         // read from by then
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil { // a whole start
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("GET /pid HTTP/1.0\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	var buf [12]byte
	if _, err := c.Read(buf[:]); err != nil || !strings.HasPrefix(string(buf[:]), "HTTP/1") {
		t.Errorf("the answer begins %q: %v", buf, err)
	}
}

// A reload may take a listener away, and another one brings it back: its socket is systemd's
// all the time, also over an upgrade. One that would move from under a name is refused.
func TestASocketThatAReloadLeavesIsFoundAgain(t *testing.T) {
	inActivated(t, func(t *testing.T) {
		s := newActivated(t)
		asks(t, onBoot(8081))
		s.state("active") // systemd does not reload what is still starting
		const admin = "[[listen]]\nname = \"admin\"\naddress = \"127.0.0.1:8081\"\n"
		for range 2 {
			s.example(admin, "")
			boot.Do(t, "systemctl", "reload", webUnit)
			closed := func(r *event.Report) bool { return len(r.Generations) == 1 && len(r.Listeners) == 2 }
			testkit.Wait(t, func() bool { return closed(s.report()) }, "the listener to be closed")
			if out := s.journal(); !strings.Contains(out, `systemd's socket \"web\" at tcp4://127.0.0.1:8081 is no listener's`) &&
				!strings.Contains(out, `systemd's socket "web" at tcp4://127.0.0.1:8081 is no listener's`) {
				t.Errorf("the journal does not name it:\n%s", out)
			}
			c, err := net.Dial("tcp", onBoot(8081).Address)
			if err != nil {
				t.Fatal(err)
			}
			boot.Do(t, "baton", "upgrade", "web")
			s.example()
			boot.Do(t, "systemctl", "reload", webUnit)
			answersOn(t, c)
			if got := s.modes()["admin"]; got != "steered " {
				t.Errorf("it is %s", got)
			}
		}
		// A listener that is called as the unit's sockets are.
		s.example(admin, strings.NewReplacer("admin", "web", "8081", "8082").Replace(admin))
		if out, code := boot.Run(t, "baton", "reload", "web"); code == 0 || !strings.Contains(out, "8081") || !strings.Contains(out, "8082") {
			t.Errorf("a reload to another address: exit code %d\n%s", code, out)
		}
		asks(t, onBoot(8081))
		boot.Do(t, "systemctl", "stop", webUnit)
		if _, code := boot.Run(t, "systemctl", "start", webUnit); code == 0 {
			t.Error("a start at another address succeeded")
		}
		if got := s.property("ExecMainStatus"); got != "5" {
			t.Errorf("its exit code is %s", got)
		}
	})
}

// A launcher that is not root cannot join a socket of root's, and says so.
func TestSystemdsSocketsAreSharedWithAnotherUser(t *testing.T) {
	inActivated(t, func(t *testing.T) {
		s := newActivated(t)
		boot.Do(t, "chmod", "-R", "a+rX", webDir)
		home := boot.JoeHome + "/baton"
		dropIn(t, "User="+boot.Joe, "Environment=BATON_HOME="+home)
		boot.Do(t, "systemctl", "stop", socketUnit)
		write(t, unitsDir+socketUnit, contents(t, unitsDir+socketUnit)+"\n[Socket]\nSocketUser="+boot.Joe+"\n")
		boot.Do(t, "systemctl", "daemon-reload")
		boot.Do(t, "systemctl", "start", socketUnit)
		for _, at := range doors() {
			asks(t, at)
		}
		s.state("active")
		t.Setenv("BATON_HOME", home)
		for name, mode := range s.modes() {
			if !strings.HasPrefix(mode, "shared the socket came from outside") {
				t.Errorf("%s is %q", name, mode)
			}
		}
		boot.Do(t, "systemctl", "reload", webUnit)
		for _, at := range doors() {
			asks(t, at)
		}
	})
}

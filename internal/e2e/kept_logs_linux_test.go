package e2e

import (
	"bufio"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"baton/internal/event"
	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/boot"
)

// counting is a worker that numbers its lines until a file is there, and then prints one
// without a number. It never ends by itself.
func counting(stop string) []string {
	return []string{"sh", "-c", "i=0; while [ ! -e " + stop + " ]; do seq $((i+1)) $((i+500)); i=$((i+500)); sleep 0.01; done; echo over; exec sleep 1000"}
}

// its readiness, and that nobody listens.
const delayed = "[handoff]\nready = \"delay\"\nready_delay = \"100ms\"\ndrain_delay = \"0s\"\n"

// What a worker prints over ten upgrades is followed without a gap that is not counted, a
// line that is doubled or one that is torn.
func TestLinesOverTenUpgradesAreFollowedOrCounted(t *testing.T) {
	testkit.Leaks(t)
	stop := filepath.Join(t.TempDir(), "stop")
	a, _ := upgradable(t, config(t, counting(stop), delayed, strings.Replace(captured, "1M", "64M", 1), listen("web", "127.0.0.1:0")))
	follow := exec.Command(testkit.Binary(t), "logs", "test", "--follow", "--json", "--lines", "all", "--worker", "0")
	follow.Env = append(os.Environ(), "BATON_HOME="+a.Home)
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	seen, n := make(chan error, 1), numbered{next: 1}
	go func() { // ends with the last line, or with the one that follows
		for r := bufio.NewReaderSize(out, 1<<20); ; {
			line, err := r.ReadString('\n')
			if err == nil && strings.Contains(line, `"l":"over"`) {
				seen <- nil
				return
			}
			if err == nil {
				err = n.take(line)
			}
			if err != nil {
				seen <- err
				return
			}
		}
	}()
	for range 10 {
		a.upgrade()
	}
	write(t, stop, "")
	err = <-seen
	if kerr := follow.Process.Kill(); kerr != nil {
		t.Error(kerr)
	}
	_ = follow.Wait() // it was killed
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d lines were shown, %d counted as missing", n.shown, n.missing)
	a.Stop()
}

// Under systemd the worker's pipe outlives the launcher: what was read and not written
// down is lost by a kill, and nothing else. The worker is not ended by a pipe that nobody
// reads.
func TestKillsUnderSystemdLoseFewCapturedLines(t *testing.T) {
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		stop := "/run/web.stop"
		write(t, webDir+"/baton.toml", "name = \"web\"\n[command]\nexec = "+quoted(counting(stop))+"\n"+
			strings.Join([]string{delayed, strings.Replace(captured, "1M", "64M", 1), listen("web", onBoot(8080).Address)}, "\n"))
		dropIn(t, "RestartSec=50ms")
		boot.Do(t, "systemctl", "restart", webUnit)
		serves := func() *event.Report {
			var r *event.Report
			testkit.Wait(t, func() bool { r = s.report(); return r.State == event.StateServing && len(pids(r)) == 1 }, "it to serve")
			return r
		}
		first := serves()
		for i := range 5 {
			before := s.report()
			s.kill()
			s.same(before, fmt.Sprint("kill ", i))
		}
		write(t, stop, "")
		var out string
		testkit.Wait(t, func() bool {
			out = boot.Do(t, "baton", "logs", "web", "--lines", "all", "--json")
			return strings.Contains(out, `"l":"over"`)
		}, "the last line")
		if last := serves(); last.Generations[0].Workers[0].PID != first.Generations[0].Workers[0].PID {
			t.Error("the worker is another one")
		}
		n, lost := numbered{next: 1}, int64(0)
		for line := range strings.Lines(out) {
			if strings.Contains(line, `"l":"over"`) {
				break
			}
			had := n
			if err := n.take(line); err == nil {
				continue
			}
			// A kill: later, never earlier, and it is one whole line.
			_, text, _ := strings.Cut(line, `"l":"`)
			var now int64
			if _, err := fmt.Sscanf(text, "%d\"", &now); err != nil || now < had.next {
				t.Fatalf("%s where line %d was due", line, had.next)
			}
			lost += now - had.next
			n = numbered{next: now + 1, shown: had.shown + 1, missing: had.missing}
		}
		t.Logf("%d lines were shown, %d counted as missing, %d lost", n.shown, n.missing, lost)
		if n.shown < 1000 || lost > 5*5000 {
			t.Errorf("%d lines of %d are lost", lost, n.next)
		}
	})
}

// Where the machine is booted there is no testdata.
//
//go:embed testdata/server.cjs
var serverCJS string

// A channel of Node's is among what is kept: its worker does not end, and it drains.
func TestKillsUnderSystemdLeaveNodeItsChannel(t *testing.T) {
	node := "/usr/bin/node"
	if _, err := os.Stat(node); err != nil {
		testkit.Lack(t, "needs Node: %v", err)
	}
	boot.Test(t, func(t *testing.T) {
		s := newService(t)
		write(t, webDir+"/server.cjs", serverCJS)
		write(t, webDir+"/baton.toml", "name = \"web\"\n[command]\nexec = "+quoted([]string{node, webDir + "/server.cjs"})+
			"\nenv = { PORT = \"8080\", SAYS = \"ready\" }\n"+quick+"\n"+listen("web", onBoot(8080).Address))
		dropIn(t, "RestartSec=50ms")
		boot.Do(t, "systemctl", "reload", webUnit)
		fresh := begun(t, load.Options{Targets: []load.Target{onBoot(8080)}, Clients: 4})
		stays := begun(t, load.Options{Targets: []load.Target{onBoot(8080)}, Clients: 3, Kind: load.KeepAlive})
		for i := range 5 {
			before := s.report()
			s.kill()
			s.same(before, fmt.Sprint("kill ", i))
			more(t, fresh, 20)
			boot.Do(t, "systemctl", "reload", webUnit)
			boot.Do(t, "baton", "upgrade", "web")
		}
		none(t, "fresh", fresh.Stop(), 100)
		none(t, "keep-alive", stays.Stop(), 100)
	})
}

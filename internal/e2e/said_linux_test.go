package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"baton/internal/testkit"
)

// Whatever a newcomer says while the launcher becomes another program is heard by that.
func TestWhatIsSaidDuringAnUpgradeIsHeard(t *testing.T) {
	testkit.Together(t)
	python, py := program(t, "python3"), testdata(t, "server.py")
	for name, c := range map[string]struct {
		exec []string
		more string
		env  string
	}{
		"systemd": {exec: []string{python, py, "systemd"}, more: "ready = \"notify\""},
		"einhorn": {exec: []string{python, py, "einhorn"}, more: "ready = \"notify\"\nprotocols = [\"einhorn\"]"},
		"s6":      {exec: []string{python, py, "s6", `{{fd "web"}}`, `{{ready}}`}, more: "ready = \"newline\"\nready_fd = 7"},
		"node":    {exec: []string{"node", "server.cjs"}, env: `env = { PORT = '{{port "web"}}', SAYS = "ready" }`, more: `protocols = ["node"]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "node" {
				program(t, "node")
			}
			dir := t.TempDir()
			gate := filepath.Join(dir, "gate")
			waits := append([]string{"sh", "-c", "echo waits; while [ ! -e " + gate + `.$BATON_GENERATION ]; do sleep 0.01; done; exec "$@"`, "sh"}, c.exec...)
			write(t, gate+".1", "")
			a, _ := upgradable(t, config(t, waits, fmt.Sprintf("directory = %q", nodeDir(t, `{}`)), c.env, quick, c.more,
				listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))))
			for n := 2; n < 7; n++ {
				from := a.Next()
				a.HUP()
				pid := number(t, a.WaitEvent(from, "started", "generation", n), "pid")
				var upgrade sync.WaitGroup
				upgrade.Go(func() { // ends with the command
					if code, out, errs := a.baton("upgrade", "test"); code != 0 {
						t.Errorf("exit code %d, %q, %q", code, out, errs)
					}
				})
				moment(600 * time.Millisecond)
				write(t, fmt.Sprint(gate, ".", n), "")
				a.WaitEvent(from, "serving", "generation", n)
				upgrade.Wait()
				if now := pids(a.report()); !slices.Equal(now, []int{pid}) {
					t.Errorf("workers %v, want %d", now, pid)
				}
			}
			a.noCrash()
			a.Stop()
		})
	}
}

// A worker that says that it is well is believed across upgrades, and one that stops to
// say so is missed.
func TestAWatchdogOverUpgrades(t *testing.T) {
	testkit.Leaks(t)
	a, _ := upgradable(t, config(t, testkit.Target("ready=notify", "watchdog=200ms"), "[handoff]\nready = \"notify\"\n[health.live]\nwatchdog = \"3s\"", listen("web", "127.0.0.1:0")))
	for range 4 {
		a.upgrade()
	}
	if r := a.report(); r.Restarts != 0 {
		t.Errorf("%+v", r)
	}
	from := a.Next()
	a.upgrade()
	answer, err := http.Get("http://" + a.address("web").Address + "/abuse?what=silence")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	a.WaitEvent(from, "unhealthy")
	a.Stop()
}

// Datagrams go on being answered, by the same worker.
func TestDatagramsOverUpgradesAndAKill(t *testing.T) {
	testkit.Leaks(t)
	path := config(t, testkit.Target("ready=notify"), "[handoff]\nready = \"notify\"\ndrain_delay = \"500ms\"", listen("dns", fmt.Sprintf("udp://127.0.0.1:%d", testkit.FreePort(t))))
	a, _ := upgradable(t, path)
	address := a.address("dns").Address
	stop := make(chan struct{})
	asked, lost := 0, 0
	var client sync.WaitGroup
	client.Go(func() { // ends with stop
		for !isOver(stop) {
			asked++
			began := time.Now()
			if ask(address) == 0 {
				lost++
				t.Log("unanswered since ", began.Format("05.000000"))
			}
		}
	})
	for range 3 {
		a.upgrade()
		if pid := ask(address); pid != pids(a.report())[0] {
			t.Errorf("pid %d answers, not %v", pid, pids(a.report()))
		}
		a.swap()
	}
	before := pids(a.report())
	a = a.succeeded(path)
	a.heard(1, before)
	a.HUP()
	a.serving(a.last + 1)
	close(stop)
	client.Wait()
	t.Logf("%d datagrams, %d unanswered", asked, lost)
	// The sockets of a killed launcher that no worker had are made anew, and for less than
	// a millisecond one that nobody reads is among the port's.
	if lost > 1 || asked < 100 {
		t.Errorf("%d of %d datagrams unanswered", lost, asked)
	}
	a.Stop()
}

// Who watches the screen sees the launcher that was upgraded as if nothing had been.
func TestMonitOverUpgrades(t *testing.T) {
	if _, err := exec.LookPath("tmux"); err != nil {
		testkit.Lack(t, "a terminal to look at takes tmux: %v", err)
	}
	a, _ := upgradable(t, config(t, testkit.Target(), quick, captured, listen("web", "127.0.0.1:0")))
	s := monit(t, a.Home, 100, 30)
	s.shows("▸ test serving")
	for range 3 {
		a.upgrade()
	}
	a.swap()
	s.shows("▸ test serving       2", "goes on with 1 running workers")
	s.press("r", "y")
	s.shows("▸ test serving       3")
	s.press("q")
	s.shows("left with 0.")
	a.Stop()
}

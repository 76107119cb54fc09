package worker

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// Under the real baton: the socket by its name, ready by its message, TERM, and no
// request lost to clients that keep their connection and never repeat one.
func TestSwapsUnderBatonLoseNothingOfClientsThatNeverRepeat(t *testing.T) {
	testkit.Leaks(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "baton.toml")
	text := fmt.Sprintf("[command]\nexec = [%q]\nenv = { %s = \"serve\" }\n[[listen]]\nname = \"http\"\naddress = \"127.0.0.1:0\"\n"+
		"[handoff]\nready = \"notify\"\ndrain_delay = \"0s\"\n", self, roleVariable)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	b := testkit.Baton(t, "run", "--config", config, "--log", "json")
	from := b.WaitEvent(0, "serving", "generation", 1).Index + 1
	_, address, _ := strings.Cut(fmt.Sprint(b.WaitEvent(0, "listener-opened").Event()["address"]), "://")
	target := []load.Target{{Network: "tcp", Address: address}}
	runs := map[string]*load.Runner{
		"fresh":                  begun(t, load.Options{Targets: target, Clients: 4, Pause: time.Millisecond}),
		"slow":                   begun(t, load.Options{Targets: target, Clients: 4, Path: "/slow"}),
		"keep-alive":             begun(t, load.Options{Targets: target, Clients: 4, Kind: load.KeepAlive}),
		"keep-alive, with pause": begun(t, load.Options{Targets: target, Clients: 4, Kind: load.KeepAlive, Pause: 20 * time.Millisecond}),
		"keep-alive, slow":       begun(t, load.Options{Targets: target, Clients: 4, Kind: load.KeepAlive, Path: "/slow"}),
		"keep-alive, seldom":     begun(t, load.Options{Targets: target, Clients: 16, Kind: load.KeepAlive, Pause: 300 * time.Millisecond}),
	}
	const swaps = 20
	for g := 2; g <= swaps+1; g++ {
		b.HUP()
		from = b.WaitEvent(from, "serving", "generation", g).Index + 1
		for _, r := range runs {
			testkit.Wait(t, func() bool { return r.Result().ByGeneration[fmt.Sprint(g)] > 0 }, fmt.Sprintf("generation %d to answer", g))
		}
	}
	for name, r := range runs {
		none(t, name, r.Stop(), swaps)
	}
	if log := b.Log(); strings.Contains(log, `"event":"killed"`) {
		t.Errorf("a worker had to be killed:\n%s", log)
	}
	b.Stop()
}

func TestAProcessWithoutALauncherOpensItsPortAndEndsWithTERM(t *testing.T) {
	testkit.Leaks(t)
	port := testkit.FreePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p := process(t, "serve", "WORKER_TEST_ADDRESS="+address)
	testkit.Wait(t, func() bool { return testkit.Listening(t, port) }, "the process to listen")
	a := &app{t: t, address: address}
	c := a.dial()
	c.pattern(false)
	for range 2 { // a second one changes nothing
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Wait(t, func() bool { return !testkit.Listening(t, port) }, "the process not to listen any more")
	c.pattern(true)
	c.end()
	if got := p.said(); got != "" {
		t.Errorf("the process ended with %q", got)
	}
}

// pattern asks the serving child.
func (c *client) pattern(last bool) {
	c.t.Helper()
	c.send("/")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != string(load.Pattern(0, 64)) || resp.Close != last {
		c.t.Errorf("%s %q %v, last: %v", resp.Status, body, err, resp.Close)
	}
}

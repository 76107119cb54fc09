package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// A process that a worker left behind, in a session of its own, holds the slot's
// socket: it would accept in the next worker's place. It is ended first.
func TestAProcessLeftBehindIsEndedBeforeItsSlotIsUsedAgain(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target("child=sockets,session"), quick, listen("web", "127.0.0.1:0")))
	for range 4 {
		a.HUP()
		a.serving(a.last + 1)
		a.gone(a.last - 1)
	}
	a.WaitLog("left behind by a worker that ended")
	testkit.Wait(t, func() bool { return len(a.Processes()) == 3 }, "baton, the worker that serves and its child to be all that is left")
	a.Stop()
}

// A new address is shut until the newcomer that brings it is let in, and closed
// when that one fails.
func TestANewAddressIsShutUntilItsNewcomerServes(t *testing.T) {
	testkit.Leaks(t)
	file := t.TempDir() + "/behaviour"
	testkit.Behave(t, file, "ready=notify")
	dir := shortDir(t)
	web := listen("web", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)))
	admin := listen("admin", fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))) + listen("file", "unix://"+dir+"/s")
	path := config(t, testkit.Target("@"+file), quick, web)
	a := run(t, path)
	ready := t.TempDir() + "/ready"
	for round, handoff := range []string{quick + "\nready_timeout = \"10s\"", quick + "\nready_timeout = \"60s\""} {
		// The first is never ready, the second when the test has seen what it wants.
		testkit.Behave(t, file, []string{"ready=never", "ready=file:" + ready}[round])
		rewrite(t, path, testkit.Target("@"+file), handoff, web, admin)
		from := a.Next()
		a.HUP()
		a.WaitEvent(from, "started")
		for _, name := range []string{"admin", "file"} {
			if c, err := dial(t, a.WaitEvent(from, "listener-opened", "listener", name)); err == nil {
				_ = c.Close() // it should not have come to be
				t.Errorf("%s lets somebody in before its newcomer is ready", name)
			}
		}
		if round == 0 {
			a.WaitEvent(from, "rolledback")
			for _, name := range []string{"admin", "file"} {
				line := a.WaitEvent(from, "listener-opened", "listener", name)
				testkit.Wait(t, func() bool {
					_, err := dial(t, line)
					return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
				}, name+" to be closed")
			}
			continue
		}
		write(t, ready, "")
		line := a.WaitEvent(from, "serving")
		for _, name := range []string{"admin", "file"} {
			if g := served(t, target(a.WaitEvent(from, "listener-opened", "listener", name))); g != fmt.Sprint(line.Event()["generation"]) {
				t.Errorf("%s is served by generation %s", name, g)
			}
		}
	}
	a.Stop()
}

// target is the address of a listener-opened line.
func target(line testkit.Line) load.Target {
	network, address, _ := strings.Cut(line.Event()["address"].(string), "://")
	return load.Target{Network: network, Address: address}
}

func dial(t *testing.T, line testkit.Line) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	to := target(line)
	return (&net.Dialer{}).DialContext(ctx, to.Network, to.Address)
}

// Steering that fails is no swap: the newcomer is rolled back, and the old
// generation serves on. Here a directory lies where the path should lead to the
// newcomer.
func TestANewcomerThatCannotBeSteeredToIsRolledBack(t *testing.T) {
	testkit.Leaks(t)
	path := shortDir(t) + "/web.sock"
	a := run(t, config(t, testkit.Target(), quick,
		listen("web", "127.0.0.1:0"), listen("file", "unix://"+path)))
	web := a.address("web")
	fresh := begun(t, load.Options{Targets: []load.Target{web}, Clients: 8})
	// The launcher takes the path back from whatever is put there; only something
	// that cannot be replaced by a rename stays.
	testkit.Wait(t, func() bool {
		_ = os.Remove(path) // the launcher may have put it back meanwhile
		return os.MkdirAll(path+"/full", 0o755) == nil
	}, "a directory at the path")
	from := a.Next()
	a.HUP()
	line := a.WaitEvent(from, "rolledback", "generation", 2)
	if !strings.Contains(line.Text, "generation 1 serves on") {
		t.Errorf("the log says %s", line.Text)
	}
	a.gone(2)
	if g := served(t, web); g != "1" {
		t.Errorf("generation %s serves, want 1", g)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close() // it was only to see whether it is there
		}
		return err == nil
	}, "the path to be put back")
	a.HUP()
	a.serving(3)
	a.gone(1)
	none(t, "fresh", fresh.Stop(), 100)
	a.Stop()
}

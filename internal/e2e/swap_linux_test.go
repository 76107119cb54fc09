package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
)

// quick drains sooner than the default second, so that a hundred swaps take less
// than one each. What is left is for the Go server to read what it has accepted: its
// Shutdown drops a connection whose request it has not read yet.
const quick = "[handoff]\ndrain_delay = \"500ms\""

// swaps is how often a test swaps under load.
func swaps(t testing.TB) int {
	if testing.Short() {
		return 10
	}
	return 100
}

func TestAHundredSwapsUnderLoadLoseNothing(t *testing.T) {
	testkit.Together(t)
	// All hundred with all of them; of each alone a part shows what it has for itself.
	few := swaps(t) / 4
	for _, c := range []struct {
		name   string
		swaps  int
		listen []string
	}{
		{"tcp", few, []string{listen("web", "127.0.0.1:0")}},
		{"ipv6", few, []string{listen("web", "[::1]:0")}},
		{"dual stack", few, []string{listen("web", ":0")}},
		{"unix", few, []string{listen("web", "unix://PATH")}},
		{"four listeners", swaps(t), []string{
			listen("web", "127.0.0.1:0"), listen("six", "tcp6://[::1]:0"),
			listen("both", ":0"), listen("file", "unix://PATH")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			more := []string{quick}
			for _, l := range c.listen {
				more = append(more, inDir(l, filepath.Join(shortDir(t), "web.sock")))
			}
			a := run(t, config(t, testkit.Target(), more...))
			var targets []load.Target
			for _, name := range []string{"web", "six", "both", "file"}[:len(c.listen)] {
				targets = append(targets, a.address(name))
			}
			fresh := begun(t, load.Options{Targets: targets, Clients: 16})
			for range c.swaps {
				fresh.Mark()
				a.swap()
				fresh.Settle()
			}
			r := fresh.Stop()
			none(t, "fresh", r, 10*c.swaps)
			if n := len(r.ByGeneration); n < c.swaps*9/10 {
				t.Errorf("%d generations answered, want nearly all of %d: was there load across every swap?", n, c.swaps+1)
			}
			a.Stop()
		})
	}
}

func TestWhatIsInFlightAcrossASwapIsServedToItsEnd(t *testing.T) {
	testkit.Leaks(t)
	a := run(t, config(t, testkit.Target(), quick, listen("web", "127.0.0.1:0")))
	target := []load.Target{a.address("web")}
	kinds := []load.Kind{load.Slow, load.Stream, load.Upload, load.KeepAlive}
	var runs []*load.Runner
	for _, k := range kinds {
		// A stock Go server closes kept connections as it ends, also as a request
		// arrives on one. What its clients ask for on those is answered at once, so
		// that the time it takes to notice on a busy machine tells nothing.
		runs = append(runs, begun(t, load.Options{Targets: target, Clients: 8, Kind: k, RaceWindow: 10 * time.Second}))
	}
	n := swaps(t) / 5
	for range n {
		a.swap()
	}
	for i, r := range runs {
		got := r.Stop()
		none(t, fmt.Sprint(kinds[i]), got, 8)
		if kinds[i] != load.KeepAlive && got.IdleClosed > 0 {
			t.Errorf("%v: %d connections of one request were closed idle", kinds[i], got.IdleClosed)
		}
		if got.IdleClosed > 8*n {
			t.Errorf("%v: %d kept connections closed, of 8 clients in %d swaps", kinds[i], got.IdleClosed, n)
		}
	}
	a.Stop()
}

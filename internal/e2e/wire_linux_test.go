package e2e

import (
	"fmt"
	"testing"
	"time"

	"baton/internal/load"
	"baton/internal/testkit"
	"baton/internal/testkit/wire"
)

// distant starts baton at the far end of a wire of 80 ms round trip that loses
// one in twenty SYN-ACKs and final ACKs, which loopback never does.
func distant(t *testing.T, w *wire.Wire, path string) *app {
	t.Helper()
	a := &app{t: t, Launcher: testkit.NewBaton(t, "run", "--config", path, "--log", "json")}
	if err := w.Server(func() error { a.Start(); return nil }); err != nil {
		t.Fatal(err)
	}
	a.serving(1)
	return a
}

func TestSwapsAtADistanceLoseNothing(t *testing.T) {
	for _, c := range []struct {
		name    string
		server  []string
		handoff string
		host    string
	}{
		{"a stock Go server", nil, "", wire.Server4},
		{"a stock Go server by ipv6", nil, "", "[" + wire.Server6 + "]"},
		// What is still half open when the old worker gets its signal finds it gone:
		// a worker of the new generation is started on the slot for it.
		// The delay ends between two of the times at which a SYN-ACK is sent again.
		{"a launcher that does not wait", nil, "handshake_wait = \"1ms\"\ndrain_delay = \"2s\"", wire.Server4},
		{"a server without shutdown code", []string{"server=minimal"}, `drain_idle = "10s"`, wire.Server4},
	} {
		t.Run(c.name, func(t *testing.T) {
			testkit.Leaks(t)
			lost := wire.Lose(1, map[wire.Kind]float64{wire.SYNACK: 0.05, wire.FinalACK: 0.05})
			w := wire.New(t, wire.Options{Drop: lost})
			address := c.host + ":8080"
			a := distant(t, w, config(t, testkit.Target(c.server...), "[handoff]\n"+c.handoff, listen("web", address)))
			targets := []load.Target{{Network: "tcp", Address: address}}
			fresh := begun(t, load.Options{Targets: targets, Clients: 60, Dial: w.Dial, Timeout: 30 * time.Second})
			slow := begun(t, load.Options{Targets: targets, Clients: 10, Kind: load.Slow, Dial: w.Dial, Timeout: 30 * time.Second})
			for range 12 {
				seen := fresh.Result().Requests
				a.HUP()
				a.serving(a.last + 1)
				testkit.Wait(t, func() bool { return fresh.Result().Requests > seen+60 }, "a request of each client")
				if a.last > 4 { // more than a few would be ended early, as max_draining says
					a.gone(a.last - 4)
				}
			}
			a.gone(a.last - 1)
			r := fresh.Stop()
			none(t, "fresh", r, 12*60)
			none(t, "slow", slow.Stop(), 100)
			if s := w.Stats(); s.Dropped[wire.SYNACK] < 10 || s.Dropped[wire.FinalACK] < 10 {
				t.Errorf("the wire lost %v, too little to tell", s.Dropped)
			}
			if len(r.ByGeneration) < 12 {
				t.Errorf("generations %v answered, want 13", fmt.Sprint(r.ByGeneration))
			}
			a.Stop()
		})
	}
}

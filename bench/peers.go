package main

import (
	"context"
	"errors"
	"os/exec"
	"time"
)

// peers measures, in the same run, a launcher that shares one socket between the
// generations: Server::Starter, which Debian has as libserver-starter-perl.
func peers(ctx context.Context, b *bench) error {
	path, missing := exec.LookPath("start_server")
	if missing != nil {
		b.report.note("peers: start_server is not installed (apt install libserver-starter-perl), so there is nothing to compare with")
		return nil //nolint:nilerr // a peer that is not there is a note, not a failure
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	// One second after the newcomer was started (its --interval) the old generation
	// gets TERM; that is its only sign of readiness, and in that second it takes no
	// other HUP. Hence two seconds here, for baton too.
	peer, err := b.launch(ctx, command(ctx, path, "--port", address, "--signal-on-hup=TERM", "--", b.server), address, "")
	if err != nil {
		return err
	}
	ours, err := b.underBaton(ctx)
	if err != nil {
		return err
	}
	for _, l := range []struct {
		name string
		*launched
	}{{"Server::Starter", peer}, {"baton", ours}} {
		paced := swapping{part: "peers", name: l.name + ", paced", pause: b.pause, every: 2 * time.Second}
		full := swapping{part: "peers", name: l.name + ", full", every: 2 * time.Second}
		err := errors.Join(b.latencyPairs(ctx, l.launched, paced), b.latencyPairs(ctx, l.launched, full),
			b.residentRows(ctx, l.launched, "peers", l.name, ""))
		if err != nil {
			return err
		}
	}
	return nil
}

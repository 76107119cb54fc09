package cli

import (
	"context"
	"time"

	"baton/internal/control"
)

// watched does what a launcher takes its time for, and shows meanwhile how it goes.
func (p *program) watched(ctx context.Context, app *control.Client, do func(context.Context) error) error {
	show := p.progress()
	defer show.done()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }() // ends with the call
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-look.C:
		}
		if !show.terminal && time.Since(show.begin) < wonder {
			continue // nothing is shown yet
		}
		asking, cancel := context.WithTimeout(ctx, 4*lookAgain)
		if r, err := app.Glance(asking); err == nil { // it may be about to end, or busy
			show.say(underway(app.Name, r))
		}
		cancel()
	}
}

// lookAgain is how often somebody at a terminal sees something new.
const lookAgain = 250 * time.Millisecond

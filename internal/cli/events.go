package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"baton/internal/control"
	"baton/internal/event"

	"github.com/urfave/cli/v2"
)

func (p *program) eventsCommand() *cli.Command {
	return asked(verb{
		name: "events", line: "[NAME...] [flags]",
		does: "show what happened, and with --follow what happens",
		text: `
A line for each event that a launcher keeps: what it writes to its log, of one
application, of several, or without a NAME of all that run, in the order of time.
With --follow it goes on until the last of these launchers has ended, and of several
shows an event a tenth of a second late, behind what others tell of before it.

  baton events web --follow --json | while read -r event; do ...

The fields of the JSON are those of the control socket, and the name.`,
		ends: []Code{NotRunning},
	}, []cli.Flag{
		&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on as they happen"},
		&cli.IntFlag{Name: "replay", Value: 20, Usage: "begin with the last `N` of each, 256 at most; 20 if not said"},
		&cli.BoolFlag{Name: "json", Usage: "print each as a line of JSON"},
	}, p.events)
}

// happened is an event and whose it is.
type happened struct {
	Name string `json:"name"`
	event.Event
}

func (p *program) events(c *cli.Context) error {
	replay := c.Int("replay")
	if replay < 0 || replay > 256 {
		return usage("", "--replay is a number from 0 to 256, not %d", replay)
	}
	apps, err := asking(c)
	if err != nil {
		return err
	}
	width := 0
	for _, app := range apps {
		width = max(width, len(app.Name))
	}
	show := func(h happened) error { return p.happened(h, width, c.Bool("json")) }
	if c.Bool("follow") {
		return refused(follow(c.Context, apps, replay, show))
	}
	ctx, cancel := quickly(c)
	defer cancel()
	var all []happened
	for _, app := range apps {
		for e, err := range app.Events(ctx, replay, false) {
			if err != nil {
				return refused(err)
			}
			all = append(all, happened{app.Name, e})
		}
	}
	slices.SortStableFunc(all, func(a, b happened) int { return cmp.Compare(a.Time.UnixNano(), b.Time.UnixNano()) })
	for _, h := range all {
		if err := show(h); err != nil {
			return err
		}
	}
	return nil
}

// holding is how long an event is kept back where there are several launchers, for an
// earlier one of another's to be shown before it.
const holding = 100 * time.Millisecond

// follow shows the events of several launchers as they come, those that are kept first,
// until the last launcher has ended.
func follow(ctx context.Context, apps []*control.Client, replay int, show func(happened) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var streams []stream
	for _, app := range apps {
		streams = append(streams, stream{app.Name, app.Events(ctx, replay, true)})
	}
	hold := holding
	if len(apps) == 1 {
		hold = 0
	}
	// Of several, one that has ended is not what was asked about.
	return merge(streams, hold, show, cancel, func(err error) bool { return len(apps) > 1 && errors.Is(err, control.ErrNotRunning) })
}

// happened prints one event.
func (p *program) happened(h happened, width int, asJSON bool) error {
	if asJSON {
		out := json.NewEncoder(p.stdout)
		out.SetEscapeHTML(false)
		return out.Encode(h)
	}
	text := printable(h.Message)
	if h.Kind == event.Crashed || h.Kind == event.RolledBack {
		for _, line := range h.Tail {
			text += "\n  | " + printable(line)
		}
	}
	_, err := fmt.Fprintf(p.stdout, "%s  %-*s  %s\n", h.Time.Local().Format(time.DateTime), width, printable(h.Name), text)
	return err
}

// asking are the applications whose events are asked for:
// without a name, all that run.
func asking(c *cli.Context) ([]*control.Client, error) {
	dir, err := control.Home()
	if err != nil {
		return nil, err
	}
	names := c.Args().Slice()
	if len(names) == 0 {
		if names, err = control.List(dir); err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, notRunning(dir, "no application runs")
		}
	}
	var apps []*control.Client
	for _, name := range names {
		if name == "" { // an empty variable in a script
			return nil, usage("", "the name is empty")
		}
		app, err := application(c, name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(apps, func(known *control.Client) bool { return known.Name == name }) {
			apps = append(apps, app)
		}
	}
	return apps, nil
}

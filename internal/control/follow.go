package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"baton/internal/event"
)

// Events goes through the last events, at most replay of them, and with follow through
// those to come until the launcher ends; one that is upgraded does not. An event.Missed
// stands for those that were not read in time. An error is the last thing there is; none
// after a launcher that was killed would be a lie, so it is an ErrNotRunning then.
func (c *Client) Events(ctx context.Context, replay int, follow bool) iter.Seq2[event.Event, error] {
	return func(yield func(event.Event, error) bool) {
		f := &following{yield: yield}
		if replay == 0 {
			f.last.Time = time.Now() // what came before is not asked for later either
		}
		for {
			err := c.once(ctx, http.MethodGet, "events", eventsQuery(replay, follow), f.read)
			switch {
			case f.left || err == nil:
				return
			case !broken(err) || !c.replaced(ctx):
				yield(event.Event{}, err)
				return
			}
			if f.any || replay == 0 {
				replay = keptEvents // and the known ones are passed over
				f.known = true
			}
		}
	}
}

func eventsQuery(replay int, follow bool) url.Values {
	q := url.Values{"replay": {strconv.Itoa(replay)}}
	if !follow {
		q.Set("follow", "0")
	}
	return q
}

// following is one who goes through events, on one connection after the other.
type following struct {
	yield func(event.Event, error) bool
	last  event.Event // that was told
	any   bool        // there was one
	known bool        // those up to the last one come once more
	left  bool        // he does not want any more
}

func (f *following) read(r *http.Response) error {
	if r.StatusCode != http.StatusOK {
		return failure(r)
	}
	for lines := json.NewDecoder(r.Body); ; {
		var e event.Event
		switch err := lines.Decode(&e); {
		case errors.Is(err, io.EOF): // as the launcher ended it
			return nil
		case err != nil:
			return err
		case f.passes(e):
			continue
		case !f.yield(e, nil):
			f.left = true
			return nil
		}
	}
}

// passes says whether an event was told before. The last one may not be kept any more:
// then those that are later are new.
func (f *following) passes(e event.Event) bool {
	if f.known {
		if !e.Time.After(f.last.Time) {
			f.known = e.Kind != f.last.Kind || e.Message != f.last.Message || !e.Time.Equal(f.last.Time)
			return true
		}
		f.known = false
	}
	if e.Kind != event.Missed { // which is the reader's own
		f.last, f.any = e, true
	}
	return false
}

package launcher

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
)

func TestAnEventIsOneLine(t *testing.T) {
	for _, c := range []struct {
		e    event.Event
		want string
	}{
		{event.Event{Kind: event.Started, Message: "up", Generation: 1, Worker: 3, Slot: 0, PID: 7},
			`level=INFO msg=up event=started generation=1 worker=3 slot=0 pid=7`},
		{event.Event{Kind: event.Exited, Message: "down", Generation: 1, Worker: 3, Slot: -1},
			`level=INFO msg=down event=exited generation=1 worker=3`},
		{event.Event{Kind: event.Serving, Message: "serves", Generation: 2, Slot: 5},
			`level=INFO msg=serves event=serving generation=2`},
		{event.Event{Kind: event.RolledBack, Message: "failed", Generation: 2, Reason: "exit status 7", Tail: []string{"no licence"}},
			`level=ERROR msg=failed event=rolledback generation=2 reason="exit status 7" tail="[no licence]"`},
		{event.Event{Kind: event.Restarting, Message: "again", Generation: 2, Delay: time.Second},
			`level=INFO msg=again event=restarting generation=2 delay=1s`},
		{event.Event{Kind: event.ListenerOpened, Message: "on", Listener: "web", Mode: "steered"},
			`level=INFO msg=on event=listener-opened listener=web mode=steered`},
		{event.Event{Kind: event.ListenerOpened, Message: "on", Listener: "web", Mode: "shared", Reason: `steering = "off"`},
			`level=INFO msg=on event=listener-opened listener=web mode=shared reason="steering = \"off\""`},
		{event.Event{Kind: event.ListenerOpened, Message: "on", Listener: "web", Mode: "shared", Reason: "self-test: refused"},
			`level=WARN msg=on event=listener-opened listener=web mode=shared reason="self-test: refused"`},
	} {
		var b bytes.Buffer
		record(slog.New(slog.NewTextHandler(&b, nil)), c.e)
		if _, got, _ := strings.Cut(strings.TrimSpace(b.String()), " "); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

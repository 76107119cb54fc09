package launcher

import (
	"context"
	"log/slog"

	"baton/internal/event"
	"baton/internal/socket"
)

// levels are the kinds that are more, or less, than a transition: Error where a
// person must act, Warn where a promise is at risk.
var levels = map[event.Kind]slog.Level{
	event.Refused:    slog.LevelError,
	event.RolledBack: slog.LevelError,
	event.Abandoned:  slog.LevelError,
	event.CrashLoop:  slog.LevelError,
	event.Reverting:  slog.LevelWarn,
	event.Stuck:      slog.LevelError,
	event.Crashed:    slog.LevelWarn,
	event.Unhealthy:  slog.LevelWarn,
	event.Replacing:  slog.LevelWarn,
	event.Finding:    slog.LevelWarn,
	event.Emptying:   slog.LevelWarn,
	event.Killed:     slog.LevelWarn,
}

// record writes an event as one line: the fact as message, values as
// attributes. A value that is zero says nothing and is left out, but a worker's
// slot, which is below zero when it has none.
func record(log *slog.Logger, e event.Event) {
	attrs := []slog.Attr{slog.String("event", string(e.Kind))}
	number := func(key string, n int) {
		if n != 0 {
			attrs = append(attrs, slog.Int(key, n))
		}
	}
	text := func(key, s string) {
		if s != "" {
			attrs = append(attrs, slog.String(key, s))
		}
	}
	number("generation", e.Generation)
	number("worker", e.Worker)
	if e.Worker != 0 && e.Slot >= 0 {
		attrs = append(attrs, slog.Int("slot", e.Slot))
	}
	number("pid", e.PID)
	text("listener", e.Listener)
	text("address", e.Address)
	text("mode", e.Mode)
	text("reason", e.Reason)
	number("weight", e.Weight)
	number("connections", e.Connections)
	if e.Delay != 0 {
		attrs = append(attrs, slog.Duration("delay", e.Delay))
	}
	if len(e.Tail) > 0 {
		attrs = append(attrs, slog.Any("tail", e.Tail))
	}
	log.LogAttrs(context.Background(), level(e), e.Message, attrs...)
}

func level(e event.Event) slog.Level {
	if e.Kind == event.ListenerOpened && e.Mode == string(socket.Shared) && e.Reason != steeringOff {
		return slog.LevelWarn // a promise is at risk: nobody can be kept from the old generation's queue
	}
	return levels[e.Kind] // Info is 0
}

// steeringOff is the reason of a listener that is shared because its configuration
// says so; any other is why it could not be steered.
const steeringOff = `steering = "off"`

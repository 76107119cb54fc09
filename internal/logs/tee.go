package logs

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"
)

// Tee is a slog.Handler that writes to another one and, once it has a Store, also there:
// the launcher's own lines stand between its workers', so that why something happened
// stands beside it. Make it with NewTee.
type Tee struct {
	to    slog.Handler
	store *atomic.Pointer[teed]
	attrs []slog.Attr // with their groups in their keys
	group string      // "name." or ""
}

// teed is where a Tee writes to besides, or instead.
type teed struct {
	*Store
	alone bool
}

// NewTee returns a Tee without a Store.
func NewTee(to slog.Handler) *Tee { return &Tee{to: to, store: new(atomic.Pointer[teed])} }

// Into gives it, and those derived from it, a Store; alone: from now on nothing goes to the
// other handler.
func (t *Tee) Into(s *Store, alone bool) { t.store.Store(&teed{s, alone}) }

// Enabled is the other handler's.
func (t *Tee) Enabled(ctx context.Context, l slog.Level) bool { return t.to.Enabled(ctx, l) }

// Handle writes to both, or to the Store alone.
func (t *Tee) Handle(ctx context.Context, r slog.Record) error {
	s := t.store.Load()
	if s != nil {
		level := ""
		switch {
		case r.Level >= slog.LevelError:
			level = "error"
		case r.Level >= slog.LevelWarn:
			level = "warn"
		}
		generation := 0
		var b strings.Builder
		b.WriteString(r.Message)
		add := func(a slog.Attr) bool {
			value := a.Value.Resolve().String()
			switch {
			case a.Key == "tail": // these lines are in the store themselves
			case a.Key == "event", a.Key == "worker", a.Key == "slot", a.Key == "listener": // the message says it in words
			case a.Key == "generation" && a.Value.Kind() == slog.KindInt64:
				generation = int(a.Value.Int64())
			case value != "" && strings.Contains(r.Message, value):
			default:
				b.WriteString(" " + a.Key + "=" + quote(value))
			}
			return true
		}
		for _, a := range t.attrs {
			add(a)
		}
		r.Attrs(func(a slog.Attr) bool { return add(t.named(a)) })
		s.say(generation, level, b.String())
	}
	if s != nil && s.alone {
		return nil
	}
	return t.to.Handle(ctx, r)
}

func (t *Tee) named(a slog.Attr) slog.Attr {
	a.Key = t.group + a.Key
	return a
}

// quote makes one word of a value.
func quote(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r == '"' || unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// WithAttrs and WithGroup share the store.
func (t *Tee) WithAttrs(attrs []slog.Attr) slog.Handler {
	d := *t
	d.to, d.attrs = t.to.WithAttrs(attrs), slices.Clone(t.attrs)
	for _, a := range attrs {
		d.attrs = append(d.attrs, t.named(a))
	}
	return &d
}

// WithGroup is WithAttrs for a group.
func (t *Tee) WithGroup(name string) slog.Handler {
	d := *t
	d.to, d.group = t.to.WithGroup(name), t.group+name+"."
	return &d
}

// Say puts a line of the launcher's own into the store, and nowhere else. level is "",
// "warn" or "error".
func (s *Store) Say(level, text string) { s.say(0, level, text) }

package logs

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	queueLines = 1024            // lines that wait for their reader
	flushTime  = 2 * time.Second // the longest that Close waits for it
)

// Queue is a slog.Handler that never keeps its caller waiting, so that a log that
// nobody reads stops nobody. Lines wait in it for a goroutine that writes them;
// when queueLines of them wait, more are dropped, and a line says how many once
// there is room again. Make it with NewQueue.
type Queue struct {
	to slog.Handler // with the attributes and groups so far
	*queue
}

// queue is what a Queue shares with those derived from it.
type queue struct {
	root    slog.Handler
	lines   chan line
	dropped atomic.Int64
	once    sync.Once
	quit    chan struct{} // closed by Close
	ended   chan struct{} // closed when all is written
}

type line struct {
	to     slog.Handler
	record slog.Record
	sync   chan struct{} // nil, or no line: closed when all before it is written
}

// NewQueue begins to write to a handler. The goroutine that does it ends at
// Close, or with the program when it is stuck in a write.
func NewQueue(to slog.Handler) *Queue {
	q := &queue{root: to, lines: make(chan line, queueLines), quit: make(chan struct{}), ended: make(chan struct{})}
	go q.write()
	return &Queue{to, q}
}

// Enabled is the other handler's.
func (q *Queue) Enabled(ctx context.Context, l slog.Level) bool { return q.to.Enabled(ctx, l) }

// Handle returns at once. After Close the line is lost.
func (q *Queue) Handle(_ context.Context, r slog.Record) error {
	select {
	case q.lines <- line{to: q.to, record: r.Clone()}:
	default:
		q.dropped.Add(1)
	}
	return nil
}

// WithAttrs and WithGroup share the queue.
func (q *Queue) WithAttrs(a []slog.Attr) slog.Handler { return &Queue{q.to.WithAttrs(a), q.queue} }

// WithGroup is WithAttrs for a group.
func (q *Queue) WithGroup(name string) slog.Handler { return &Queue{q.to.WithGroup(name), q.queue} }

// To is a handler with the same queue, and another one behind it.
func (q *Queue) To(to slog.Handler) *Queue { return &Queue{to, q.queue} }

// Close writes what waits, for at most flushTime.
func (q *queue) Close() {
	q.once.Do(func() { close(q.quit) })
	select {
	case <-q.ended:
	case <-time.After(flushTime):
	}
}

// Sync waits until what came before it is written, for at most flushTime, and reports
// whether it is.
func (q *queue) Sync() bool {
	written := make(chan struct{})
	late := time.NewTimer(flushTime)
	defer late.Stop()
	select {
	case q.lines <- line{sync: written}:
	case <-q.ended:
		return true
	case <-late.C:
		return false
	}
	select {
	case <-written:
	case <-q.ended: // it was closed, and has written everything
	case <-late.C:
		return false
	}
	return true
}

func (q *queue) write() {
	defer close(q.ended)
	for {
		select {
		case l := <-q.lines:
			l.write()
		case <-q.quit:
			for len(q.lines) > 0 {
				(<-q.lines).write() // nobody else takes from it
			}
			q.confess()
			return
		}
		if len(q.lines) == 0 {
			q.confess()
		}
	}
}

// write ignores the error: a log whose reader is gone has nowhere to say so.
func (l line) write() {
	if l.sync != nil {
		close(l.sync)
		return
	}
	_ = l.to.Handle(context.Background(), l.record)
}

// confess says how many lines were dropped since it last did.
func (q *queue) confess() {
	n := q.dropped.Swap(0)
	if n == 0 || !q.root.Enabled(context.Background(), slog.LevelWarn) {
		return
	}
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log were dropped, because nobody read it", 0)
	r.AddAttrs(slog.Int64("lines", n))
	line{to: q.root, record: r}.write()
}

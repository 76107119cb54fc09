package cli

import (
	"context"
	"errors"
	"fmt"

	"baton/internal/control"
	"baton/internal/logs"
	"baton/internal/tui"
)

// followed reads the log of an application for the screen: its last lines, then those
// to come.
func followed(ctx context.Context, name string) (<-chan tui.Line, error) {
	dir, err := control.Logs()
	if err != nil {
		return nil, err
	}
	s := logs.Source{App: name, Directory: logs.Directory(dir, name)}
	if !s.Exists() {
		return nil, errors.New(name + " has no log")
	}
	lines := make(chan tui.Line, 1000)
	go func() { // ends with the context: nobody waits for the lines then
		defer close(lines)
		q := logs.Query{Sources: func() ([]logs.Source, error) { return []logs.Source{s}, nil }, Lines: 500, Worker: -1, Follow: true}
		err := logs.Read(ctx, q, func(r *logs.Record) error {
			text := string(r.Text)
			if r.Dropped > 0 && text == "" {
				text = fmt.Sprintf("%d lines are missing here", r.Dropped)
			}
			return pass(ctx, lines, tui.Line{
				Time: r.Time(), Stream: r.Stream, Generation: r.Generation, Worker: r.Worker, PID: r.PID, Text: text,
			})
		}, func() error { return nil })
		if err != nil {
			_ = pass(ctx, lines, tui.Line{Stream: logs.Baton, Text: "the log can't be read any more: " + err.Error()}) // or nobody looks any more
		}
	}()
	return lines, nil
}

func pass(ctx context.Context, to chan<- tui.Line, line tui.Line) error {
	select {
	case to <- line:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

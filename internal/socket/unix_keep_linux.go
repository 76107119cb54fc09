package socket

import (
	"errors"
	"log/slog"

	"baton/internal/keep"
)

func (l *unixListener) Keep(prefix string, f *keep.Files) State { return State{Name: l.name} }

func resumeUnix(s State, a Address, prefix string, f *keep.Files, log *slog.Logger) (Listener, error) {
	return nil, errors.New("not yet")
}

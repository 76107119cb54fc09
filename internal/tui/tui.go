// Package tui is the live screen of baton monit: the applications of a directory,
// the generations and workers of the one that is selected, what changes as it
// changes, and the keys that ask a launcher to do something.
//
// The invariant: nothing that a launcher does or does not answer holds up the
// screen. Each question is a command of its own, beside the loop that draws, and
// each answer is a message to it; all state belongs to that loop. What a launcher
// is told to do was asked for by a key and confirmed by another.
//
// It decides nothing about launchers: it shows event.Report and calls
// control.Client. The library is Bubble Tea alone. Lip Gloss, and Bubbles, which
// needs it, are left out: to find out about colours Lip Gloss runs `tmux info`
// before main, in every process that has it linked in and a terminal to write to.
// Here that would be each launcher, and each worker's shim.
package tui

import (
	"context"
	"errors"
	"os"
	"time"

	"baton/internal/event"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/term"
)

// Line is one line of an application's log.
type Line struct {
	Time       time.Time
	Stream     string // "out", "err", or "baton": the launcher's own
	Generation int    // 0: none
	Worker     int    // its index
	PID        int
	Text       string
}

// Follow reads an application's log: some lines from before, then what comes, until
// the context ends. The channel is closed when there is no more. An error means that
// there is none to read.
type Follow func(ctx context.Context, name string) (<-chan Line, error)

// Rest tells of the applications that are known and do not run, as baton status shows
// them; who runs is not among them.
type Rest func(running []string) ([]*event.Report, error)

// Options is what the screen is told.
type Options struct {
	Directory string // in which the launchers' sockets lie
	Name      string // of the application that is selected at first; "": the first one
	Rest      Rest   // nil: only what runs is shown
	Follow    Follow // nil: what is seen to change is shown where the log would be
	// Restart stops an application and starts it again, or starts what does not run;
	// nil: that is not offered.
	Restart func(ctx context.Context, name string) error

	Input, Output *os.File // a terminal
}

// ErrNoTerminal means that there is no screen to draw on.
var ErrNoTerminal = errors.New("this is no terminal")

// Run draws until its user leaves, or the context ends.
func Run(ctx context.Context, o Options) error {
	if t := os.Getenv("TERM"); t == "" || t == "dumb" || !isTerminal(o.Input) || !isTerminal(o.Output) {
		return ErrNoTerminal
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // and with it every question that is still open
	// With the profile given nobody looks for one: that would run tmux, too.
	_, err := tea.NewProgram(newScreen(ctx, o, lookFor(os.Getenv)), tea.WithContext(ctx), tea.WithInput(o.Input),
		tea.WithOutput(o.Output), tea.WithColorProfile(colorprofile.ANSI)).Run()
	if errors.Is(err, tea.ErrInterrupted) { // SIGINT from elsewhere
		return nil
	}
	return err
}

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(f.Fd()) }

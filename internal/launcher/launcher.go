// Package launcher wires the parts of a launcher together: configuration,
// engine, workers' output, signals and the log. It is wiring and only wiring;
// what is decided is decided in handoff/machine.
//
// It never parses a flag and never prints but through the log.
package launcher

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/event"
	"baton/internal/logs"
)

// Options are what Run needs.
type Options struct {
	// Load reads the configuration; it is called at the start and at each
	// reload.
	Load func() (*config.Config, error)
	// Stdout and Stderr receive what workers write.
	Stdout, Stderr *os.File
	// Log is the launcher's own.
	Log *slog.Logger
}

// ConfigError is returned by Run when the first configuration cannot be used.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// ExitCode is that of an invalid configuration.
func (e *ConfigError) ExitCode() int { return 5 }

// Run runs one application until a signal ends it: nil then, a *ConfigError
// when it cannot begin, handoff.ErrNeverServed when its first generation
// failed.
func Run(ctx context.Context, o Options) error {
	// First of all, so that no signal that comes early ends the launcher or is
	// missed. SIGPIPE too: who reads the log may go away, the launcher may not.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGPIPE)
	defer signal.Stop(signals)

	first, err := o.Load()
	if err != nil {
		return &ConfigError{err}
	}
	if _, err := plan(first); err != nil {
		return &ConfigError{err}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	out := logs.NewPassthrough(o.Stdout, o.Stderr)
	defer out.Close()

	open := func() (handoff.Output, error) { return out.Open() }
	if first.Logs.Output == "inherit" {
		open = func() (handoff.Output, error) { return inherited{}, nil }
	}

	var begun atomic.Bool
	s := handoff.New(handoff.Options{
		Name: first.Name,
		Load: func() (*handoff.Plan, error) {
			if begun.CompareAndSwap(false, true) {
				return plan(first)
			}
			c, err := o.Load()
			if err != nil {
				return nil, err
			}
			return plan(c)
		},
		Output: func(int, int) (handoff.Output, error) { return open() },
		Observe: func(e event.Event) {
			record(o.Log, e)
			tidy(e)
		},
		Log: o.Log,
	})
	o.Log.Info("baton starts "+first.Name, "pid", os.Getpid())

	done := make(chan struct{})
	defer close(done)
	go func() { // ends when Run returns
		for stops := 0; ; {
			select {
			case <-done:
				return
			case sig := <-signals:
				stops = obey(s, o.Log, sig, stops)
			}
		}
	}()
	if err := s.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// gcPercent trades a little time, of which a launcher has plenty, for memory
// that a machine with many applications would miss: the Go default lets a heap
// of half a megabyte grow to four before it is looked at.
const gcPercent = 25

// tidy gives what a swap needed back to the machine when it is over.
func tidy(e event.Event) {
	if e.Kind == event.Gone {
		go debug.FreeOSMemory() // ends by itself, in about a millisecond
	}
}

// obey does what a signal asks for. stops counts the requests to end: the
// second one ends everything now.
func obey(s *handoff.Supervisor, log *slog.Logger, sig os.Signal, stops int) int {
	switch sig {
	case syscall.SIGHUP:
		s.Reload(nil)
	case syscall.SIGTERM, syscall.SIGINT:
		if stops++; stops == 1 {
			s.Stop()
		} else {
			s.End()
		}
	case syscall.SIGQUIT:
		stops++
		s.End()
	case syscall.SIGPIPE:
	default:
		// Their default action would end the launcher.
		log.Warn("signal not acted on", "signal", sig.String())
	}
	return stops
}

package launcher

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"baton/handoff"
)

// signals are those that a launcher is sent. The os/signal package drops what
// finds its channel full: each kind has a channel that may be full without loss.
type signals struct {
	// Two requests to end are as good as more: the second ends everything now.
	end chan os.Signal
	// One reload is remembered while another is being handed over; it will read
	// what the later ones were sent for.
	reload chan os.Signal
	// Nothing is done about the rest.
	rest chan os.Signal
}

// broken receives SIGPIPE and is never read: the signal only must not do what it
// does by default, since who reads the log may go away and the launcher may not.
// It is not ignored, because a worker would inherit that.
var broken = make(chan os.Signal, 1)

// catch takes over the signals until the process ends: one that comes after the
// engine has ended must not change the exit code.
func catch() signals {
	s := signals{end: make(chan os.Signal, 2), reload: make(chan os.Signal, 1), rest: make(chan os.Signal, 16)}
	signal.Notify(s.end, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	signal.Notify(s.reload, syscall.SIGHUP)
	// Their default action would end the launcher.
	signal.Notify(s.rest, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU)
	signal.Notify(broken, syscall.SIGPIPE)
	return s
}

// obey does what signals ask for until done is closed. It waits for nobody but the
// engine.
func (s signals) obey(done <-chan struct{}, engine *handoff.Supervisor, log *slog.Logger) {
	for stops := 0; ; {
		select {
		case <-done:
			return
		case sig := <-s.end:
			if stops++; stops > 1 || sig == syscall.SIGQUIT {
				engine.End()
			} else {
				engine.Stop()
			}
		case <-s.reload:
			engine.Reload(nil)
		case sig := <-s.rest:
			log.Warn("signal not acted on", "signal", sig.String())
		}
	}
}

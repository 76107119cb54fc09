package protocol

import (
	"strconv"
	"time"

	"baton/internal/keep"
)

// KindSystemd is what systemd gives a service: sd_listen_fds(3), sd_notify(3) and
// sd_watchdog_enabled(3).
const KindSystemd Kind = "systemd"

// systemd is that for one worker.
type systemd struct {
	sockets  []Socket
	notify   *Notify
	watchdog time.Duration
}

func openSystemd(_ *Hub, c *Choice, w *Worker) (channel, error) {
	n, err := OpenNotify(w.Member, systemdMessages(w), w.Log)
	if err != nil {
		return nil, err
	}
	s := &systemd{w.Sockets, n, w.Watchdog}
	if c.speaks(KindTableflip) {
		s.sockets = nil // they are not where LISTEN_FDS begins
	}
	return s, nil
}

func systemdMessages(w *Worker) func(Message) {
	return func(m Message) {
		if m.Ready {
			m.Via = "READY=1"
		}
		w.On(m)
	}
}

func (s *systemd) files() []int { return nil }

func (s *systemd) env(int, int) []string {
	return append(append(Systemd(s.sockets), s.notify.Env()), watchdog(s.watchdog)...)
}

// watchdog returns the variables of sd_watchdog_enabled(3); none for 0. As with
// LISTEN_PID, internal/process puts the pid in: a child of the worker's that inherits
// the variables is not to answer for it.
func watchdog(interval time.Duration) []string {
	if interval <= 0 {
		return nil
	}
	return []string{
		"WATCHDOG_USEC=" + strconv.FormatInt(max(interval.Microseconds(), 1), 10), // 0 would be none
		"WATCHDOG_PID=self",
	}
}

func (s *systemd) started() {}

func (s *systemd) close() error { return s.notify.Close() }

// NotifyState is a notify socket; it is kept as the channel's ".socket".
type NotifyState struct {
	Name      string `json:"name"` // "@baton/notify/..."
	ToldStore bool   `json:"told_store,omitempty"`
	Closed    bool   `json:"closed,omitempty"`
}

func (s *systemd) keep(prefix string, f *keep.Files) ChannelState {
	return s.notify.keep(prefix, f)
}

func (s *systemd) stop(late <-chan time.Time) bool { return s.notify.stop(late) }
func (s *systemd) goOn()                           { s.notify.goOn() }
func (s *systemd) drop()                           { _ = s.notify.Close() } // that is all it does

func resumeSystemd(_ *Hub, _ *Choice, w *Worker, s ChannelState, prefix string, f *keep.Files) (channel, error) {
	state := s.Notify
	if state == nil {
		state = &NotifyState{}
	}
	n, err := resumeNotify(*state, prefix, f, w.Member, systemdMessages(w), w.Log)
	return &systemd{notify: n}, err
}

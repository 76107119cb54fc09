package protocol

// KindSystemd is what systemd gives a service: sd_listen_fds(3) and sd_notify(3).
const KindSystemd Kind = "systemd"

// systemd is that for one worker.
type systemd struct {
	sockets []Socket
	notify  *Notify
}

func openSystemd(_ *Hub, c *Choice, w *Worker) (channel, error) {
	n, err := OpenNotify(w.Member, func(m Message) {
		if m.Ready {
			m.Via = "READY=1"
		}
		w.On(m)
	}, w.Log)
	if err != nil {
		return nil, err
	}
	if c.speaks(KindTableflip) {
		return &systemd{nil, n}, nil // its sockets are not where LISTEN_FDS begins
	}
	return &systemd{w.Sockets, n}, nil
}

func (s *systemd) files() []int { return nil }

func (s *systemd) env(int, int) []string {
	return append(Systemd(s.sockets), s.notify.Env())
}

func (s *systemd) started() {}

func (s *systemd) close() error { return s.notify.Close() }

package protocol

import (
	"errors"
	"os"
	"time"

	"baton/internal/keep"
)

// TableflipState is the two pipes of tableflip; our ends are kept as the channel's
// ".ready" and ".names".
type TableflipState struct {
	Ready  bool   `json:"ready,omitempty"`  // the ready pipe is closed here
	Hung   bool   `json:"hung,omitempty"`   // the names pipe is
	Told   bool   `json:"told,omitempty"`   // the names are written
	Lonely bool   `json:"lonely,omitempty"` // nothing of an older generation is left
	Rest   []byte `json:"rest,omitempty"`   // of the names, what is not written
}

func (t *flipper) keep(prefix string, f *keep.Files) ChannelState {
	state := &TableflipState{}
	state.Ready = !number(t.ready, func(fd int) { f.Put(prefix+".ready", fd) })
	t.mu.Lock()
	defer t.mu.Unlock()
	state.Hung = !number(t.names, func(fd int) { f.Put(prefix+".names", fd) })
	state.Told, state.Lonely = t.told, t.lonely
	state.Rest = append(state.Rest, t.rest...)
	return ChannelState{Words: t.story.told(), Whole: t.reading.still() && t.writing.still(), Tableflip: state}
}

func (t *flipper) stop(late <-chan time.Time) bool {
	_ = t.ready.SetReadDeadline(past) // closed: nobody reads
	_ = t.names.SetWriteDeadline(past)
	reading, writing := t.reading.hold(late), t.writing.hold(late)
	return reading && writing
}

func (t *flipper) goOn() {
	_ = t.ready.SetReadDeadline(time.Time{}) // likewise
	_ = t.names.SetWriteDeadline(time.Time{})
	t.reading.free()
	t.writing.free()
}

func (t *flipper) drop() {
	t.reading.end()
	t.writing.end()
	_, _ = t.ready.Close(), t.names.Close() // a pipe loses nothing that was written
}

func resumeTableflip(_ *Hub, _ *Choice, w *Worker, s ChannelState, prefix string, f *keep.Files) (channel, error) {
	state := s.Tableflip
	if state == nil {
		state = &TableflipState{Ready: true, Hung: true, Told: true}
	}
	t := &flipper{worker: w, reading: newGate(), writing: newGate(),
		rest: state.Rest, told: state.Told, lonely: state.Lonely}
	t.lent[0].fd, t.lent[1].fd = -1, -1
	t.story.tell(s.Words)
	ready, names, err := t.take(state, prefix, f)
	if ready != nil {
		t.ready = ready
		go t.read() // ends as in openTableflip
	}
	switch {
	case names == nil:
		t.told = true // to nobody
	case t.told:
		t.names = names
		t.mu.Lock()
		t.hangUp()
		t.mu.Unlock()
	default:
		t.names = names
		go t.write() // likewise
	}
	return t, err
}

func (t *flipper) take(s *TableflipState, prefix string, f *keep.Files) (ready, names *os.File, err error) {
	if !s.Ready {
		ready, err = takePipe(prefix+".ready", os.O_RDONLY, f)
	}
	if !s.Hung {
		var nerr error
		names, nerr = takePipe(prefix+".names", os.O_WRONLY, f)
		err = errors.Join(err, nerr)
	}
	return ready, names, err
}

package protocol

import (
	"os"
	"time"

	"baton/internal/keep"
)

// S6State is an s6 pipe; its read end is kept as the channel's ".pipe".
type S6State struct {
	FD    int  `json:"fd"`              // the number in the worker
	Total int  `json:"total,omitempty"` // bytes that were read
	Over  bool `json:"over,omitempty"`
}

func (s *s6) keep(prefix string, f *keep.Files) ChannelState {
	state := &S6State{FD: s.fd}
	state.Over = !number(s.pipe, func(fd int) { f.Put(prefix+".pipe", fd) })
	whole := s.gate.still()
	if whole {
		state.Total = s.total
	}
	return ChannelState{Words: s.story.told(), Whole: whole, S6: state}
}

func (s *s6) stop(late <-chan time.Time) bool {
	_ = s.pipe.SetReadDeadline(past) // closed: nobody reads
	return s.gate.hold(late)
}

func (s *s6) goOn() {
	_ = s.pipe.SetReadDeadline(time.Time{}) // likewise
	s.gate.free()
}

func (s *s6) drop() {
	s.gate.end()
	_ = s.pipe.Close() // only read from
}

func resumeS6(_ *Hub, _ *Choice, w *Worker, s ChannelState, prefix string, f *keep.Files) (channel, error) {
	state := s.S6
	if state == nil {
		state = &S6State{Over: true}
	}
	ch := &s6{fd: state.FD, workers: lent{fd: -1}, worker: w, gate: newGate(), total: state.Total}
	ch.story.tell(s.Words)
	var err error
	if !state.Over {
		ch.pipe, err = takePipe(prefix+".pipe", os.O_RDONLY, f)
	}
	if ch.pipe != nil {
		go ch.read() // ends as in openS6
	}
	return ch, err
}

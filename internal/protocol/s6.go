package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// KindS6 is s6's readiness notification: the program writes a newline to a
// descriptor whose number it has been configured with
// (https://skarnet.org/software/s6/notifywhenup.html). It has nothing to do with
// sockets.
const KindS6 Kind = "s6"

// maxUnended is how much a worker may write before its newline, in bytes. s6
// passes over all of it; but who writes more means something else.
const maxUnended = 64 << 10

// s6 is that for one worker. It ends with the newline: from then on a worker that
// writes more finds the pipe closed, as under s6.
type s6 struct {
	fd      int // the number in the worker
	pipe    *os.File
	workers lent
	worker  *Worker
	story   story
	gate    gate
	total   int // bytes that were read
}

// openS6 makes the pipe and begins to read. The goroutine ends with the newline,
// when the worker has closed its end, or at close.
func openS6(_ *Hub, c *Choice, w *Worker) (channel, error) {
	ours, workers, err := pipe("ready_fd", true)
	if err != nil {
		return nil, err
	}
	s := &s6{fd: c.Settings.ReadyFD, pipe: ours, workers: lent{fd: workers}, worker: w, gate: newGate()}
	go s.read()
	return s, nil
}

func (s *s6) number() int           { return s.fd }
func (s *s6) files() []int          { return []int{s.workers.number()} }
func (s *s6) env(int, int) []string { return nil }
func (s *s6) started()              { s.workers.letGo() }
func (s *s6) hint() string          { return s.story.told() }

func (s *s6) close() error {
	s.workers.letGo()
	s.gate.end()
	return closed(s.pipe.Close())
}

// closed is the error of a second Close, of one that another goroutine was faster with,
// or of a file that was never there: none.
func closed(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, os.ErrInvalid) {
		return nil
	}
	return err
}

func (s *s6) read() {
	for buf := make([]byte, 512); s.gate.enter(); {
		more := s.piece(buf)
		if !more {
			s.pipe.Close() // only read from
		}
		s.gate.leave()
		if !more {
			return
		}
	}
}

// piece reads what there is; false: it was the last.
func (s *s6) piece(buf []byte) bool {
	n, err := s.pipe.Read(buf)
	if bytes.IndexByte(buf[:n], '\n') >= 0 {
		s.worker.On(Message{Ready: true, Via: fmt.Sprintf("a newline on descriptor %d", s.fd)})
		return false
	}
	if s.total += n; n > 0 {
		s.story.tell(fmt.Sprintf("it wrote to descriptor %d, but no newline", s.fd))
	}
	switch {
	case s.total > maxUnended:
		s.worker.Log.Warn("ready_fd closed: no newline in what was written to it", "descriptor", s.fd, "bytes", s.total)
		return false
	case errors.Is(err, io.EOF):
		s.story.tell(fmt.Sprintf("it closed descriptor %d without writing a newline", s.fd))
		if s.total > 0 {
			s.worker.Log.Warn("ready_fd: closed by the worker without a newline", "descriptor", s.fd, "bytes", s.total)
		}
		return false
	}
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded) // or close, or stop
}

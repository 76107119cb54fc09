// Package logs carries what workers write, and what the launcher logs. Each
// worker has a pipe for its standard output and one for its standard error. With a
// Passthrough what comes through is written to the launcher's own, byte for byte and at
// once; with a Capture each line becomes a record in the application's Store, from which
// Read gives it back. Either way the last lines are remembered, so that a failure can be
// shown with the worker's own words.
//
// The invariant: a worker's bytes are neither changed nor reordered within a stream, and
// never lost without a word: a Passthrough loses none while the launcher runs, and a
// Store counts what it had to drop and says so in its place. A worker that writes to a
// Passthrough blocks for the reason it would block without the launcher, nobody reads;
// one that is captured never blocks for longer than a slow disk needs, or stallTime. The
// launcher itself never waits for a reader: its own lines wait in a Queue. What a store
// takes is bounded. The package never interprets what it carries.
package logs

import (
	"errors"
	"io"
	"os"
	"time"
)

// Passthrough copies the output of workers to two files.
type Passthrough struct {
	stdout, stderr outlet
	pipes          pipes
}

// NewPassthrough returns a Passthrough to the two files.
func NewPassthrough(stdout, stderr io.Writer) *Passthrough {
	return &Passthrough{stdout: newOutlet(stdout), stderr: newOutlet(stderr)}
}

// Open makes the pipes of one worker. Each is read by a goroutine that ends
// when every process that holds the write end has closed it, or at Close.
func (p *Passthrough) Open() (*Output, error) {
	o, err := newOutput()
	if err != nil {
		return nil, err
	}
	p.begin(o)
	return o, nil
}

func (p *Passthrough) begin(o *Output) {
	p.pipes.begin(o.out, func() { p.copy(o.out, p.stdout) })
	p.pipes.begin(o.err, func() { p.copy(o.err, p.stderr) })
}

// copy passes on what comes until the pipe's end or Close, and then what is
// there already.
func (p *Passthrough) copy(s *stream, to outlet) {
	buf := make([]byte, 32<<10)
	s.pass(s.left, to)
	for {
		n, err := s.read(buf)
		s.pass(buf[:n], to)
		if errors.Is(err, os.ErrDeadlineExceeded) && !s.closed() {
			s.stand(nil, time.Time{})
			continue
		}
		if err != nil {
			break
		}
	}
	// Not until the pipe is empty: who still writes to it may never stop.
	for left := s.unread(); left > 0; {
		n := s.rest(buf[:min(left, len(buf))])
		if n == 0 {
			return
		}
		s.pass(buf[:n], to)
		left -= n
	}
}

// pass writes all of it, and stands still in between while it is to.
func (s *stream) pass(b []byte, to outlet) {
	for len(b) > 0 {
		n, err := to.put(b, s.stopped)
		b = b[n:]
		s.passed.Add(1)
		if err != nil {
			// A standard output that is gone (a closed terminal) must not end the
			// worker: what it writes is dropped, as it would be there.
			return
		}
		if len(b) > 0 && !s.stand(b, time.Time{}) {
			return
		}
	}
}

// Close ends the copying once what is in the pipes has been passed on. It gives
// up when nothing, of chunks of 32 KiB, was taken for closeTime; a copy that is
// stuck in a write then ends with the program.
func (p *Passthrough) Close() {
	if p.pipes.close() {
		p.stdout.close()
		p.stderr.close()
	}
}

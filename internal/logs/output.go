package logs

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Output is what one worker writes to.
type Output struct {
	out, err *stream
	tail     *tail
	pid      atomic.Int64
	begun    chan struct{} // closed by Started
	once     sync.Once
}

// stream is one pipe: a worker holds the write end.
type stream struct {
	r       *os.File
	w       int // -1 when let go of
	tail    *tail
	passed  atomic.Int64  // changes whenever something has gone on its way
	closing chan struct{} // closed by end
	begun   chan struct{} // closed when it is read from; nil: from the beginning

	mu    sync.Mutex
	taken int64     // bytes read so far; the tail has them all
	over  bool      // end was called
	alarm time.Time // when the reader wants to be woken; zero: never
	halt  *halt     // nil: it is not paused
	// What was read and has not arrived, at the last stand; and a line's age.
	left    []byte
	since   time.Time
	dropped bool
}

func newOutput() (*Output, error) {
	o := &Output{tail: newTail(), begun: make(chan struct{})}
	var err error
	if o.out, err = newStream(o.tail); err != nil {
		return nil, err
	}
	if o.err, err = newStream(o.tail); err != nil {
		o.out.letGo()
		_ = o.out.r.Close() // never used
		return nil, err
	}
	return o, nil
}

func newStream(t *tail) (*stream, error) {
	r, w, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return &stream{r: os.NewFile(uintptr(r), "worker's output"), w: w, tail: t, closing: make(chan struct{})}, nil
}

// read waits for bytes; io.EOF is the end, os.ErrDeadlineExceeded is Close.
func (s *stream) read(buf []byte) (n int, err error) {
	c, err := s.r.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := c.Read(func(fd uintptr) bool {
		n, err = s.take(int(fd), buf)
		return err != unix.EAGAIN
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case err == nil && n == 0:
		return 0, io.EOF
	}
	return n, err
}

// rest does not wait: 0 when nothing is there.
func (s *stream) rest(buf []byte) (n int) {
	s.control(func(fd int) { n, _ = s.take(fd, buf) }) // an error is an empty pipe's
	return n
}

// take gives bytes to the tail in the same critical section that reads them, so
// that mark finds them either counted or in the pipe.
func (s *stream) take(fd int, buf []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n > 0 {
			s.tail.write(buf[:n])
			s.taken += int64(n)
			s.passed.Add(1)
		}
		return max(n, 0), err
	}
}

// unread is how many bytes wait in the pipe.
func (s *stream) unread() (n int) {
	s.control(func(fd int) {
		var err error
		if n, err = unread(fd); err != nil {
			n = 0
		}
	})
	return n
}

// mark is what taken will be when the tail has all that was written before the
// call; has says whether it is.
func (s *stream) mark() (m int64) {
	s.control(func(fd int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		m = s.taken
		if n, err := unread(fd); err == nil {
			m += int64(n)
		}
	})
	return m
}

func (s *stream) has(mark int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken >= mark
}

// control calls f with the read end, unless that is closed: then it was read to
// its end.
func (s *stream) control(f func(fd int)) {
	if c, err := s.r.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { f(int(fd)) }) // closed, see above
	}
}

func (s *stream) letGo() {
	if s.w >= 0 {
		_ = unix.Close(s.w) // nothing was written through this descriptor
		s.w = -1
	}
}

// Stdout is the descriptor for the worker's standard output; it stays the
// Output's own.
func (o *Output) Stdout() int { return o.out.w }

// Stderr is the same for standard error.
func (o *Output) Stderr() int { return o.err.w }

// Started closes the ends that only the worker needs. pid is the worker's, or 0.
func (o *Output) Started(pid int) {
	o.pid.Store(int64(pid))
	o.once.Do(func() { close(o.begun) })
	o.out.letGo()
	o.err.letGo()
}

// settleTime bounds the wait for bytes that are in the pipe and not yet in the
// tail: a reader who takes nothing from the launcher keeps them there.
const settleTime = 20 * time.Millisecond

// Tail returns the last lines of both streams, in the order in which they came
// through. It waits until what was written before the call is among them, at most
// settleTime.
func (o *Output) Tail() []string {
	out, errs := o.out.mark(), o.err.mark()
	deadline := time.Now().Add(settleTime)
	for !(o.out.has(out) && o.err.has(errs)) && time.Now().Before(deadline) {
		time.Sleep(200 * time.Microsecond)
	}
	return o.tail.lines()
}

// wakeAt ends a read that waits then; zero: never. Not after end.
func (s *stream) wakeAt(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alarm = t
	s.deadline()
}

// end wakes the reader for the last time.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		close(s.closing)
		s.deadline()
	}
}

// deadline has the reader woken when there is reason. Call it with mu held.
func (s *stream) deadline() {
	at := s.alarm
	if s.over || s.halt != nil {
		at = time.Unix(1, 0)
	}
	_ = s.r.SetReadDeadline(at) // closed: nobody reads
}

func (s *stream) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// pipes are the streams that are read.
type pipes struct {
	mu     sync.Mutex
	open   map[*stream]chan struct{} // closed when it has ended
	paused bool
	wg     sync.WaitGroup
}

// begin reads a stream by calling carry, which ends at its end.
func (p *pipes) begin(s *stream, carry func()) {
	ended := make(chan struct{})
	p.mu.Lock()
	if p.open == nil {
		p.open = make(map[*stream]chan struct{})
	}
	p.open[s] = ended
	if p.paused {
		s.stop()
	}
	p.mu.Unlock()
	p.wg.Go(func() {
		carry()
		_ = s.r.Close() // only read from
		close(ended)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, s)
	})
}

// closeTime is how long Close waits for a reader who takes nothing.
const closeTime = 2 * time.Second

// close has everything end that copies, and waits while it gets on. It reports whether
// all of it has ended.
func (p *pipes) close() bool {
	p.mu.Lock()
	var all []*stream
	for s := range p.open {
		s.end()
		all = append(all, s)
	}
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() { // ends with the copies
		p.wg.Wait()
		close(ended)
	}()
	for before := int64(-1); ; {
		passed := int64(0)
		for _, s := range all {
			passed += s.passed.Load()
		}
		if passed == before {
			return false
		}
		before = passed
		select {
		case <-ended:
			return true
		case <-time.After(closeTime):
		}
	}
}

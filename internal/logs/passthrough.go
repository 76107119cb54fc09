// Package logs carries what workers write, and what the launcher logs. Each
// worker has a pipe for its standard output and one for its standard error; what
// comes through is written to the launcher's own, byte for byte and at once, and
// the last lines are remembered so that a failure can be shown with the worker's
// own words.
//
// The invariant: workers' bytes are neither changed, dropped nor reordered within
// a stream while the launcher runs, and a worker that blocks blocks for the reason
// it would block without the launcher: nobody reads. The launcher itself never
// waits for a reader: its own lines wait in a Queue. The package never interprets
// what it carries.
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

// Passthrough copies the output of workers to two files.
type Passthrough struct {
	stdout, stderr io.Writer
	mu             sync.Mutex
	open           map[*stream]bool
	wg             sync.WaitGroup
	passed         atomic.Int64 // chunks written
}

// NewPassthrough returns a Passthrough to the two files.
func NewPassthrough(stdout, stderr io.Writer) *Passthrough {
	return &Passthrough{stdout: stdout, stderr: stderr, open: make(map[*stream]bool)}
}

// Output is what one worker writes to.
type Output struct {
	out, err *stream
	tail     *tail
}

// stream is one pipe: a worker holds the write end.
type stream struct {
	r     *os.File
	w     int // -1 when let go of
	tail  *tail
	mu    sync.Mutex
	taken int64 // bytes read so far; the tail has them all
}

// Open makes the pipes of one worker. Each is read by a goroutine that ends
// when every process that holds the write end has closed it, or at Close.
func (p *Passthrough) Open() (*Output, error) {
	o := &Output{tail: newTail()}
	var err error
	if o.out, err = newStream(o.tail); err != nil {
		return nil, err
	}
	if o.err, err = newStream(o.tail); err != nil {
		o.out.letGo()
		_ = o.out.r.Close() // never used
		return nil, err
	}
	p.begin(o.out, p.stdout)
	p.begin(o.err, p.stderr)
	return o, nil
}

func newStream(t *tail) (*stream, error) {
	r, w, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return &stream{r: os.NewFile(uintptr(r), "worker's output"), w: w, tail: t}, nil
}

func (p *Passthrough) begin(s *stream, to io.Writer) {
	p.mu.Lock()
	p.open[s] = true
	p.mu.Unlock()
	p.wg.Go(func() {
		p.copy(s, to)
		p.mu.Lock()
		delete(p.open, s)
		p.mu.Unlock()
		_ = s.r.Close() // only read from
	})
}

// copy passes on what comes until the pipe's end or Close, and then what is
// there already.
func (p *Passthrough) copy(s *stream, to io.Writer) {
	buf := make([]byte, 32<<10)
	pass := func(n int) {
		if n > 0 {
			// A standard output that is gone (a closed terminal) must not end the
			// worker: what it writes is dropped, as it would be there.
			_, _ = to.Write(buf[:n])
			p.passed.Add(1)
		}
	}
	for {
		n, err := s.read(buf)
		pass(n)
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
		pass(n)
		left -= n
	}
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

// Started closes the ends that only the worker needs.
func (o *Output) Started() {
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

// closeTime is how long Close waits for a reader who takes nothing.
const closeTime = 2 * time.Second

// Close ends the copying once what is in the pipes has been passed on. It gives
// up when nothing, of chunks of 32 KiB, was taken for closeTime; a copy that is
// stuck in a write then ends with the program.
func (p *Passthrough) Close() {
	p.mu.Lock()
	for s := range p.open {
		_ = s.r.SetReadDeadline(time.Now()) // wakes the reader; closed already: it has ended
	}
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() { // ends with the copies
		p.wg.Wait()
		close(ended)
	}()
	for before := int64(-1); before != p.passed.Load(); {
		before = p.passed.Load()
		select {
		case <-ended:
			return
		case <-time.After(closeTime):
		}
	}
}

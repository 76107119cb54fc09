// Package logs carries what workers write. Each worker has a pipe for its
// standard output and one for its standard error; what comes through is written
// to the launcher's own, byte for byte and at once, and the last lines are
// remembered so that a failure can be shown with the worker's own words.
//
// The invariant: bytes are neither changed, dropped nor reordered within a
// stream, and a worker that blocks blocks for the reason it would block without
// the launcher: nobody reads. The package never interprets what it carries.
package logs

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Passthrough copies the output of workers to two files.
type Passthrough struct {
	stdout, stderr io.Writer
	mu             sync.Mutex
	open           map[*stream]bool
	wg             sync.WaitGroup
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
	r    *os.File
	w    int // -1 when let go of
	mu   sync.Mutex
	busy bool // bytes were read and not yet written
}

// Open makes the pipes of one worker. Each is read by a goroutine that ends
// when every process that holds the write end has closed it, or at Close.
func (p *Passthrough) Open() (*Output, error) {
	o := &Output{tail: newTail()}
	var err error
	if o.out, err = newStream(); err != nil {
		return nil, err
	}
	if o.err, err = newStream(); err != nil {
		o.out.letGo()
		_ = o.out.r.Close() // never used
		return nil, err
	}
	p.copy(o.out, p.stdout, o.tail)
	p.copy(o.err, p.stderr, o.tail)
	return o, nil
}

func newStream() (*stream, error) {
	r, w, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return &stream{r: os.NewFile(uintptr(r), "worker's output"), w: w}, nil
}

func (p *Passthrough) copy(s *stream, to io.Writer, t *tail) {
	p.mu.Lock()
	p.open[s] = true
	p.mu.Unlock()
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		buf := make([]byte, 32<<10)
		for {
			n, err := s.read(buf)
			if n > 0 {
				t.write(buf[:n])
				// A standard output that is gone (a closed terminal) must not end
				// the worker: what it writes is dropped, as it would be there.
				_, _ = to.Write(buf[:n])
				s.done()
			}
			if err != nil { // the end, or Close
				break
			}
		}
		p.mu.Lock()
		delete(p.open, s)
		p.mu.Unlock()
		_ = s.r.Close() // only read from; closed already after Close
	}()
}

// read marks the stream busy in the same critical section that takes bytes out
// of the pipe, so that empty never finds them in neither place.
func (s *stream) read(buf []byte) (n int, err error) {
	c, err := s.r.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := c.Read(func(fd uintptr) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		n, err = unix.Read(int(fd), buf)
		s.busy = n > 0
		return err != unix.EAGAIN && err != unix.EINTR
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case err == nil && n == 0:
		return 0, io.EOF
	}
	return max(n, 0), err
}

func (s *stream) done() {
	s.mu.Lock()
	s.busy = false
	s.mu.Unlock()
}

// empty says whether all that was written to the pipe has been passed on.
func (s *stream) empty() bool {
	c, err := s.r.SyscallConn()
	if err != nil {
		return true // closed: it was read to its end
	}
	empty := true
	err = c.Control(func(fd uintptr) {
		s.mu.Lock()
		defer s.mu.Unlock()
		n, err := unread(int(fd))
		empty = !s.busy && (err != nil || n == 0)
	})
	return err != nil || empty
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

// settleTime bounds the wait for output that nobody takes from the launcher.
const settleTime = 200 * time.Millisecond

// Tail returns the last lines of both streams, in the order in which they came
// through. It waits until what was written before the call has been passed on,
// at most settleTime.
func (o *Output) Tail() []string {
	deadline := time.Now().Add(settleTime)
	for !(o.out.empty() && o.err.empty()) && time.Now().Before(deadline) {
		time.Sleep(200 * time.Microsecond)
	}
	return o.tail.lines()
}

// Close ends the copying. What is still in the pipes is dropped.
func (p *Passthrough) Close() {
	p.mu.Lock()
	for s := range p.open {
		_ = s.r.SetReadDeadline(time.Now()) // wakes the reader; closed already: it has ended
	}
	p.mu.Unlock()
	p.wg.Wait()
}

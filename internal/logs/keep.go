package logs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
)

// OutputState is what a launcher has to know of an Output that its predecessor opened.
// The read ends of its pipes are kept as "<prefix>.out" and "<prefix>.err".
type OutputState struct {
	PID     int64       `json:"pid,omitempty"`
	Out     StreamState `json:"out"`
	Err     StreamState `json:"err"`
	Tail    [][]byte    `json:"tail,omitempty"` // the last lines, the oldest first
	Partial []byte      `json:"partial,omitempty"`
}

// StreamState is one pipe. What was read and has not arrived is in it only while it is
// paused: otherwise it is on its way.
type StreamState struct {
	Ended bool `json:"ended,omitempty"` // every process has closed its end
	// Rest is what was read: by a Capture a line whose end has not come, by a Passthrough
	// what nobody has taken.
	Rest  []byte    `json:"rest,omitempty"`
	Since time.Time `json:"since,omitzero"` // when the line began
}

// Keep says what Resume needs. The descriptors stay the Output's.
func (o *Output) Keep(prefix string, f *keep.Files) OutputState {
	s := OutputState{PID: o.pid.Load(), Out: o.out.keep(prefix+".out", f), Err: o.err.keep(prefix+".err", f)}
	s.Tail, s.Partial = o.tail.keep()
	return s
}

func (s *stream) keep(name string, f *keep.Files) StreamState {
	state := StreamState{Ended: true}
	s.control(func(fd int) {
		state.Ended = false
		f.Put(name, fd)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.halt; h != nil && h.here() { // the reader stands still
		state.Rest, state.Since = append(state.Rest, s.left...), s.since
	}
	return state
}

// resumeOutput makes an Output again; the worker has its ends already. With
// keep.ErrMissing it is one nonetheless, without what is missing.
func resumeOutput(s OutputState, prefix string, f *keep.Files) (*Output, error) {
	o := &Output{tail: newTail(), begun: make(chan struct{})}
	o.tail.resume(s.Tail, s.Partial)
	var oerr, eerr error
	o.out, oerr = resumeStream(s.Out, prefix+".out", f, o.tail)
	o.err, eerr = resumeStream(s.Err, prefix+".err", f, o.tail)
	if o.out != nil && o.err != nil {
		o.Started(int(s.PID))
		return o, errors.Join(oerr, eerr)
	}
	for _, one := range []*stream{o.out, o.err} {
		if one != nil {
			_ = one.r.Close() // only read from
		}
	}
	return nil, errors.Join(oerr, eerr)
}

func resumeStream(s StreamState, name string, f *keep.Files, t *tail) (*stream, error) {
	fd, missing := -1, error(nil)
	var err error
	if !s.Ended || f.Has(name) {
		fd, missing = f.Take(name)
	}
	if fd < 0 {
		fd, err = ended()
	} else if err = readable(fd); err != nil {
		_ = unix.Close(fd) // only read from
	}
	if err != nil {
		return nil, fmt.Errorf("worker's output: %q: %w", name, err)
	}
	r := os.NewFile(uintptr(fd), "worker's output")
	st := &stream{r: r, w: -1, tail: t, closing: make(chan struct{}), left: s.Rest, since: s.Since}
	if missing != nil {
		return st, fmt.Errorf("worker's output: %w", missing)
	}
	return st, nil
}

// readable says whether a descriptor is a pipe's read end, and has it not block, for
// the runtime's poller.
func readable(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || flags&unix.O_ACCMODE != unix.O_RDONLY {
		return errors.New("it is no pipe that can be read")
	}
	return unix.SetNonblock(fd, true)
}

// ended is a pipe's read end that has nothing to give.
func ended() (int, error) {
	r, w, err := pipe()
	if err == nil {
		_ = unix.Close(w) // nothing was written
	}
	return r, err
}

// Resume makes the Output of a worker again and goes on with it: first with what was
// read and had not arrived, then with what is in its pipes. With keep.ErrMissing in the
// error there is an Output nonetheless, and nothing more comes by the pipe that it names.
func (p *Passthrough) Resume(s OutputState, prefix string, f *keep.Files) (*Output, error) {
	o, err := resumeOutput(s, prefix, f)
	if o != nil {
		p.begin(o)
	}
	return o, err
}

// Resume is as for Passthrough.
func (c *Capture) Resume(s OutputState, prefix string, f *keep.Files, generation, worker int) (*Output, error) {
	o, err := resumeOutput(s, prefix, f)
	if o != nil {
		c.begin(o, generation, worker)
	}
	return o, err
}

// Pause stops the copying where nothing that was read is unwritten, but for what Keep
// then has. It comes back when all of it stands still, or says that a write, of what
// nobody takes, did not end within pauseTime. Unpause, which must follow also then, lets
// it go on.
func (p *Passthrough) Pause() error { return p.pipes.pause() }

// Unpause ends Pause.
func (p *Passthrough) Unpause() { p.pipes.unpause() }

// Pause is as for Passthrough. What was put into the Store waits there: see Store.Sync.
func (c *Capture) Pause() error { return c.pipes.pause() }

// Unpause ends Pause.
func (c *Capture) Unpause() { c.pipes.unpause() }

// pauseLimit bounds Pause. A Store that is full makes its callers wait for stallTime.
const pauseLimit = stallTime + time.Second/2

// halt is one pause of one stream.
type halt struct {
	once    sync.Once
	reached chan struct{} // closed when the reader stands still
	over    chan struct{} // closed by unpause
}

func (h *halt) here() bool {
	select {
	case <-h.reached:
		return true
	default:
		return false
	}
}

// stop wakes the reader, so that it comes to stand.
func (s *stream) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halt == nil {
		s.halt = &halt{reached: make(chan struct{}), over: make(chan struct{})}
	}
	s.deadline()
}

// goOn ends stop.
func (s *stream) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halt != nil {
		close(s.halt.over)
		s.halt = nil
	}
	s.deadline()
}

// reading: it is read from. One that waits for its worker's start has nothing, and
// stands still as soon as it begins.
func (s *stream) reading() bool {
	if s.begun == nil {
		return true
	}
	select {
	case <-s.begun:
		return true
	default:
		return false
	}
}

// stopped says whether the reader is to stand still.
func (s *stream) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.halt != nil && !s.over
}

// stand is the reader's: it stays as long as it is to stand still. left is what was read
// and has not arrived, and for a line, since when. false: all of it is another's now.
func (s *stream) stand(left []byte, since time.Time) bool {
	s.mu.Lock()
	h := s.halt
	s.left, s.since = left, since
	s.mu.Unlock()
	if h == nil {
		return true
	}
	h.once.Do(func() { close(h.reached) })
	select {
	case <-h.over:
	case <-s.closing:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.dropped
}

// drop ends the copying where it stands still, and closes the read ends here. Nothing is
// read or written by it: it is for tests, in which another one has duplicates.
func (p *pipes) drop() {
	p.mu.Lock()
	for s := range p.open {
		s.mu.Lock()
		s.dropped = true
		s.mu.Unlock()
		_ = s.r.Close() // only read from
		s.goOn()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *pipes) pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = true
	limit := time.NewTimer(pauseLimit)
	defer limit.Stop()
	for s := range p.open {
		s.stop()
	}
	late := 0
	for s, ended := range p.open {
		if !s.reading() {
			continue
		}
		select {
		case <-s.halt.reached:
			continue
		case <-ended:
			continue
		default: // and only then is time short
		}
		select {
		case <-s.halt.reached:
		case <-ended:
		case <-limit.C:
			limit.Reset(0) // for the others
			late++
		}
	}
	if late > 0 {
		return fmt.Errorf("workers' output: %d of %d streams are stuck in a write", late, len(p.open))
	}
	return nil
}

func (p *pipes) unpause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = false
	for s := range p.open {
		s.goOn()
	}
}

// keep copies what is remembered.
func (t *tail) keep() (done [][]byte, partial []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.count {
		line := t.done[(t.next+tailLines-t.count+i)%tailLines]
		done = append(done, append([]byte{}, line...))
	}
	return done, append(partial, t.partial...)
}

func (t *tail) resume(done [][]byte, partial []byte) {
	for _, line := range done[max(0, len(done)-tailLines):] {
		t.partial = append(t.partial[:0], line[:min(len(line), tailWidth)]...)
		t.push()
	}
	t.partial = append(t.partial[:0], partial[:min(len(partial), tailWidth)]...)
}

// outlet is where a Passthrough writes to. A write can be stopped midway, and says how
// much of it was taken.
type outlet interface {
	// put writes until stopped says so. An error is a reader that is gone.
	put(p []byte, stopped func() bool) (n int, err error)
	// close lets go of what the outlet itself has opened.
	close()
}

// plain is one that cannot be stopped.
type direct struct{ io.Writer }

func (o direct) close() {}

func (o direct) put(p []byte, _ func() bool) (int, error) {
	n, err := o.Write(p)
	if err != nil {
		return len(p), err // dropped, see Passthrough.copy
	}
	return n, nil
}

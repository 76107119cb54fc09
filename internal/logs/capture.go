package logs

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLine = 64 << 10 // bytes; what is longer goes on in the next record
	// A line whose end does not come is kept as it is after this time.
	partialTime = time.Second

	pipeSize  = 1 << 20
	chunkSize = 256 << 10
	// After a small read the next one waits, so that a worker that writes line by line
	// does not cost a wake-up a line. The pipe takes what comes meanwhile.
	pauseTime = time.Millisecond
)

// chunks are what pipes are read into: a worker that says nothing holds none.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// Capture takes the output of workers apart into lines and puts them into a Store.
type Capture struct {
	store *Store
	pipes pipes
}

// NewCapture returns a Capture into a store, which stays the caller's to close.
func NewCapture(s *Store) *Capture { return &Capture{store: s} }

// Open makes the pipes of one worker. As for Passthrough.
func (c *Capture) Open(generation, worker int) (*Output, error) {
	o, err := newOutput()
	if err != nil {
		return nil, err
	}
	c.begin(o, generation, worker)
	return o, nil
}

func (c *Capture) begin(o *Output, generation, worker int) {
	for _, p := range []struct {
		*stream
		name string
	}{{o.out, Stdout}, {o.err, Stderr}} {
		src := &source{store: c.store, stream: p.stream, room: pipeSize}
		p.begun = o.begun
		p.control(func(fd int) { src.room = enlarge(fd, pipeSize) })
		c.pipes.begin(p.stream, func() { src.copy(p.name, generation, worker, o) })
	}
}

// Close ends the copying once what is in the pipes has been put into the store.
func (c *Capture) Close() { _ = c.pipes.close() } // what is stuck ends with the program

// source is one pipe on its way into a store.
type source struct {
	store  *Store
	stream *stream
	room   int // bytes in the pipe

	head    []byte    // of its records, between time and text
	partial []byte    // a line whose end has not come
	since   time.Time // when it began
	alarmed bool      // the read ends partialTime after some line began
}

// copy ends at the pipe's end or Close.
func (s *source) copy(name string, generation, worker int, o *Output) {
	select { // records have the pid
	case <-o.begun:
	case <-s.stream.closing:
	}
	h := append([]byte(`","s":"`), name...)
	h = strconv.AppendInt(append(h, `","g":`...), int64(generation), 10)
	if worker >= 0 {
		h = strconv.AppendInt(append(h, `,"w":`...), int64(worker), 10)
	}
	if pid := o.pid.Load(); pid > 0 {
		h = strconv.AppendInt(append(h, `,"pid":`...), pid, 10)
	}
	s.head = append(h, `,"l":"`...)
	if s.partial, s.since = s.stream.left, s.stream.since; len(s.partial) > 0 {
		s.partial = s.partial[:min(len(s.partial), maxLine)]
		s.watch()
	}
	s.drain()
	if len(s.partial) > 0 { // its end is the pipe's
		s.store.begin()
		s.store.put(s.head, s.partial, false)
		s.store.finish()
	}
}

func (s *source) drain() {
	c, err := s.stream.r.SyscallConn()
	if err != nil {
		return // closed: nobody can have written to it
	}
	var buf *[chunkSize]byte
	var n int
	var rerr error
	read := func(fd uintptr) bool {
		buf = chunks.Get().(*[chunkSize]byte)
		if n, rerr = s.stream.take(int(fd), buf[:]); rerr == unix.EAGAIN {
			chunks.Put(buf)
			return false
		}
		return true
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		err := c.Read(read)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !s.stream.closed():
			switch {
			case !s.stream.stopped():
				s.expire()
			case !s.stream.stand(s.partial, s.since):
				s.partial = nil // another one's
			}
			continue
		case err != nil:
			s.rest()
			return
		}
		if n > 0 {
			s.add(buf[:n])
		}
		chunks.Put(buf)
		if n == 0 || rerr != nil {
			return
		}
		if n < s.room/4 {
			pause.Reset(pauseTime)
			select {
			case <-pause.C:
			case <-s.stream.closing:
			}
		}
	}
}

// rest takes what is in the pipe at Close, and no more: who still writes to it may
// never stop.
func (s *source) rest() {
	buf := make([]byte, maxLine)
	for left := s.stream.unread(); left > 0; {
		n := s.stream.rest(buf[:min(left, len(buf))])
		if n == 0 {
			return
		}
		s.add(buf[:n])
		left -= n
	}
}

// add takes a chunk apart.
func (s *source) add(chunk []byte) {
	s.store.begin()
	s.split(chunk)
	s.store.finish()
	s.watch()
}

func (s *source) split(chunk []byte) {
	for len(chunk) > 0 {
		end := bytes.IndexByte(chunk[:min(len(chunk), maxLine+1)], '\n')
		switch {
		case len(s.partial) > 0:
			chunk = s.fill(chunk, end)
		case end >= 0:
			s.store.put(s.head, chunk[:end], false)
			chunk = chunk[end+1:]
		case len(chunk) > maxLine:
			n := cutText(chunk, maxLine)
			s.store.put(s.head, chunk[:n], true)
			chunk = chunk[n:]
		default:
			s.partial, s.since = append(s.partial, chunk...), time.Now()
			return
		}
	}
}

// fill adds to a line that has begun what belongs to it, and returns the rest; end is
// where the chunk has a newline, -1 when it has none nearby.
func (s *source) fill(chunk []byte, end int) []byte {
	room := maxLine - len(s.partial)
	if end >= 0 && end <= room {
		s.partial = append(s.partial, chunk[:end]...)
		s.store.put(s.head, s.partial, false)
		s.partial = s.partial[:0]
		return chunk[end+1:]
	}
	if len(chunk) <= room {
		s.partial = append(s.partial, chunk...)
		return nil
	}
	// One byte more than there may be, to see whether a character ends there.
	s.partial = append(s.partial, chunk[:room+1]...)
	n := cutText(s.partial, maxLine)
	s.store.put(s.head, s.partial[:n], true)
	s.partial, s.since = append(s.partial[:0], s.partial[n:]...), time.Now()
	return chunk[room+1:]
}

// watch has the read end in time for a line that has no end yet.
func (s *source) watch() {
	if len(s.partial) == 0 && cap(s.partial) > 4<<10 {
		s.partial = nil
	}
	if len(s.partial) > 0 && !s.alarmed {
		s.alarmed = true
		s.stream.wakeAt(s.since.Add(partialTime))
	}
}

// expire puts a line whose end did not come.
func (s *source) expire() {
	s.alarmed = false
	s.stream.wakeAt(time.Time{})
	if len(s.partial) > 0 && time.Since(s.since) >= partialTime {
		s.store.begin()
		s.store.put(s.head, s.partial, true)
		s.store.finish()
		s.partial = nil
	}
	s.watch()
}

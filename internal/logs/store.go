package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// How much waits for the disk, and for how long those wait who have more.
const (
	bufferSize = 1 << 20 // bytes of records; as much again may be on its way to the disk
	// A disk that takes nothing for so long is a reason to drop lines: until then the
	// worker waits, as it would if it wrote to the disk itself.
	stallTime = time.Second
	retryTime = time.Second // between two tries to write that lines were dropped
	idleTime  = 2 * time.Second
	markEvery = 1 << 20 // bytes between two records that have their number
	pruneTime = time.Hour
)

// StoreOptions are what a Store needs.
type StoreOptions struct {
	Directory string // of this store alone; made if need be
	MaxSize   int64  // bytes after which a file is rotated away
	// MaxAge is how old a line may become; 0: any age. The last line of a file counts,
	// and a file is rotated away once its first one has a Keep-th of that age.
	MaxAge   time.Duration
	Keep     int // files, the current one among them; at least 1
	Compress bool
	// Trouble, which may be nil, is told when lines begin to be dropped, and of files
	// that could not be compressed or removed. It must not block.
	Trouble func(error)
}

// Store is where the lines of one application are kept: files of JSON lines of which the
// oldest is removed before there are too many. One goroutine writes to them. Whoever
// has a line leaves it in a buffer; when that is full because the disk takes nothing,
// he waits, and after stallTime lines are dropped. What is dropped, for this reason or
// because the disk is full, is counted, and a record in its place says how many.
type Store struct {
	o     StoreOptions
	wake  chan struct{} // of one
	ops   chan func()   // for the writer to do
	quit  chan struct{} // closed by Close
	ended chan struct{} // closed when the writer has ended
	once  sync.Once
	again atomic.Bool // the file is to be opened again

	mu      sync.Mutex
	buf     []byte        // records that wait
	stamp   []byte        // of the records that are put now
	missed  int64         // lines for which there was no room
	counted bool          // the buffer has a record that says how many those were
	stalled bool          // nobody waits until the buffer was taken
	waiters int           // for that
	swapped chan struct{} // closed when it was taken, if there are any
	closed  bool

	names sync.Mutex // held while files get or lose names
	wg    sync.WaitGroup

	// What follows belongs to the writer.
	f       *os.File
	size    int64
	drops   bool      // some of what is written now says that lines are missing
	number  int64     // of the next line, from 1: also those that are missing have one
	marked  int64     // bytes since one had it
	first   time.Time // when the file's first record came; zero: it is empty
	lost    int64     // lines that could not be written
	why     error
	packAt  time.Time // zero: nothing is to be compressed
	packing atomic.Bool
	pruned  time.Time
	written atomic.Int64 // batches, for Close
}

// OpenStore opens a store, or says why that cannot be done: later troubles are told to
// Trouble alone. A torn record that a killed launcher left at the end is removed.
func OpenStore(o StoreOptions) (*Store, error) {
	if o.Trouble == nil {
		o.Trouble = func(error) {}
	}
	s := &Store{
		o: o, wake: make(chan struct{}, 1), ops: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{}),
		swapped: make(chan struct{}), number: 1,
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	if left, err := filepath.Glob(filepath.Join(o.Directory, rotatedFix+"*"+unfinished)); err == nil {
		for _, name := range left {
			_ = os.Remove(name) // it would be written over
		}
	}
	s.packAt = time.Now().Add(compressAfter) // what the last launcher did not come to
	go s.run()
	return s, nil
}

// Reopen opens the current file again, after somebody has moved it.
func (s *Store) Reopen() error {
	return s.do(func() error {
		s.shut()
		return s.open()
	})
}

// ReopenSoon is Reopen for one who cannot wait.
func (s *Store) ReopenSoon() {
	s.again.Store(true)
	s.poke()
}

// Flush removes everything that came before it.
func (s *Store) Flush() error {
	return s.do(func() error {
		s.names.Lock()
		err := Empty(s.o.Directory)
		s.names.Unlock()
		s.shut()
		return errors.Join(err, s.open())
	})
}

// Sync writes what waits, so that whoever opens the store next goes on behind it; this one
// goes on as well. It gives up when the disk takes nothing for closeTime.
func (s *Store) Sync() error {
	done := make(chan error, 1)
	op := func() { done <- s.why }
	late := time.NewTimer(closeTime)
	defer late.Stop()
	select {
	case s.ops <- op:
	case <-s.ended:
		return nil // Close has written it
	case <-late.C:
		return errSlow
	}
	select {
	case err := <-done:
		return err
	case <-late.C:
		return errSlow
	}
}

// do has the writer do something, after everything that waits has been written.
func (s *Store) do(f func() error) error {
	err := make(chan error, 1)
	select {
	case s.ops <- func() { err <- f() }:
	case <-s.ended:
		return errors.New("the store is closed")
	}
	return <-err
}

// Close writes what waits. It gives up when the disk takes nothing for closeTime; the
// writer then ends with the program.
func (s *Store) Close() {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.quit)
	})
	for before := int64(-1); before != s.written.Load(); {
		before = s.written.Load()
		select {
		case <-s.ended:
			return
		case <-time.After(closeTime):
		}
	}
}

func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // told already
	}
}

// begin is called before lines are put, and finish after.
func (s *Store) begin() {
	s.mu.Lock()
	s.tick()
}

func (s *Store) finish() {
	s.mu.Unlock()
	s.poke()
}

func (s *Store) tick() { s.stamp = time.Now().UTC().AppendFormat(s.stamp[:0], stampForm) }

// put takes a line as a record; head is what stands between its time and its text.
func (s *Store) put(head, line []byte, more bool) {
	if !s.room() {
		s.missed++
		return
	}
	b := append(append(append(s.buf, `{"t":"`...), s.stamp...), head...)
	b, binary := appendText(b, line)
	s.buf = appendEnd(b, more, binary)
}

// say puts a line of the launcher's own.
func (s *Store) say(generation int, level, text string) {
	s.begin()
	defer s.finish()
	if !s.room() {
		s.missed++
		return
	}
	s.buf = appendOwn(s.buf, s.stamp, generation, os.Getpid(), level, text, 0)
}

// room waits until the buffer has room, and reports whether it has.
func (s *Store) room() bool {
	for len(s.buf) >= bufferSize {
		if s.stalled || s.closed {
			return false
		}
		s.waiters++
		swapped := s.swapped
		s.mu.Unlock()
		s.poke()
		late := time.NewTimer(stallTime)
		taken := false
		select {
		case <-swapped:
			taken = true
		case <-late.C:
		}
		late.Stop()
		s.mu.Lock()
		s.tick()
		if !taken && swapped == s.swapped {
			s.waiters--
			s.stalled = true
		}
	}
	if s.closed {
		return false
	}
	s.confess()
	return true
}

var errSlow = fmt.Errorf("the disk took nothing for %v", stallTime)

// confess puts how many lines had no room.
func (s *Store) confess() {
	if s.missed > 0 {
		s.buf = s.dropRecord(s.buf, s.missed, errSlow)
		s.missed, s.counted = 0, true
	}
}

func (s *Store) dropRecord(b []byte, n int64, why error) []byte {
	lines := "lines"
	if n == 1 {
		lines = "line"
	}
	return appendOwn(b, stamp(time.Now()), 0, os.Getpid(), "warn", fmt.Sprintf("%d %s dropped: %v", n, lines, why), n)
}

// swap takes the buffer and leaves another.
func (s *Store) swap(spare []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confess()
	b := s.buf
	if len(b) == 0 && cap(b) > 0 && spare == nil {
		s.buf = nil // both are let go of
		return nil
	}
	s.buf, s.stalled = spare[:0], false
	s.drops, s.counted = s.counted, false
	if s.waiters > 0 {
		close(s.swapped)
		s.swapped, s.waiters = make(chan struct{}), 0
	}
	return b
}

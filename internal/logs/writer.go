package logs

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
)

// What a Store's writer does; it is a single goroutine.

// run is the writer.
func (s *Store) run() {
	defer close(s.ended)
	defer s.wg.Wait() // the packer ends with quit
	defer s.shut()
	timer := time.NewTimer(retryTime)
	defer timer.Stop()
	always := make(chan struct{})
	close(always)
	var spare []byte
	busy := false // buffers are held
	for {
		batch, ready := s.swap(spare), s.wake
		spare = batch
		if len(batch) > 0 {
			if s.write(batch); !busy {
				busy = true
				timer.Reset(idleTime)
			}
			ready = always // there may be more; but others have their turn
		}
		select {
		case <-ready:
		case op := <-s.ops:
			s.write(s.swap(nil))
			op()
		case <-timer.C:
			spare, busy = nil, false
			timer.Reset(s.tend(time.Now()))
		case <-s.quit:
			s.write(s.swap(nil))
			return
		}
		if s.again.Swap(false) {
			s.shut()
			if err := s.open(); err != nil { // the next line tries again
				s.o.Trouble(err)
			}
		}
	}
}

// tend does what is due by the clock, and returns when to call it again.
func (s *Store) tend(now time.Time) time.Duration {
	next := pruneTime
	if s.lost > 0 {
		s.write(nil)
		if s.lost > 0 {
			next = retryTime
		}
	}
	if age := s.rotateAge(); age > 0 && !s.first.IsZero() {
		if s.lost == 0 && now.Sub(s.first) >= age {
			if err := s.rotate(); err != nil {
				s.o.Trouble(err)
			}
		}
		if !s.first.IsZero() {
			next = min(next, max(retryTime, age-now.Sub(s.first)))
		}
	}
	if now.Sub(s.pruned) >= pruneTime {
		s.prune(now)
	}
	if !s.packAt.IsZero() {
		if wait := s.packAt.Sub(now); wait > 0 {
			return min(next, wait)
		}
		s.pack()
	}
	return next
}

func (s *Store) pack() {
	s.packAt = time.Time{}
	if !s.o.Compress || !s.packing.CompareAndSwap(false, true) {
		return
	}
	p := &packer{dir: s.o.Directory, lock: &s.names, quit: s.quit, fail: s.o.Trouble}
	s.wg.Go(func() { // ends when all is compressed, or with quit
		p.run()
		s.packing.Store(false)
	})
}

func (s *Store) rotateAge() time.Duration { return s.o.MaxAge / time.Duration(s.o.Keep) }

func (s *Store) prune(now time.Time) {
	s.pruned = now
	before := time.Time{}
	if s.o.MaxAge > 0 {
		before = now.Add(-s.o.MaxAge)
	}
	s.names.Lock()
	defer s.names.Unlock()
	if err := prune(s.o.Directory, s.o.Keep, before); err != nil {
		s.o.Trouble(err)
	}
}

// open opens the current file and finds out what it holds.
func (s *Store) open() error {
	f, err := openCurrent(s.o.Directory)
	if err != nil {
		return err
	}
	e, err := ending(f)
	if err != nil {
		_ = f.Close() // nothing was written
		return err
	}
	s.f, s.size, s.first, s.marked = f, e.size, e.first, markEvery
	if e.number > 0 {
		s.number = max(s.number, e.number)
	}
	if e.torn {
		s.lost++
		s.why = cmp.Or(s.why, errTorn)
	}
	return nil
}

var errTorn = errors.New("it was written in part, when the launcher was killed")

func (s *Store) shut() {
	if s.f != nil {
		_ = s.f.Close() // what was written is the kernel's by then
		s.f = nil
	}
}

// ready has the current file open and as it is: somebody may have removed it, or
// emptied it.
func (s *Store) ready() error {
	if s.f != nil {
		info, err := s.f.Stat()
		if err != nil {
			return err
		}
		switch {
		case removed(info):
			s.shut()
		case info.Size() != s.size:
			if s.size = info.Size(); s.size == 0 {
				s.first = time.Time{}
			}
		}
	}
	if s.f == nil {
		return s.open()
	}
	return nil
}

// write writes records, or counts them as lost.
func (s *Store) write(batch []byte) {
	defer s.written.Add(1)
	if len(batch) == 0 && s.lost == 0 {
		return
	}
	if err := s.ready(); err != nil {
		s.lose(batch, err)
		return
	}
	if s.lost > 0 {
		drops := s.drops
		s.drops = true
		_, err := s.fit(s.dropRecord(nil, s.lost, s.why))
		if s.drops = drops; err != nil {
			s.lose(batch, err)
			return
		}
		s.lost, s.why = 0, nil
	}
	for len(batch) > 0 {
		n, err := s.fit(batch)
		batch = batch[n:]
		if err != nil {
			s.lose(batch, err)
			return
		}
	}
}

// fit writes as many records as the file has room for, after it was rotated if need be,
// and returns their bytes.
func (s *Store) fit(records []byte) (int, error) {
	age := s.rotateAge()
	old := age > 0 && !s.first.IsZero() && time.Since(s.first) >= age
	room := s.o.MaxSize - s.size - int64(len(numberHead))
	if s.size > 0 && (old || room < int64(bytes.IndexByte(records, '\n')+1)) {
		if err := s.rotate(); err != nil {
			return 0, err
		}
		room = s.o.MaxSize - int64(len(numberHead))
	}
	if int64(len(records)) > room {
		end := bytes.LastIndexByte(records[:max(room, 0)], '\n') + 1
		if end == 0 { // one that is larger than a file may be
			end = bytes.IndexByte(records, '\n') + 1
		}
		records = records[:end]
	}
	return s.append(records)
}

const numberHead = `{"n":9223372036854775807,`

// append writes records, the first with its number now and then, and returns how much of
// them is there.
func (s *Store) append(records []byte) (n int, err error) {
	if s.size == 0 || s.marked >= markEvery {
		end := bytes.IndexByte(records, '\n') + 1
		head := append(strconv.AppendInt([]byte(`{"n":`), s.number, 10), ',')
		if _, err := s.writeWhole(append(head, records[1:end]...)); err != nil {
			return 0, err
		}
		s.marked, n = 0, end
	}
	more, err := s.writeWhole(records[n:])
	return n + more, err
}

// writeWhole writes records; half a record that could not be written as a whole is taken
// back.
func (s *Store) writeWhole(records []byte) (n int, err error) {
	if len(records) == 0 {
		return 0, nil
	}
	if n, err = s.f.Write(records); err != nil {
		n = bytes.LastIndexByte(records[:n], '\n') + 1
		s.marked = markEvery
		if terr := s.f.Truncate(s.size + int64(n)); terr != nil {
			s.shut() // opening it removes what is torn
		}
	}
	if s.size == 0 && n > 0 {
		s.first = time.Now()
	}
	s.size += int64(n)
	s.marked += int64(n)
	s.number += s.lines(records[:n])
	return n, err
}

// lines is how many lines records stand for.
func (s *Store) lines(records []byte) int64 {
	if s.drops {
		return linesOf(records)
	}
	return int64(bytes.Count(records, []byte{'\n'}))
}

// rotate begins a new file.
func (s *Store) rotate() error {
	now := time.Now()
	s.names.Lock()
	err := rotate(s.o.Directory, now)
	s.names.Unlock()
	if err != nil && !errors.Is(err, os.ErrNotExist) { // somebody moved it: likewise a new one
		return err
	}
	s.prune(now)
	s.packAt = now.Add(compressAfter)
	s.shut()
	return s.open()
}

// lose counts records that cannot be written.
func (s *Store) lose(records []byte, why error) {
	if s.lost == 0 || s.why == nil || s.why.Error() != why.Error() {
		s.o.Trouble(why)
	}
	s.lost += s.lines(records)
	s.why = why
	if !errors.Is(why, syscall.ENOSPC) && !errors.Is(why, syscall.EDQUOT) {
		s.shut() // another that has the name may take them
	}
}

package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// follower reads one store from a place on, across rotations, whoever makes them, and
// across its being emptied. It holds open what it has not read yet, so that nothing can
// be removed under it; what was removed before it could be opened is counted.
type follower struct {
	src   Source
	query *Query
	parts []*part // the last one is the current file; never empty
	ident []byte  // how the current file begins; empty: nothing of it was read
	after string  // the newest rotated file when the current one was opened
	last  bool    // the current file has been replaced, and is read for the last time
	count count

	queue []Record // read and not yet shown, where there are several followers
	all   bool     // nothing more was there
	rec   Record
}

// count follows the numbers of records.
type count struct {
	next int64 // 0: not known
}

// see takes a record and returns how many are missing before it.
func (c *count) see(r *Record) (lost int64) {
	if r.Number > 0 {
		if c.next > 0 {
			lost = max(0, r.Number-c.next)
		}
		c.next = r.Number
	}
	if c.next > 0 {
		c.next += max(1, r.Dropped)
	}
	return lost
}

// poll reads at most most records.
func (f *follower) poll(most int, show func(*Record) error) error {
	f.all = false
	f.verify()
	for n := 0; n < most; {
		p := f.parts[0]
		first := p.pos == 0 && len(f.parts) == 1
		line, ok := p.next()
		if ok {
			n++
			if first {
				f.ident = bytes.Clone(line[:min(len(line), identSize)])
			}
			if err := f.take(line, show); err != nil {
				return err
			}
			continue
		}
		if p.failed != nil {
			if err := show(f.unreadable(p)); err != nil {
				return err
			}
		}
		if len(f.parts) > 1 {
			p.close()
			f.parts = f.parts[1:]
			continue
		}
		on, err := f.turn(p)
		if err != nil {
			return err
		}
		if !on {
			f.all = true
			return nil
		}
	}
	return nil
}

func (f *follower) take(line []byte, show func(*Record) error) error {
	f.rec.App = f.src.App
	if !f.rec.parse(line) {
		return nil // the torn end of a launcher that was killed; its next one counts it
	}
	if lost := f.count.see(&f.rec); lost > 0 {
		if err := show(removedBefore(f.src.App, f.rec.Stamp, lost)); err != nil {
			return err
		}
	}
	if !f.query.match(&f.rec) {
		return nil
	}
	return show(&f.rec)
}

// removedBefore stands for records that were rotated away and removed too early.
func removedBefore(app string, stamp []byte, n int64) *Record {
	return comment(app, stamp, strconv.FormatInt(n, 10)+" lines were removed before they could be read", n)
}

// unreadable stands for the rest of a file that cannot be read.
func (f *follower) unreadable(p *part) *Record {
	r := comment(f.src.App, stamp(time.Now()), fmt.Sprintf("not all can be read of %s: %v", p.f.Name(), p.failed), 0)
	p.failed = nil
	return r
}

// comment is a record of the reader's own.
func comment(app string, stamp []byte, text string, dropped int64) *Record {
	line := appendOwn(nil, stamp, 0, os.Getpid(), "warn", text, dropped)
	r := &Record{App: app}
	r.parse(bytes.TrimSuffix(line, []byte{'\n'}))
	r.Always = true
	return r
}

// verify finds out whether the current file is still what it was: it may have been
// emptied, and written to since.
func (f *follower) verify() {
	if p := f.parts[len(f.parts)-1]; p.f != nil && !bytes.HasPrefix(ident(p.f), f.ident) {
		p.seek(0)
		f.ident = nil
	}
}

// turn is called at the end of the current file, and reports whether there is more.
func (f *follower) turn(p *part) (more bool, err error) {
	now, err := os.Stat(filepath.Join(f.src.Directory, current))
	if p.f == nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return f.advance(p, nil)
	}
	was, serr := p.f.Stat()
	switch {
	case serr != nil:
		return false, serr
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case os.SameFile(now, was):
		return false, nil
	case now.Size() == 0 && !removed(was):
		return false, nil // who writes may not have noticed yet
	case !f.last:
		f.last = true // what was written before it was replaced
		return true, nil
	}
	return f.advance(p, was)
}

// advance goes on behind a file that is not the current one any more.
func (f *follower) advance(p *part, was os.FileInfo) (bool, error) {
	v, err := look(f.src.Directory)
	if err != nil {
		return false, err
	}
	var parts []*part
	for _, r := range v.files {
		if r.name <= f.after {
			continue
		}
		next, err := openPart(f.src.Directory, r)
		if err != nil {
			v.close()
			return false, err
		}
		if next == nil {
			continue // removed; the numbers tell
		}
		if was != nil && f.mine(next, was) {
			next.close()
			continue
		}
		parts = append(parts, next)
	}
	if n := len(v.files); n > 0 {
		f.after = max(f.after, v.files[n-1].name)
	}
	p.close()
	f.parts, f.ident, f.last = append(parts, newPart(v.cur)), nil, false
	return len(parts) > 0 || v.cur != nil, nil
}

// mine reports whether a rotated file is the one that was the current one.
func (f *follower) mine(p *part, was os.FileInfo) bool {
	if info, err := p.f.Stat(); err == nil && os.SameFile(info, was) {
		return true
	}
	if len(f.ident) < identSize {
		return false
	}
	line, ok := p.next()
	p.from, p.pos = 0, 0 // it was not given to anybody yet
	return ok && bytes.HasPrefix(line, f.ident)
}

func (f *follower) close() {
	for _, p := range f.parts {
		p.close()
	}
}

// pollTime is how often a store is looked at.
const pollTime = 50 * time.Millisecond

package logs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// lines reads whole lines. At the end of what is there half a line is forgotten and read
// again: its writer may have taken it back.
type lines struct {
	read     func(p []byte, at int64) (int, error)
	pos      int64 // of the next line
	buf      []byte
	from, to int // of what was read and not yet given
	failed   error
}

// next is the next line without its newline, until the next call; ok is false when there
// is none now.
func (l *lines) next() (line []byte, ok bool) {
	for seen := 0; ; {
		if n := bytes.IndexByte(l.buf[l.from+seen:l.to], '\n'); n >= 0 {
			line = l.buf[l.from : l.from+seen+n]
			l.from += len(line) + 1
			l.pos += int64(len(line)) + 1
			return line, true
		}
		seen = l.to - l.from
		if l.to == len(l.buf) {
			if l.from > 0 {
				copy(l.buf, l.buf[l.from:l.to])
			} else {
				l.buf = append(l.buf, make([]byte, max(64<<10, len(l.buf)))...)
			}
			l.from, l.to = 0, seen
		}
		n, err := l.read(l.buf[l.to:], l.pos+int64(seen))
		l.to += n
		if n == 0 && err != nil {
			if !errors.Is(err, io.EOF) {
				l.failed = err
			}
			l.from, l.to = 0, 0
			return nil, false
		}
	}
}

// seek goes on at another place.
func (l *lines) seek(pos int64) { l.pos, l.from, l.to = pos, 0, 0 }

// part is one file that is read.
type part struct {
	lines
	f     *os.File // nil: there is none
	plain bool     // not compressed
}

func newPart(f *os.File) *part {
	p := &part{f: f, plain: true}
	p.read = func([]byte, int64) (int, error) { return 0, io.EOF }
	if f != nil {
		p.read = f.ReadAt
	}
	return p
}

// openPart opens a rotated file, which may just be compressed; nil: it was removed.
func openPart(dir string, r rotated) (*part, error) {
	for range 3 { // compressed, and even removed and made again
		f, err := os.Open(filepath.Join(dir, r.file()))
		if errors.Is(err, fs.ErrNotExist) {
			r.gz = !r.gz
			continue
		}
		if err != nil {
			return nil, err
		}
		p := newPart(f)
		if r.gz {
			z, err := gzip.NewReader(f)
			if err != nil {
				p.close()
				return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: err}
			}
			p.plain = false
			p.read = func(b []byte, _ int64) (int, error) { return z.Read(b) } // never asked for twice
		}
		return p, nil
	}
	return nil, nil
}

func (p *part) close() {
	if p.f != nil {
		_ = p.f.Close() // only read from
	}
}

// identSize is enough of a file's first record to hold its number and its time.
const identSize = 64

// ident is how a file begins: it tells it from others, whatever it is called, and also
// when it is compressed.
func ident(f io.ReaderAt) []byte {
	b := make([]byte, identSize)
	n, _ := f.ReadAt(b, 0) // an error is a file that has less
	return b[:n]
}

// view is how a store was at some instant.
type view struct {
	files []rotated // the oldest first
	cur   *os.File  // nil: there is none
}

// look opens the current file and lists those that had been rotated away while it was
// the current one.
func look(dir string) (v view, err error) {
	for range 100 { // more rotations than there can be
		v.cur, err = os.Open(filepath.Join(dir, current))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return v, err
		}
		if v.files, err = list(dir); err != nil {
			v.close()
			return v, err
		}
		if same, err := v.is(dir); same || err != nil {
			return v, err
		}
		v.close()
	}
	return v, errors.New(dir + ": changes faster than it can be read")
}

func (v view) is(dir string) (bool, error) {
	now, err := os.Stat(filepath.Join(dir, current))
	if errors.Is(err, fs.ErrNotExist) {
		return v.cur == nil, nil
	}
	if err != nil || v.cur == nil {
		return false, err
	}
	was, err := v.cur.Stat()
	return err == nil && os.SameFile(now, was), err
}

func (v view) close() {
	if v.cur != nil {
		_ = v.cur.Close() // only read from
	}
}

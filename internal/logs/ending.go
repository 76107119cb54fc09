package logs

import (
	"bytes"
	"io"
	"os"
	"time"
)

// end is what a writer must know of a file that is there already.
type end struct {
	size   int64
	first  time.Time // of the first record; zero: there is none
	number int64     // of the next record; 0: not known
	torn   bool      // half a record stood at the end, and was removed
}

// window is more than lies between two records with their numbers.
const window = 4 * markEvery

func ending(f *os.File) (e end, err error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return e, err
	}
	if e.size, e.number, err = wholeLines(f, info.Size()); err != nil {
		return e, err
	}
	if e.size < info.Size() {
		e.torn = true
		if err := f.Truncate(e.size); err != nil {
			return e, err
		}
	}
	if e.size == 0 {
		return e, nil
	}
	if e.first = firstTime(f); e.first.IsZero() {
		e.first = info.ModTime()
	}
	return e, nil
}

// wholeLines is where the last whole line ends in the first size bytes of a file, and
// the number that the record behind it has; 0: not known.
func wholeLines(f io.ReaderAt, size int64) (end, next int64, err error) {
	from := max(0, size-window)
	tail := make([]byte, size-from)
	n, err := f.ReadAt(tail, from)
	if err != nil && err != io.EOF {
		return 0, 0, err
	}
	tail = tail[:bytes.LastIndexByte(tail[:n], '\n')+1]
	end = from + int64(len(tail))
	mark := bytes.LastIndex(tail, []byte("\n{\"n\":")) + 1
	if len(tail) > 0 && (mark > 0 || from == 0) {
		line, rest, _ := bytes.Cut(tail[mark:], []byte{'\n'})
		var r Record
		if r.parse(line) && r.Number > 0 {
			next = r.Number + max(1, r.Dropped) + linesOf(rest)
		}
	}
	return end, next, nil
}

// firstTime is the time of a file's first record.
func firstTime(f io.ReaderAt) time.Time {
	head := make([]byte, 256)
	n, _ := f.ReadAt(head, 0) // what is not there is no time
	_, rest, ok := bytes.Cut(head[:n], []byte(`"t":"`))
	if !ok {
		return time.Time{}
	}
	value, _, _ := bytes.Cut(rest, []byte{'"'})
	r := Record{Stamp: value}
	return r.Time()
}

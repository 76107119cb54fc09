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
	if err != nil {
		return e, err
	}
	if e.size = info.Size(); e.size == 0 {
		return e, nil
	}
	from := max(0, e.size-window)
	tail := make([]byte, e.size-from)
	if _, err := f.ReadAt(tail, from); err != nil && err != io.EOF {
		return e, err
	}
	if whole := bytes.LastIndexByte(tail, '\n') + 1; whole < len(tail) {
		e.torn, e.size, tail = true, from+int64(whole), tail[:whole]
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
	mark := bytes.LastIndex(tail, []byte("\n{\"n\":")) + 1
	if mark > 0 || from == 0 {
		line, rest, _ := bytes.Cut(tail[mark:], []byte{'\n'})
		var r Record
		if r.parse(line) && r.Number > 0 {
			e.number = r.Number + 1 + int64(bytes.Count(rest, []byte{'\n'}))
		}
	}
	return e, nil
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

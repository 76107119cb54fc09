package logs

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"time"
)

// Streams of a Record.
const (
	Stdout = "out"
	Stderr = "err"
	Baton  = "baton" // the launcher's own words
)

// Record is one line of a store. In the file it is a JSON object on a line of its own:
//
//	{"t":"2026-11-29T14:00:00.123456789Z","s":"out","g":3,"w":0,"pid":123,"l":"text"}
//
// The first of a file begins with "n", the number of its line
// since the store was begun, in which those that were dropped count too; so has one about every mebibyte. What is
// not text has "b64", and "l" is base64. Launchers write these objects with the keys in
// that order and no blanks; a reader takes any order.
type Record struct {
	App        string // given by who reads
	Stamp      []byte // "t": UTC, always as long, so that it sorts as bytes
	Stream     string // "s"
	Generation int    // "g"; 0: about none
	Worker     int    // "w": its index; -1: about none
	PID        int    // "pid"
	Level      string // "v", of Baton's: "warn", "error"; "" otherwise
	Text       []byte // "l", as it was written, without the newline
	More       bool   // "p": the line goes on in the worker's next record
	Binary     bool   // "b64"
	Dropped    int64  // "drop": so many lines are missing here
	Number     int64  // "n"; 0: not given
	Always     bool   // the reader's own comment, which no filter hides
	JSON       []byte // as it stands in the file, without the newline

	seen time.Time // when a follower came to it
}

// stampForm is RFC 3339 with all nine digits.
const stampForm = "2006-01-02T15:04:05.000000000Z"

// stamp is a time as records have it.
func stamp(t time.Time) []byte { return t.UTC().AppendFormat(nil, stampForm) }

// Time is when the line came; zero when Stamp is no time.
func (r *Record) Time() time.Time {
	t, err := time.Parse(time.RFC3339Nano, string(r.Stamp))
	if err != nil {
		return time.Time{}
	}
	return t
}

// parse reads a line of a store; ok is false for what is none: the torn end of a
// launcher that was killed. The record's slices are the line's.
func (r *Record) parse(line []byte) (ok bool) {
	*r = Record{Worker: -1, JSON: line, App: r.App}
	s, found := bytes.CutPrefix(line, []byte{'{'})
	if !found {
		return false
	}
	for {
		var key, value []byte
		if key, s, ok = quoted(s); !ok || len(s) < 2 || s[0] != ':' {
			return false
		}
		s = s[1:]
		isText := s[0] == '"'
		if isText {
			value, s, ok = quoted(s)
		} else {
			end := bytes.IndexAny(s, ",}")
			if ok = end > 0; ok {
				value, s = s[:end], s[end:]
			}
		}
		if !ok || len(s) == 0 || !r.set(key, value, isText) {
			return false
		}
		next := s[0]
		s = s[1:]
		if next == '}' {
			return len(s) == 0 && r.finish()
		}
		if next != ',' {
			return false
		}
	}
}

// quoted cuts a JSON string off, and gives its inside.
func quoted(s []byte) (inside, rest []byte, ok bool) {
	if len(s) == 0 || s[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(s); {
		end := bytes.IndexByte(s[i:], '"')
		if end < 0 {
			return nil, nil, false
		}
		end += i
		slashes := 0
		for s[end-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return s[1:end], s[end+1:], true
		}
		i = end + 1
	}
	return nil, nil, false
}

// set takes one key over; those that are not known are for later versions.
func (r *Record) set(key, value []byte, isText bool) bool {
	switch k := string(key); {
	case isText && k == "t":
		r.Stamp = value
	case isText && k == "s":
		r.Stream = word(value)
	case isText && k == "v":
		r.Level = word(value)
	case isText && k == "l":
		r.Text = value
	case k == "p":
		r.More = string(value) == "true"
	case k == "b64":
		r.Binary = string(value) == "true"
	case k == "g" || k == "w" || k == "pid" || k == "n" || k == "drop":
		n, ok := number(value)
		if !ok {
			return false
		}
		switch k {
		case "g":
			r.Generation = int(n)
		case "w":
			r.Worker = int(n)
		case "pid":
			r.PID = int(n)
		case "n":
			r.Number = n
		case "drop":
			r.Dropped = n
		}
	}
	return true
}

// word spares an allocation for the words that are expected.
func word(b []byte) string {
	for _, known := range [...]string{Stdout, Stderr, Baton, "warn", "error"} {
		if string(b) == known {
			return known
		}
	}
	return string(b)
}

// number reads a number that is not below zero.
func number(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

func (r *Record) finish() (ok bool) {
	if len(r.Stamp) == 0 || r.Stream == "" {
		return false
	}
	if r.Text, ok = text(r.Text); !ok || !r.Binary {
		return ok
	}
	plain, err := base64.StdEncoding.AppendDecode(nil, r.Text)
	r.Text = plain
	return err == nil
}

// appendOwn appends a record of the launcher's own.
func appendOwn(b []byte, stamp []byte, generation, pid int, level, text string, dropped int64) []byte {
	b = append(append(b, `{"t":"`...), stamp...)
	b = append(b, `","s":"`+Baton+`"`...)
	if generation > 0 {
		b = strconv.AppendInt(append(b, `,"g":`...), int64(generation), 10)
	}
	b = strconv.AppendInt(append(b, `,"pid":`...), int64(pid), 10)
	if level != "" {
		b = append(append(append(b, `,"v":"`...), level...), '"')
	}
	if dropped > 0 {
		b = strconv.AppendInt(append(b, dropMark...), dropped, 10)
	}
	b, binary := appendText(append(b, `,"l":"`...), []byte(text))
	return appendEnd(b, false, binary)
}

// dropMark cannot stand within a text, where a quote has a backslash before it.
const dropMark = `,"drop":`

func appendEnd(b []byte, more, binary bool) []byte {
	b = append(b, '"')
	if more {
		b = append(b, `,"p":true`...)
	}
	if binary {
		b = append(b, `,"b64":true`...)
	}
	return append(b, '}', '\n')
}

// linesOf is how many lines records stand for: one each, and those that one says to be
// missing in its place.
func linesOf(records []byte) int64 {
	n := int64(bytes.Count(records, []byte{'\n'}))
	for {
		i := bytes.Index(records, []byte(dropMark))
		if i < 0 {
			return n
		}
		records = records[i+len(dropMark):]
		end := bytes.IndexByte(records, ',')
		if v, ok := number(records[:max(end, 0)]); ok {
			n += v - 1
		}
	}
}

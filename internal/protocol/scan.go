package protocol

import (
	"bytes"
	"errors"
	"io"
)

// scanBuffer is how much of an executable is looked at at a time.
const scanBuffer = 32 << 10

// scan says which of the marks occur in what r reads, in their order. It stops
// once the first is found: tableflip's, which excludes the others.
//
// All are sought in one pass that skips most of the text (after Wu and Manber, "A
// fast algorithm for multi-pattern searching", 1994): the two bytes at the end of a
// window say how far off the next mark begins at least.
func scan(r io.Reader, marks []mark) (found []mark, err error) {
	s := newScanner(marks)
	buf := make([]byte, scanBuffer)
	for kept := 0; ; {
		n, err := io.ReadFull(r, buf[kept:])
		text := buf[:kept+n]
		s.spot(text)
		if s.seen[0] || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		kept = copy(buf, text[len(text)-s.longest+1:]) // a mark may lie across
	}
	for i, m := range marks {
		if s.seen[i] {
			found = append(found, m)
		}
	}
	return found, nil
}

type scanner struct {
	marks   []mark
	seen    []bool
	longest int // of the marks, in bytes
	window  int // the length of the shortest
	// skip says for each pair of bytes how far a window that ends in it can move on; 0:
	// a mark may begin with the window.
	skip [1 << 16]uint8
}

func newScanner(marks []mark) *scanner {
	s := &scanner{marks: marks, seen: make([]bool, len(marks)), window: len(marks[0].text)}
	for _, m := range marks {
		s.longest, s.window = max(s.longest, len(m.text)), min(s.window, len(m.text))
	}
	for i := range s.skip {
		s.skip[i] = uint8(s.window - 1)
	}
	for _, m := range marks {
		for i := 1; i < s.window; i++ {
			at := &s.skip[pair(m.text[i-1], m.text[i])]
			*at = min(*at, uint8(s.window-1-i))
		}
	}
	return s
}

func pair(a, b byte) uint16 { return uint16(a)<<8 | uint16(b) }

// spot notes which marks are in text.
func (s *scanner) spot(text []byte) {
	for end := s.window - 1; end < len(text); {
		if far := s.skip[pair(text[end-1], text[end])]; far > 0 {
			end += int(far)
			continue
		}
		rest := text[end-s.window+1:]
		for i, m := range s.marks {
			if !s.seen[i] && bytes.HasPrefix(rest, []byte(m.text)) {
				s.seen[i] = true
			}
		}
		end++
	}
}

package load

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Headers by which a server tells the client more than HTTP does. All are
// optional.
const (
	HeaderPID        = "X-Baton-Pid"     // the process that answers
	HeaderGeneration = "X-Generation"    // its generation
	HeaderPattern    = "X-Baton-Pattern" // the body is Pattern of this many bytes
)

// period of the pattern is prime, so that no power of two (a buffer, a chunk)
// dropped or doubled leaves it in step.
const period = 65_521

// patterned is made when it is first needed: the launcher, and each of its
// shims, has this package in its binary and does without it.
var patterned = sync.OnceValue(func() []byte {
	p := make([]byte, period)
	state := uint32(1)
	for i := range p {
		state = state*1_664_525 + 1_013_904_223 // Numerical Recipes' generator
		p[i] = 'a' + byte(state>>24)%26
	}
	return p
})

// Pattern returns the n bytes from offset on of a fixed sequence of letters in
// which a part that is missing, doubled or misplaced shows.
func Pattern(offset, n int) []byte {
	p := make([]byte, 0, n)
	for len(p) < n {
		at := (offset + len(p)) % period
		p = append(p, patterned()[at:min(at+n-len(p), period)]...)
	}
	return p
}

// matcher holds what is written to it against an expected sequence.
type matcher struct {
	offset int
	wrong  int // offset of the first wrong byte, or -1
	at     func(i int) byte
}

var (
	errContent = errors.New("wrong content")
	errShort   = fmt.Errorf("too short: %w", errContent)
)

func (m *matcher) Write(p []byte) (int, error) {
	if m.wrong < 0 {
		for i, b := range p {
			if m.at(m.offset+i) != b {
				m.wrong = m.offset + i
				break
			}
		}
	}
	m.offset += len(p)
	return len(p), nil
}

// match reads body to its end and holds it against n bytes, byte i being at(i).
// Its error wraps errContent when the body ended but is not those, and errShort
// when it only is not all of them.
func match(body io.Reader, n int, at func(i int) byte) error {
	m := matcher{wrong: -1, at: func(i int) byte {
		if i >= n {
			return 0
		}
		return at(i)
	}}
	if _, err := io.Copy(&m, body); err != nil {
		return err
	}
	switch {
	case m.wrong >= 0:
		return fmt.Errorf("byte %d: %w", m.wrong, errContent)
	case m.offset < n:
		return fmt.Errorf("%d bytes of %d: %w", m.offset, n, errShort)
	case m.offset != n:
		return fmt.Errorf("%d bytes of %d: %w", m.offset, n, errContent)
	}
	return nil
}

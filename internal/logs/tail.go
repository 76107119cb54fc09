package logs

import (
	"bytes"
	"strings"
	"sync"
)

const (
	tailLines = 20   // lines remembered
	tailWidth = 1024 // bytes of a line remembered
)

// tail remembers the last lines that came through.
type tail struct {
	mu      sync.Mutex
	done    []string
	partial []byte // a line whose end has not come
}

func newTail() *tail { return &tail{} }

func (t *tail) write(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		if room := tailWidth - len(t.partial); room > 0 {
			t.partial = append(t.partial, line[:min(len(line), room)]...)
		}
		p = rest
		if ended {
			t.push()
		}
	}
}

func (t *tail) push() {
	if len(t.done) == tailLines {
		copy(t.done, t.done[1:])
		t.done = t.done[:tailLines-1]
	}
	t.done = append(t.done, clean(t.partial))
	t.partial = t.partial[:0]
}

// lines returns what is remembered, a line without an end too.
func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := append([]string(nil), t.done...)
	if len(t.partial) > 0 {
		lines = append(lines, clean(t.partial))
	}
	if len(lines) > tailLines {
		lines = lines[1:]
	}
	return lines
}

// clean makes a line fit for a log: valid UTF-8 without control characters, so
// that a worker cannot move the cursor of whoever reads it.
func clean(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.TrimRight(strings.ToValidUTF8(string(b), "\uFFFD"), "\r"))
}

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
	done    [tailLines][]byte // a ring: the room of a line is the next one's
	next    int               // where the next line goes
	count   int               // lines in the ring
	partial []byte            // a line whose end has not come
}

func newTail() *tail { return &tail{} }

func (t *tail) write(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if from := lastLines(p); from > 0 { // all before will not be remembered
		t.partial = t.partial[:0]
		p = p[from:]
	}
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

// lastLines is where the last tailLines whole lines of p begin; 0 when there are no more.
func lastLines(p []byte) int {
	end := len(p)
	for range tailLines + 1 {
		if end = bytes.LastIndexByte(p[:end], '\n'); end < 0 {
			return 0
		}
	}
	return end + 1
}

func (t *tail) push() {
	t.done[t.next] = append(t.done[t.next][:0], t.partial...)
	t.next = (t.next + 1) % tailLines
	t.count = min(t.count+1, tailLines)
	t.partial = t.partial[:0]
}

// lines returns what is remembered, a line without an end too.
func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for i := range t.count {
		lines = append(lines, clean(t.done[(t.next+tailLines-t.count+i)%tailLines]))
	}
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
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 { // C0, DEL, C1: to some terminals U+009B is ESC [
			return -1
		}
		return r
	}, strings.TrimRight(strings.ToValidUTF8(string(b), "\uFFFD"), "\r"))
}

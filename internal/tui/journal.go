package tui

import (
	"context"
	"slices"
	"strings"
	"unicode"

	tea "charm.land/bubbletea/v2"
)

// journal is the log of the selected application: what is read of it, and which part
// of it is looked at.
type journal struct {
	stop   context.CancelFunc // of the one that is read; nil: none is
	serial int                // of the reading: what an older one still sends is not for us
	open   bool               // it is read; else what was seen to change stands for it
	lines  []Line

	back  int // lines between the last one shown and the last one there is
	right int // columns that are left out at the left

	search string
	typing bool // the search is being typed
	found  int  // index of the line that was found; -1: none
}

// What reading answers.
type (
	followedMsg struct {
		serial int
		lines  <-chan Line
		err    error
	}
	linesMsg struct {
		serial int
		lines  []Line
		from   <-chan Line // nil: that was the last
	}
)

// follow begins to read the log of the selected application, and ends the reading of
// another one's.
func (s *screen) follow() tea.Cmd {
	j := &s.log
	if j.stop != nil {
		j.stop()
	}
	*j = journal{serial: j.serial + 1, search: j.search, found: -1}
	if s.o.Follow == nil {
		return nil
	}
	ctx, stop := context.WithCancel(s.ctx)
	j.stop = stop
	name, serial, begin := s.selected, j.serial, s.o.Follow
	return func() tea.Msg {
		lines, err := begin(ctx, name)
		return followedMsg{serial, lines, err}
	}
}

func (s *screen) followed(msg followedMsg) tea.Cmd {
	if msg.serial != s.log.serial || msg.err != nil {
		return nil // there is no log: the changes are shown instead
	}
	s.log.open, s.log.back = true, 0
	return more(s.ctx, msg.serial, msg.lines)
}

// atOnce bounds how many lines one message carries: a worker that prints without end
// must not keep the keys waiting.
const atOnce = 1000

// more waits for lines and takes as many as there are.
func more(ctx context.Context, serial int, from <-chan Line) tea.Cmd {
	return func() tea.Msg {
		msg := linesMsg{serial: serial, from: from}
		select {
		case <-ctx.Done():
			return nil
		case line, ok := <-from:
			if !ok {
				return linesMsg{serial: serial}
			}
			msg.lines = append(msg.lines, line)
		}
		for len(msg.lines) < atOnce {
			select {
			case line, ok := <-from:
				if !ok {
					msg.from = nil
					return msg
				}
				msg.lines = append(msg.lines, line)
			default:
				return msg
			}
		}
		return msg
	}
}

func (s *screen) read(msg linesMsg) tea.Cmd {
	if msg.serial != s.log.serial {
		return nil
	}
	s.log.add(msg.lines)
	if msg.from == nil {
		return nil
	}
	return more(s.ctx, msg.serial, msg.from)
}

// What is kept of a log: lines, and bytes of each.
const (
	keptLines = 5000
	keptBytes = 4096
)

func (j *journal) add(lines []Line) {
	for _, line := range lines {
		if len(line.Text) > keptBytes {
			line.Text = line.Text[:keptBytes]
		}
		line.Text = clean(line.Text)
		j.lines = append(j.lines, line)
	}
	if over := len(j.lines) - keptLines; over > keptLines/10 { // not for every line
		j.lines = slices.Delete(j.lines, 0, over)
		j.found = max(-1, j.found-over)
	}
	j.hold(len(lines))
}

// hold keeps what is looked at where it is, when so many lines came: what was found
// must not run away.
func (j *journal) hold(n int) {
	if j.back > 0 || j.found >= 0 {
		j.back += max(0, n)
	}
}

// shown are the lines there are to look at.
func (s *screen) shown() []Line {
	if s.log.open {
		return s.log.lines
	}
	if a := s.app(s.selected); a != nil {
		return a.notices
	}
	return nil
}

// scroll goes back by so many lines, or forth when n is less than nothing.
func (s *screen) scroll(n int) {
	room := s.layout().log
	s.log.back = max(0, min(s.log.back+n, len(s.shown())-room))
}

// typed is a key while the search is being typed.
func (s *screen) typed(k tea.KeyPressMsg) {
	j := &s.log
	switch k.String() {
	case "enter":
		j.typing = false
	case "esc":
		j.typing, j.search, j.found = false, "", -1
		return
	case "backspace":
		if r := []rune(j.search); len(r) > 0 {
			j.search = string(r[:len(r)-1])
		}
	case "ctrl+u":
		j.search = ""
	default:
		j.paste(k.Text)
	}
	if j.found = -1; j.search != "" {
		s.find(-1)
	}
}

func (j *journal) paste(text string) {
	if j.typing && len(j.search)+len(text) < 200 {
		j.search += clean(text)
	}
}

// find goes to the next line that has what is searched for: to older ones with -1,
// to newer ones with 1. The first time it begins at the newest.
func (s *screen) find(step int) {
	j, lines := &s.log, s.shown()
	if j.search == "" {
		return
	}
	at := j.found + step
	if j.found < 0 {
		step, at = -1, len(lines)-1
	}
	for ; at >= 0 && at < len(lines); at += step {
		if matches(lines[at].Text, j.search) {
			j.found = at
			s.reveal(at, len(lines))
			return
		}
	}
	switch {
	case j.found < 0 && !j.typing:
		s.say(plain, "not found: "+j.search)
	case !j.typing:
		s.say(plain, "no more of: "+j.search)
	}
}

// reveal scrolls so that a line is seen, and no further than it must.
func (s *screen) reveal(at, n int) {
	room := s.layout().log
	last := n - 1 - s.log.back
	switch {
	case at > last:
		s.log.back = n - 1 - at
	case at <= last-room:
		s.log.back = max(0, n-room-at)
	}
}

// matches looks for a text in a line; capitals count where there is one in the text.
func matches(line, text string) bool {
	if !strings.ContainsFunc(text, unicode.IsUpper) {
		line = strings.ToLower(line)
	}
	return strings.Contains(line, text)
}

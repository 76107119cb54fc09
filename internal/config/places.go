package config

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The TOML library tells where a text stops being TOML but not where a key of a
// good text stands. places finds that, and nothing else: it runs over text the
// library has accepted, so it checks nothing; on text it does not understand it
// stops early and what it found so far still holds.

// place is where one key, table or element of a list stands.
type place struct {
	line, column int // from 1; column in characters
	offset       int // in bytes, of the same spot
	keys         map[string]*place
	items        []*place
}

// child returns the place of key below p, making it at the given spot.
func (p *place) child(key string, at place) *place {
	if c := p.keys[key]; c != nil {
		return c
	}
	c := &at
	if p.keys == nil {
		p.keys = map[string]*place{}
	}
	p.keys[key] = c
	return c
}

// last is the table a header below p goes on in: the newest element of an array
// of tables, p itself otherwise.
func (p *place) last() *place {
	if n := len(p.items); n > 0 {
		return p.items[n-1]
	}
	return p
}

// part is one piece of a dotted key.
type part struct {
	name string
	at   place
}

type scanner struct {
	text       string
	i          int
	line       int
	lineOffset int // where the line begins
}

// places returns the place of the whole document, with everything below it.
func places(text string) *place {
	s := &scanner{text: text, line: 1}
	root := &place{line: 1, column: 1}
	table := root
	for {
		s.space(true)
		before := s.i
		switch {
		case s.i >= len(s.text):
			return root
		case s.text[s.i] == '[':
			table = s.header(root)
		default:
			s.pair(table)
		}
		if s.i == before { // not TOML: the library would have said so
			return root
		}
	}
}

func (s *scanner) here() place {
	return place{line: s.line, column: 1 + utf8.RuneCountInString(s.text[s.lineOffset:s.i]), offset: s.i}
}

func (s *scanner) at(prefix string) bool { return strings.HasPrefix(s.text[s.i:], prefix) }

// next passes over one byte, counting lines.
func (s *scanner) next() {
	if s.i >= len(s.text) {
		return
	}
	if s.text[s.i] == '\n' {
		s.line++
		s.lineOffset = s.i + 1
	}
	s.i++
}

// space passes over blanks; with lines set, over line ends and comments too.
func (s *scanner) space(lines bool) {
	for s.i < len(s.text) {
		switch c := s.text[s.i]; {
		case c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r'):
			s.next()
		case lines && c == '#':
			for s.i < len(s.text) && s.text[s.i] != '\n' {
				s.next()
			}
		default:
			return
		}
	}
}

// header reads [a.b] or [[a.b]] and returns the table that follows it.
func (s *scanner) header(root *place) *place {
	array := s.at("[[")
	s.next()
	if array {
		s.next()
	}
	parts := s.key()
	for s.i < len(s.text) && s.text[s.i] == ']' {
		s.next()
	}
	if len(parts) == 0 {
		return root
	}
	table := root
	for _, p := range parts[:len(parts)-1] {
		table = table.child(p.name, p.at).last()
	}
	final := parts[len(parts)-1]
	table = table.child(final.name, final.at)
	if array {
		item := final.at
		table.items = append(table.items, &item)
		return &item
	}
	// [a] after [a.b]: the header is the better place for a.
	table.line, table.column, table.offset = final.at.line, final.at.column, final.at.offset
	return table.last()
}

// pair reads key = value into the table.
func (s *scanner) pair(table *place) {
	parts := s.key()
	if s.i < len(s.text) && s.text[s.i] == '=' {
		s.next()
	}
	for _, p := range parts {
		table = table.child(p.name, p.at)
	}
	s.space(false)
	s.value(table)
}

// key reads a dotted key up to the ']' or '=' behind it.
func (s *scanner) key() []part {
	var parts []part
	for {
		s.space(false)
		p := part{at: s.here()}
		begin := s.i
		switch {
		case s.i >= len(s.text):
			return parts
		case s.text[s.i] == '"':
			s.quoted()
			p.name = unquote(s.text[begin:s.i])
		case s.text[s.i] == '\'':
			s.quoted()
			p.name = strings.Trim(s.text[begin:s.i], "'")
		default:
			for s.i < len(s.text) && !strings.ContainsRune(" \t\r\n.=]\"'#", rune(s.text[s.i])) {
				s.next()
			}
			p.name = s.text[begin:s.i]
		}
		parts = append(parts, p)
		s.space(false)
		if s.i >= len(s.text) || s.text[s.i] != '.' {
			return parts
		}
		s.next()
	}
}

// value passes over one value, noting what is inside lists and inline tables.
func (s *scanner) value(p *place) {
	if s.i >= len(s.text) {
		return
	}
	switch s.text[s.i] {
	case '"', '\'':
		s.quoted()
	case '[':
		s.enclosed(']', func() {
			item := s.here()
			p.items = append(p.items, &item)
			s.value(&item)
		})
	case '{':
		s.enclosed('}', func() { s.pair(p) })
	default: // a number, a boolean or a date, which may hold a blank
		for s.i < len(s.text) && !strings.ContainsRune(",]}#\n", rune(s.text[s.i])) {
			s.next()
		}
	}
}

// enclosed passes over a list or an inline table; each is called at every element.
func (s *scanner) enclosed(end byte, each func()) {
	s.next()
	for {
		s.space(true)
		for s.i < len(s.text) && s.text[s.i] == ',' {
			s.next()
			s.space(true)
		}
		if s.i >= len(s.text) {
			return
		}
		if s.text[s.i] == end {
			s.next()
			return
		}
		before := s.i
		each()
		if s.i == before {
			return
		}
	}
}

// quoted passes over a string of any of the four kinds.
func (s *scanner) quoted() {
	quote := s.text[s.i : s.i+1]
	if s.at(quote + quote + quote) {
		quote += quote + quote
	}
	for range quote {
		s.next()
	}
	for s.i < len(s.text) && !s.at(quote) {
		if s.text[s.i] == '\\' && quote[0] == '"' {
			s.next()
		}
		s.next()
	}
	for range quote {
		s.next()
	}
	// Up to two quotes may stand right before the closing three.
	for range 2 {
		if len(quote) == 3 && s.at(quote[:1]) {
			s.next()
		}
	}
}

// unquote gives the value of a basic string that is a key, its quotes included.
func unquote(quoted string) string {
	text := strings.TrimSuffix(strings.TrimPrefix(quoted, `"`), `"`)
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		digits := 0
		switch text[i] {
		case 'b':
			b.WriteByte('\b')
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'f':
			b.WriteByte('\f')
		case 'r':
			b.WriteByte('\r')
		case 'e':
			b.WriteByte(0x1b)
		case 'x':
			digits = 2
		case 'u':
			digits = 4
		case 'U':
			digits = 8
		default:
			b.WriteByte(text[i])
		}
		if end := i + 1 + digits; digits > 0 && end <= len(text) {
			if r, err := strconv.ParseUint(text[i+1:end], 16, 32); err == nil {
				b.WriteRune(rune(r))
			}
			i = end - 1
		}
	}
	return b.String()
}

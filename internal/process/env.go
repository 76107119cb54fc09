package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// environment is an ordered set of KEY=VALUE; the last value of a key wins, the
// first position stays.
type environment struct {
	list []string
	at   map[string]int
}

func newEnvironment(base []string) *environment {
	e := &environment{at: make(map[string]int, len(base))}
	for _, kv := range base {
		// An entry without '=' is nothing a program could look up; the launcher got
		// it from its own parent, so it is dropped rather than refused.
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			e.set(k, v)
		}
	}
	return e
}

func (e *environment) set(key, value string) {
	if i, ok := e.at[key]; ok {
		e.list[i] = key + "=" + value
		return
	}
	e.at[key] = len(e.list)
	e.list = append(e.list, key+"="+value)
}

func (e *environment) get(key string) (string, bool) {
	i, ok := e.at[key]
	if !ok {
		return "", false
	}
	return e.list[i][len(key)+1:], true
}

// add takes KEY=VALUE as a user wrote it.
func (e *environment) add(kv string) error {
	k, v, ok := strings.Cut(kv, "=")
	if !ok || k == "" {
		return fmt.Errorf("env %q: not KEY=VALUE", kv)
	}
	if strings.ContainsRune(kv, 0) {
		return fmt.Errorf("env %s: a NUL byte in it", k)
	}
	e.set(k, v)
	return nil
}

// addFile reads one env file; name may begin with '-' (a missing file is fine).
func (e *environment) addFile(name, dir string) error {
	path, optional := strings.CutPrefix(name, "-")
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	b, err := os.ReadFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("env file %s: %w", path, pe.Err)
	}
	if err != nil {
		return fmt.Errorf("env file %s: %w", path, err)
	}
	pairs, err := parseEnvFile(string(b))
	if err != nil {
		return fmt.Errorf("env file %s:%w", path, err)
	}
	for _, kv := range pairs {
		e.set(kv[0], kv[1])
	}
	return nil
}

// parseEnvFile reads systemd's format (systemd.exec(5), EnvironmentFile=): one
// KEY=VALUE a line; '#' and ';' begin a comment at the start of a line only;
// 'single' quotes are literal, in "double" ones a backslash escapes " \ ` and $;
// quoted values may span lines; outside of quotes a backslash takes the next
// character literally and joins lines; nothing is expanded. Two liberties: an
// "export " before the key, and a line that is no assignment is an error
// (systemd skips it). Errors begin with the line's number.
func parseEnvFile(text string) ([][2]string, error) {
	s := scanner{text: strings.TrimPrefix(text, "\ufeff"), line: 1}
	var pairs [][2]string
	for {
		s.skipBlank()
		if s.end() {
			return pairs, nil
		}
		if c := s.peek(); c == '#' || c == ';' {
			s.until('\n')
			continue
		}
		line := s.line
		key, err := s.key()
		if err != nil {
			return nil, fmt.Errorf("%d: %w", line, err)
		}
		value, err := s.value()
		if err != nil {
			return nil, fmt.Errorf("%d: %s: %w", line, key, err)
		}
		if strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("%d: %s: a NUL byte in it", line, key)
		}
		pairs = append(pairs, [2]string{key, value})
	}
}

type scanner struct {
	text string
	pos  int
	line int
}

func (s *scanner) end() bool  { return s.pos >= len(s.text) }
func (s *scanner) peek() byte { return s.text[s.pos] }

func (s *scanner) next() byte {
	c := s.text[s.pos]
	s.pos++
	if c == '\n' {
		s.line++
	}
	return c
}

func (s *scanner) skipBlank() {
	for !s.end() && strings.IndexByte(" \t\r\n", s.peek()) >= 0 {
		s.next()
	}
}

func (s *scanner) until(stop byte) string {
	from := s.pos
	for !s.end() && s.peek() != stop {
		s.next()
	}
	return s.text[from:s.pos]
}

// key reads up to and including '='.
func (s *scanner) key() (string, error) {
	from := s.pos
	for !s.end() && s.peek() != '=' && s.peek() != '\n' {
		s.next()
	}
	word := strings.TrimSpace(s.text[from:s.pos])
	if s.end() || s.peek() != '=' {
		return "", fmt.Errorf("%q is not KEY=VALUE", word)
	}
	s.next()
	if rest, ok := strings.CutPrefix(word, "export"); ok && strings.TrimLeft(rest, " \t") != rest {
		word = strings.TrimLeft(rest, " \t")
	}
	if word == "" || strings.ContainsAny(word, " \t\"'\\$\x00") {
		return "", fmt.Errorf("%q is not a name", word)
	}
	return word, nil
}

// value reads to the end of the assignment: of the line, unless quotes or a
// backslash carry it on.
func (s *scanner) value() (string, error) {
	var out strings.Builder
	kept := 0 // length that trimming blanks at the end must not touch
	for !s.end() && strings.IndexByte(" \t", s.peek()) >= 0 {
		s.next()
	}
	for !s.end() {
		switch c := s.next(); c {
		case '\n':
			return trimTail(out.String(), kept), nil
		case '\'':
			out.WriteString(s.until('\''))
			if s.end() {
				return "", errors.New("a single quote is never closed")
			}
			s.next()
			kept = out.Len()
		case '"':
			if err := s.double(&out); err != nil {
				return "", err
			}
			kept = out.Len()
		case '\\':
			if s.end() {
				break
			}
			if n := s.next(); n != '\n' {
				out.WriteByte(n)
			}
			kept = out.Len()
		default:
			out.WriteByte(c)
		}
	}
	return trimTail(out.String(), kept), nil
}

func trimTail(v string, kept int) string {
	return v[:kept] + strings.TrimRight(v[kept:], " \t\r")
}

// double reads the rest of a double-quoted part.
func (s *scanner) double(out *strings.Builder) error {
	for !s.end() {
		switch c := s.next(); c {
		case '"':
			return nil
		case '\\':
			if s.end() {
				break
			}
			switch n := s.next(); n {
			case '"', '\\', '`', '$':
				out.WriteByte(n)
			case '\n': // joins the lines
			default:
				out.WriteByte('\\')
				out.WriteByte(n)
			}
		default:
			out.WriteByte(c)
		}
	}
	return errors.New("a double quote is never closed")
}

package hooks

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"baton/internal/event"
)

// told is what a command reads on its standard input: the event, with the two
// things that it does not say of itself.
type told struct {
	Hook string `json:"hook"`
	Name string `json:"name"`
	event.Event
}

// input is one JSON object on one line.
func (h *Hooks) input(c call) ([]byte, error) {
	b, err := json.Marshal(told{c.hook, h.o.Name, c.event})
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", c.event.Kind, err)
	}
	return append(b, '\n'), nil
}

// variables are the same for those who do not read JSON. All are always set, so that
// a script can say "set -u", and finds nothing that was meant for somebody else.
func (h *Hooks) variables(c call) []string {
	e := c.event
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	return []string{
		"BATON_HOOK=" + c.hook,
		"BATON_EVENT=" + oneLine(string(e.Kind)),
		"BATON_NAME=" + oneLine(h.o.Name),
		"BATON_GENERATION=" + number(e.Generation),
		"BATON_SERIAL=" + number(e.Worker),
		"BATON_PID=" + number(e.PID),
		"BATON_REASON=" + oneLine(e.Reason),
		"BATON_MESSAGE=" + oneLine(e.Message),
		"BATON_TIME=" + e.Time.Format(time.RFC3339),
	}
}

// longest bounds a variable, in bytes: execve(2) takes 128 KiB, a subject line less.
const longest = 1024

// oneLine makes a variable of words that may be a worker's own. A NUL byte would
// begin another variable, and a line's end another header of a mail: control
// characters are blanks.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest-len("…")], "") + "…"
	}
	return s
}

package tui

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// tone is what a text means. Where there are no colours nothing is lost but them:
// every tone goes with a word that says the same.
type tone int

const (
	plain  tone = iota
	good        // as it should be
	moving      // under way
	bad         // a person should look
	faint       // frame and background
	strong      // a heading
	marked      // selected, or found
)

// look is how the terminal may be drawn on.
type look struct {
	colours bool
	glyphs
}

// glyphs are the characters that are not letters.
type glyphs struct {
	rule, full, empty, pointer, ellipsis string
	steps                                []rune // of a graph, from the least to a full cell
}

var (
	ascii = glyphs{rule: "-", full: "#", empty: ".", pointer: ">", ellipsis: "~", steps: []rune(".:-=+*%#")}
	block = glyphs{rule: "─", full: "█", empty: "░", pointer: "▸", ellipsis: "…", steps: []rune("▁▂▃▄▅▆▇█")}
	// The console's font has the characters of code page 437 and little else.
	console = glyphs{rule: "─", full: "█", empty: "░", pointer: ">", ellipsis: "~", steps: []rune("░▒▓█")}
)

// lookFor asks the environment: https://no-color.org, and locale(7) about what may
// be written.
func lookFor(env func(string) string) look {
	l := look{colours: env("NO_COLOR") == "", glyphs: ascii}
	locale := ""
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale = env(name); locale != "" {
			break
		}
	}
	locale = strings.ToLower(locale)
	switch {
	case !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8"):
	case env("TERM") == "linux":
		l.glyphs = console
	default:
		l.glyphs = block
	}
	return l
}

// paint gives a text its tone.
func (l look) paint(t tone, text string) string {
	code := ""
	switch t {
	case good:
		code = "32"
	case moving:
		code = "33"
	case bad:
		code = "31"
	case faint:
		return "\x1b[2m" + text + "\x1b[m"
	case strong:
		return "\x1b[1m" + text + "\x1b[m"
	case marked:
		return "\x1b[7m" + text + "\x1b[m"
	}
	if code == "" || !l.colours {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[m"
}

// cut shortens a text to a width, and shows that it did.
func (l look) cut(text string, width int) string {
	return ansi.Truncate(text, max(0, width), l.ellipsis)
}

// fit cuts a text or fills it up with blanks, to be exactly that wide.
func (l look) fit(text string, width int) string {
	text = l.cut(text, width)
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
}

// ends has one text at the left and one at the right of a line; the left one gives way.
func (l look) ends(left, right string, width int) string {
	right = l.cut(right, width)
	return l.fit(left, width-ansi.StringWidth(right)) + right
}

// heading is a rule across the screen with a title in it, and words at its right.
func (l look) heading(title, right string, width int, focused bool) string {
	mark := l.rule
	if focused {
		mark = l.pointer
	}
	head := mark + l.rule + " "
	if right != "" {
		right = " " + l.cut(right, width-ansi.StringWidth(title)-8) + " " + l.rule
	}
	title = l.cut(title, width-ansi.StringWidth(head)-ansi.StringWidth(right)-1)
	line := strings.Repeat(l.rule, max(0, width-ansi.StringWidth(head+title+right)-1))
	return l.paint(faint, head) + l.paint(strong, title) + l.paint(faint, " "+line) + right
}

// bar is a share of a whole.
func (l look) bar(part, whole float64, width int) string {
	n := 0
	if whole > 0 {
		n = int(min(1, max(0, part/whole))*float64(width) + 0.5)
	}
	return strings.Repeat(l.full, n) + strings.Repeat(l.empty, width-n)
}

// graph draws values from 0 to top, one a column, in so many lines. What is less
// than nothing was not known.
func (l look) graph(values []float64, top float64, lines int) []string {
	rows := make([]strings.Builder, lines)
	levels := len(l.steps) * lines
	for _, v := range values {
		n := 0
		if top > 0 && v > 0 {
			n = max(1, int(min(1, v/top)*float64(levels)+0.5))
		}
		for i := range rows {
			at := n - (lines-1-i)*len(l.steps) // what of it is in this line
			switch {
			case v >= 0 && i == lines-1 && at <= 0:
				rows[i].WriteRune(l.steps[0]) // the ground
			case at <= 0:
				rows[i].WriteByte(' ')
			default:
				rows[i].WriteRune(l.steps[min(at, len(l.steps))-1])
			}
		}
	}
	out := make([]string, lines)
	for i := range rows {
		out[i] = rows[i].String()
	}
	return out
}

// clean keeps what a program said from telling the terminal what to do: colours are
// dropped, what else is no text becomes a question mark, and so does what would turn
// the order of letters on the screen.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ', r >= 0x7f && r <= 0x9f, r == '\ufffd',
			r == '\u200e', r == '\u200f', r >= '\u2028' && r <= '\u202e', r >= '\u2066' && r <= '\u2069':
			return '?'
		}
		return r
	}, ansi.Strip(strings.ToValidUTF8(text, "?")))
}

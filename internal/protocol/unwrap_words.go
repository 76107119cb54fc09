package protocol

import (
	"regexp"
	"strings"
)

// word is one word of a command.
type word struct {
	text string
	raw  bool // text is a shell's to expand: "$PORT", "*.js"
}

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

func (w word) assignment() bool { return assignment.MatchString(w.text) }

var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+:,./=-]+$`)

// quoted is the word as a shell reads it.
func (w word) quoted() string {
	if w.raw || plain.MatchString(w.text) {
		return w.text
	}
	return "'" + strings.ReplaceAll(w.text, "'", `'\''`) + "'"
}

// simple is one command of a script.
type simple struct {
	text  string
	words []word
}

// parseScript cuts a script into simple commands that are joined by && alone; nil
// if there is anything else that only a shell understands.
func parseScript(script string) (commands []simple) {
	p := scriptParser{in: script}
	for {
		from := p.at
		words, ok := p.words()
		if !ok || len(words) == 0 || !words[0].raw && isReserved(words[0].text) {
			return nil
		}
		commands = append(commands, simple{strings.TrimSpace(script[from:p.at]), words})
		if p.at == len(p.in) {
			return commands
		}
		p.at += len("&&")
	}
}

// isReserved says whether a shell takes the word for more than a command.
func isReserved(s string) bool {
	switch s {
	case "if", "for", "while", "until", "case", "function", "{", "}", "!", "then", "do", "else", "fi", "done", "[[":
		return true
	}
	return false
}

// scriptParser reads words; it knows of the shell what a simple command may have.
type scriptParser struct {
	in string
	at int
}

// words reads up to && or the end; false: it met something else.
func (p *scriptParser) words() (words []word, ok bool) {
	for {
		for p.at < len(p.in) && (p.in[p.at] == ' ' || p.in[p.at] == '\t') {
			p.at++
		}
		if p.at == len(p.in) || strings.HasPrefix(p.in[p.at:], "&&") {
			return words, true
		}
		if p.in[p.at] == '#' {
			return nil, false
		}
		w, ok := p.word()
		if !ok {
			return nil, false
		}
		words = append(words, w)
	}
}

// word reads one, with its quotes taken off unless a shell has to expand it.
func (p *scriptParser) word() (w word, ok bool) {
	from := p.at
	var text strings.Builder
	raw := false
	for ; p.at < len(p.in); p.at++ {
		switch c := p.in[p.at]; c {
		case ' ', '\t':
			return p.made(from, text.String(), raw), true
		case '&':
			return p.made(from, text.String(), raw), strings.HasPrefix(p.in[p.at:], "&&")
		case '|', ';', '<', '>', '(', ')', '\n', '\r':
			return word{}, false
		case '$', '`':
			raw = true
			if c == '`' || strings.HasPrefix(p.in[p.at:], "$(") {
				return word{}, false // a command in itself
			}
		case '*', '?', '[':
			raw = true
		case '~':
			raw = raw || p.at == from || p.in[p.at-1] == '='
			text.WriteByte(c)
		case '\\':
			if p.at++; p.at == len(p.in) {
				return word{}, false
			}
			text.WriteByte(p.in[p.at])
		case '\'', '"':
			inside, expands, ok := p.quote(c)
			if !ok {
				return word{}, false
			}
			raw = raw || expands
			text.WriteString(inside)
		default:
			text.WriteByte(c)
		}
	}
	return p.made(from, text.String(), raw), true
}

func (p *scriptParser) made(from int, text string, raw bool) word {
	if raw {
		return word{p.in[from:p.at], true}
	}
	return word{text: text}
}

// quote reads what is in quotes, and stops on the closing one.
func (p *scriptParser) quote(mark byte) (text string, expands, ok bool) {
	var out strings.Builder
	for p.at++; p.at < len(p.in); p.at++ {
		c := p.in[p.at]
		switch {
		case c == mark:
			return out.String(), expands, true
		case mark == '"' && (c == '`' || strings.HasPrefix(p.in[p.at:], "$(")):
			return "", false, false
		case mark == '"' && c == '$':
			expands = true
		case mark == '"' && c == '\\' && p.at+1 < len(p.in) && strings.IndexByte("$`\"\\", p.in[p.at+1]) >= 0:
			p.at++
			c = p.in[p.at]
		}
		out.WriteByte(c)
	}
	return "", false, false
}

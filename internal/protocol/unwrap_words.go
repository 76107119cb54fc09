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

func quoted(words []word) (out []string) {
	for _, w := range words {
		out = append(out, w.quoted())
	}
	return out
}

// simple is one command of a script.
type simple struct {
	text  string
	at    int // where it begins in the script
	words []word
	then  string // what follows: "&&", "||", ";", or "" at the end
}

// parseScript cuts a script into simple commands that run one after the other; nil
// if there is anything else that only a shell understands.
func parseScript(script string) (commands []simple) {
	p := scriptParser{in: script}
	for {
		p.blank(" \t\n")
		from := p.at
		words, ok := p.words()
		if !ok || len(words) == 0 || !words[0].raw && isReserved(words[0].text) {
			return nil
		}
		c := simple{text: strings.TrimSpace(script[from:p.at]), at: from, words: words, then: p.separator()}
		commands = append(commands, c)
		p.blank(" \t\n")
		switch {
		case p.at == len(p.in) && (c.then == "" || c.then == ";"):
			return commands
		case !c.words[0].raw && (c.words[0].text == "exec" || c.words[0].text == "trap"):
			return nil // what follows depends on the shell that had it
		}
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

func (p *scriptParser) blank(characters string) {
	for p.at < len(p.in) && strings.IndexByte(characters, p.in[p.at]) >= 0 {
		p.at++
	}
}

// next is what separates commands, if that is what comes next, as it is written; "" if
// not.
func (p *scriptParser) next() string {
	for _, s := range []string{"&&", "||", ";", "\n"} {
		if strings.HasPrefix(p.in[p.at:], s) {
			return s
		}
	}
	return ""
}

// separator reads it. A line's end is as good as a semicolon.
func (p *scriptParser) separator() string {
	s := p.next()
	p.at += len(s)
	if s == "\n" {
		return ";"
	}
	return s
}

// words reads up to a separator or the end; false: it met something else.
func (p *scriptParser) words() (words []word, ok bool) {
	for {
		p.blank(" \t")
		if p.at == len(p.in) || p.next() != "" {
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
		case '&', '|', ';', '\n':
			return p.made(from, text.String(), raw), p.next() != ""
		case '<', '>', '(', ')', '\r':
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
			if p.at++; p.at == len(p.in) || p.in[p.at] == '\n' {
				return word{}, false // a line that goes on in the next
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
		case mark == '"' && strings.HasPrefix(p.in[p.at:], "\\\n"):
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

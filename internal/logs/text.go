package logs

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"unicode/utf8"
)

// What a worker writes becomes the text of records here. It is the hot path of
// capturing: nothing is allocated for a line, and plain ASCII is copied as it is.

const (
	ones   = 0x0101010101010101
	highs  = 0x8080808080808080
	blanks = 0x20 * ones
	quotes = '"' * ones
	slants = '\\' * ones
)

// plain is the length of the head of b that is the same in a JSON string: ASCII
// without control characters, quotes and backslashes. It may stop early, by less than
// eight bytes, never late.
func plain(b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		q, s := w^quotes, w^slants
		// The high bit of a byte is set where it is set in w, where the byte is below a
		// blank, and where it is zero in q or s; a borrow may set one more.
		if (w|(w-blanks)&^w|(q-ones)&^q|(s-ones)&^s)&highs != 0 {
			break
		}
	}
	for ; i < len(b); i++ {
		if special(b[i]) {
			break
		}
	}
	return i
}

func special(c byte) bool { return c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf }

// appendText appends a line as the inside of a JSON string. What is not UTF-8, or
// holds a NUL as no text does, becomes base64.
func appendText(dst, line []byte) (_ []byte, binary bool) {
	i := plain(line)
	if i == len(line) {
		return append(dst, line...), false
	}
	if !utf8.Valid(line[i:]) || bytes.IndexByte(line, 0) >= 0 {
		return base64.StdEncoding.AppendEncode(dst, line), true
	}
	done := 0 // of line, in dst
	for ; i < len(line); i++ {
		c := line[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, line[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\t':
			dst = append(dst, '\\', 't')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\n':
			dst = append(dst, '\\', 'n')
		default:
			const digits = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(dst, line[done:]...), false
}

// text is the reverse: the inside of a JSON string as what was written. It gives s
// itself where nothing in it is escaped.
func text(s []byte) ([]byte, bool) {
	at := bytes.IndexByte(s, '\\')
	if at < 0 {
		return s, true
	}
	out := append(make([]byte, 0, len(s)), s[:at]...)
	for s = s[at:]; len(s) > 0; {
		if s[0] != '\\' {
			n := bytes.IndexByte(s, '\\')
			if n < 0 {
				n = len(s)
			}
			out, s = append(out, s[:n]...), s[n:]
			continue
		}
		if len(s) < 2 {
			return nil, false
		}
		c := s[1]
		s = s[2:]
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 't':
			out = append(out, '\t')
		case 'r':
			out = append(out, '\r')
		case 'n':
			out = append(out, '\n')
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'u':
			if len(s) < 4 {
				return nil, false
			}
			v, err := strconv.ParseUint(string(s[:4]), 16, 16)
			if err != nil {
				return nil, false
			}
			out, s = utf8.AppendRune(out, rune(v)), s[4:] // no surrogates: they are never written
		default:
			return nil, false
		}
	}
	return out, true
}

// cutText is where a line that is too long is cut: at most at max, and not within a
// character.
func cutText(line []byte, most int) int {
	for back := 0; back < utf8.UTFMax && back < most; back++ {
		if utf8.RuneStart(line[most-back]) {
			return most - back
		}
	}
	return most // not UTF-8
}

package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/BurntSushi/toml"
)

// checkPlaces holds the scanner to the TOML library: every key the library found
// has a place, and what stands there is that key.
func checkPlaces(t *testing.T, text string) {
	t.Helper()
	var raw map[string]any
	if _, err := toml.Decode(text, &raw); err != nil {
		t.Skip("not TOML")
	}
	var walk func(value any, p *place, key string)
	walk = func(value any, p *place, key string) {
		switch v := value.(type) {
		case map[string]any:
			for name, child := range v {
				below := p.keys[name]
				if below == nil {
					t.Fatalf("%s has no place in\n%s", join(key, name), text)
				}
				checkPlace(t, text, name, below)
				walk(child, below, join(key, name))
			}
		case []any:
			if len(v) != len(p.items) {
				t.Fatalf("%s has %d places for %d elements in\n%s", key, len(p.items), len(v), text)
			}
			for i := range v {
				walk(v[i], p.items[i], key)
			}
		case []map[string]any:
			empty := func(m map[string]any) bool { _, is := m[""]; return is }
			if len(v) < len(p.items) && slices.ContainsFunc(v, empty) {
				t.Skip("the library forgets what stands in a list beside an inline table with an empty key")
			}
			if len(v) != len(p.items) {
				t.Fatalf("%s has %d places for %d tables in\n%s", key, len(p.items), len(v), text)
			}
			for i := range v {
				walk(v[i], p.items[i], key)
			}
		}
	}
	walk(raw, places(text), "")
}

// checkPlace reads the one key at p, with the library, and compares.
func checkPlace(t *testing.T, text, name string, p *place) {
	t.Helper()
	s := &scanner{text: text, i: p.offset}
	begin := s.i
	if c := text[s.i]; c == '"' || c == '\'' {
		s.quoted()
	} else {
		for s.i < len(text) && !strings.ContainsRune(" \t\r\n.=]", rune(text[s.i])) {
			s.i++
		}
	}
	var one map[string]any
	if _, err := toml.Decode(text[begin:s.i]+" = 1", &one); err != nil || one[name] == nil {
		t.Fatalf("at offset %d stands %q, want the key %q in\n%s", p.offset, text[begin:s.i], name, text)
	}
	before := text[:p.offset]
	if line := 1 + strings.Count(before, "\n"); p.line != line {
		t.Fatalf("key %q at line %d, want %d in\n%s", name, p.line, line, text)
	}
	if column := 1 + len([]rune(before[strings.LastIndexByte(before, '\n')+1:])); p.column != column {
		t.Fatalf("key %q at column %d, want %d in\n%s", name, p.column, column, text)
	}
}

var placed = []string{
	"",
	"a = 1",
	"# [x]\na = 1 # b = 2\nb = 3",
	"a.b.c = 1\na.b.d = 2\n",
	"\t a . \"b.c\" . 'd' = 1",
	`"\u00e4\t\"x\\" = 1`,
	`"" = 1`,
	"[a]\nb = 1\n[ a . c ]\nd = 1\n[a.e.f]\ng = 1",
	"[a.b]\nc = 1\n[a]\nd = 1\n",
	"[[a]]\nb = 1\n[[a]]\nb = 2\n[a.c]\nd = 1\n[[a.e]]\nf = 1\n[[a.e]]\nf = 2\n",
	"a = '''\nb = 1\n'''\nc = \"\"\"\n[d]\n\\\"\"\"\" \"\"\"\ne = 1",
	`a = """""two quotes at both ends"""""` + "\nb = 1",
	`a = '''''two quotes at both ends'''''` + "\nb = 1",
	`a = ["""x""""", {b = 1}]`,
	"a = ['''x''''', {b = 1}]",
	`a = "" ` + "\n" + `b = ''` + "\nc = 1",
	"a = [1, [2, 3], # ]\n {b = 1, c.d = [{e = 1}]}, ]\nf = 1",
	"a = { b = { c = 1 }, 'd e' = \"}\" }\nf = 1979-05-27 07:32:00\ng = 1.5e+3\n",
	"\"ü\" = 1\n[\"ü\".b]\nc = 1\r\nd = 2\r\n",
	"a = [\"]\", ']', \"\"\"\n]\"\"\"]\nb = 1",
}

func TestEveryKeyHasItsPlace(t *testing.T) {
	for _, text := range placed {
		checkPlaces(t, text)
		if t.Skipped() {
			t.Fatalf("the library refuses\n%s", text)
		}
	}
}

// The scanner is given only what the library accepts, yet must not hang or crash
// on anything, should the two disagree.
func TestPlacesEndsOnAnyText(t *testing.T) {
	for _, text := range placed {
		for i := range text {
			places(text[:i])
			places(text[i:])
		}
	}
}

func FuzzPlaces(f *testing.F) {
	for _, text := range placed {
		f.Add(text)
	}
	f.Add(Example)
	f.Add("0=['',{''=0}]")
	f.Fuzz(func(t *testing.T, text string) {
		places(text)
		if strings.HasPrefix(text, "\ufeff") || strings.ContainsRune(text, 0) {
			t.Skip("Parse takes the mark off first")
		}
		checkPlaces(t, text)
	})
}

func FuzzParse(f *testing.F) {
	for _, text := range placed {
		f.Add(text)
	}
	f.Add(Example)
	f.Add(minimal)
	f.Add(minimal + "[handoff]\nworkers = 'max'\ncanary = [{weight = 5, for = '1s'}]\ndrain_signals = [{signal = 'INT'}, {signal = 'TERM', after = '1s'}]\n")
	f.Add(minimal + "watch = ['a']\n[limits]\nmemory = '5M'\n[restart]\nstop_exit_codes = [1]\n[hooks]\ncrash = ['./x']\n[health.live]\nprobe = 'tcp'\n")
	f.Add(minimal + "[profile.x]\nlisten = [{address = 'unix:///a'}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text, "/a/b.toml", Options{})
		if err == nil {
			again, err := Parse(c.String(), "/a/b.toml", Options{})
			if err != nil || again.String() != c.String() {
				t.Fatalf("%v\nfrom\n%s\nof\n%s", err, c, text)
			}
			return
		}
		lines := 1 + strings.Count(text, "\n")
		var all Errors
		if !errors.As(err, &all) {
			t.Fatalf("%v is no Errors", err)
		}
		for _, e := range all {
			if e.Line < 1 || e.Line > lines || e.Column < 1 || e.Problem == "" || strings.ContainsFunc(e.Error(), unicode.IsControl) {
				t.Fatalf("%#v\nof\n%s", e, text)
			}
		}
	})
}

package tui

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// logged is a screen of web whose log is read from the channel.
func logged(t *testing.T, lines <-chan Line) *screen {
	t.Helper()
	s := newScreen(t.Context(), Options{
		Directory: t.TempDir(),
		Follow:    func(context.Context, string) (<-chan Line, error) { return lines, nil },
	}, look{glyphs: block})
	s.width, s.height, s.selected = 80, 24, "web"
	s.Update(listMsg{names: []string{"web"}})
	s.now = noon
	_, cmd := s.Update(reportMsg{name: "web", report: serving("web", 1), at: noon})
	run(t, s, cmd)
	return s
}

// printed is so many lines from a worker, from number first on.
func printed(first, n int) []Line {
	var all []Line
	for i := range n {
		all = append(all, Line{Time: noon.Add(time.Second), Stream: "out", Generation: 7, Worker: 1, Text: fmt.Sprintf("request %d", first+i)})
	}
	return all
}

// feed gives the screen lines as its reader would.
func feed(s *screen, lines ...Line) {
	s.Update(linesMsg{serial: s.log.serial, lines: lines})
}

func TestTheLogIsReadAsItComes(t *testing.T) {
	lines := make(chan Line, 3000)
	s := logged(t, lines)
	for _, l := range printed(0, 2500) {
		lines <- l
	}
	close(lines)
	cmd := more(s.ctx, s.log.serial, lines)
	for n := 0; cmd != nil; n++ {
		if n > 3 {
			t.Fatal("it reads on after the end")
		}
		_, cmd = s.Update(cmd())
	}
	wantDrawn(t, s, "── log ", "12:00:01 7/1      request 2499")
	if len(s.log.lines) != 2500 {
		t.Errorf("%d lines", len(s.log.lines))
	}
}

func TestAnotherApplicationsLinesAreNotShown(t *testing.T) {
	s := logged(t, nil)
	old := s.log.serial
	s.Update(listMsg{names: []string{"api", "web"}})
	press(s, "g")
	s.Update(linesMsg{serial: old, lines: printed(0, 5)})
	s.Update(followedMsg{serial: old})
	if s.log.open || strings.Contains(drawn(s), "request") {
		t.Errorf("web's lines below api:\n%s", drawn(s))
	}
}

func TestWithoutALogTheChangesStandForIt(t *testing.T) {
	s := display(t, 80, 24, "web")
	s.o.Follow = func(context.Context, string) (<-chan Line, error) { return nil, errors.New("output is inherited") }
	s.now = noon
	_, cmd := s.Update(reportMsg{name: "web", report: serving("web", 1), at: noon})
	run(t, s, cmd)
	wantDrawn(t, s, "── what changed ", "12:00:00 baton    seen: serving, baton is process 20298")
	r := serving("web", 2)
	r.Restarts, r.Verdict = 1, "refused: no such file"
	tell(s, 1, r)
	wantDrawn(t, s, "generation 7: 2 workers instead of 1", "1 worker started in the place of another", "verdict: refused: no such file")
}

func TestTheLogIsHeldWhileItIsLookedAt(t *testing.T) {
	s := logged(t, nil)
	feed(s, printed(0, 100)...)
	press(s, "tab tab k k k")
	wantDrawn(t, s, "request 96", "3 lines below")
	feed(s, printed(100, 50)...)
	wantDrawn(t, s, "request 96", "53 lines below")
	if strings.Contains(drawn(s), "request 97") {
		t.Errorf("it moved:\n%s", drawn(s))
	}
	press(s, "G")
	wantDrawn(t, s, "request 149")
	press(s, "g pgup")
	wantDrawn(t, s, "request 0")
	press(s, "pgdown esc")
	wantDrawn(t, s, "request 149")
}

func TestOldLinesAreForgotten(t *testing.T) {
	s := logged(t, nil)
	for i := range 20 {
		feed(s, printed(i*1000, 1000)...)
	}
	if n := len(s.log.lines); n < keptLines || n > keptLines*11/10+1000 {
		t.Errorf("%d lines are kept", n)
	}
	wantDrawn(t, s, "request 19999")
	feed(s, Line{Stream: "out", Text: strings.Repeat("x", 1<<20)})
	if n := len(s.log.lines[len(s.log.lines)-1].Text); n > keptBytes {
		t.Errorf("%d bytes of a long line are kept", n)
	}
}

func TestSearchGoesToOlderAndNewerOnes(t *testing.T) {
	s := logged(t, nil)
	feed(s, printed(0, 100)...)
	press(s, "/ r q u")
	wantDrawn(t, s, "/rqu")
	press(s, "backspace backspace backspace T enter") // a capital: none is found
	press(s, "n")
	wantDrawn(t, s, "not found: T")
	press(s, "esc / T backspace t 1 backspace backspace 1 1 enter") // "t" and "1" are keys as well
	wantDrawn(t, s, "request 11", "/11  n older  N newer")
	press(s, "n")
	wantDrawn(t, s, "no more of: 11")
	press(s, "esc / 9 enter n n n")
	if want := "request 96"; s.shown()[s.log.found].Text != want {
		t.Errorf("found %q, want %q", s.shown()[s.log.found].Text, want)
	}
	press(s, "N")
	if want := "request 97"; s.shown()[s.log.found].Text != want {
		t.Errorf("back at %q, want %q", s.shown()[s.log.found].Text, want)
	}
	feed(s, printed(100, 40)...)
	wantDrawn(t, s, "request 97", "40 lines below")
	press(s, "esc")
	wantDrawn(t, s, "request 139")
	if got := drawn(s); strings.Contains(got, "n older") {
		t.Errorf("esc did not end it:\n%s", got)
	}
}

// What a worker prints reaches the terminal as text, whatever it is.
func TestALineCannotDriveTheTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"\x1b[31mred\x1b[0m":             "red",
		"\x1b]0;title\a\x1b[2Jgone":      "gone",
		"a\rb\x07c\x9bd":                 "a?b?c",
		"bad \xff utf":                   "bad ? utf",
		"tab\there":                      "tab here",
		"turned \u202e round":            "turned ? round",
		"wide 世界 and e\u0301 and \u00df": "wide 世界 and e\u0301 and \u00df",
	} {
		got := clean(text)
		if !strings.HasPrefix(got, want) || strings.ContainsAny(got, "\x1b\r\n\a") {
			t.Errorf("clean(%q) = %q, want %q", text, got, want)
		}
	}
	s := logged(t, nil)
	feed(s, Line{Time: noon, Stream: "err", Generation: 1, Text: strings.Repeat("世", 40) + "the rest"})
	wantDrawn(t, s, "1/0 err")
	press(s, "tab tab right right")
	wantDrawn(t, s, "世the rest")
}

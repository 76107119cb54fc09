package cli

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"baton/internal/logs"
)

func TestSinceTakesWhatPeopleWrite(t *testing.T) {
	zone := time.FixedZone("X", 2*60*60)
	now := time.Date(2026, 11, 29, 14, 30, 0, 0, zone)
	for given, want := range map[string]time.Time{
		"10m":                  now.Add(-10 * time.Minute),
		"2h30m":                now.Add(-150 * time.Minute),
		"0s":                   now,
		"14:00":                time.Date(2026, 11, 29, 14, 0, 0, 0, zone),
		"15:00":                time.Date(2026, 11, 28, 15, 0, 0, 0, zone), // today's is to come
		"14:29:59":             time.Date(2026, 11, 29, 14, 29, 59, 0, zone),
		"2026-11-01":           time.Date(2026, 11, 1, 0, 0, 0, 0, zone),
		"2026-11-01 12:13":     time.Date(2026, 11, 1, 12, 13, 0, 0, zone),
		"2026-11-01 12:13:14":  time.Date(2026, 11, 1, 12, 13, 14, 0, zone),
		"2026-11-01T12:13:14":  time.Date(2026, 11, 1, 12, 13, 14, 0, zone),
		"2026-11-01T12:13:14Z": time.Date(2026, 11, 1, 12, 13, 14, 0, time.UTC),
	} {
		if got, err := since(given, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v; want %v", given, got, err, want)
		}
	}
	for _, given := range []string{"", "10", "-5m", "noon", "2026-13-01", "25:00"} {
		if got, err := since(given, now); err == nil {
			t.Errorf("%q is taken for %v", given, got)
		}
	}
}

// shown prints records the way that change makes a page.
func shownAs(t *testing.T, change func(*page), all ...*logs.Record) string {
	t.Helper()
	var b bytes.Buffer
	p := &page{out: bufio.NewWriter(&b), day: time.Now().Format(time.DateOnly), going: map[speaker]bool{}}
	change(p)
	for _, r := range all {
		if err := p.show(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.out.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func record(stream, text string) *logs.Record {
	return &logs.Record{App: "web", Stamp: []byte("2001-02-03T04:05:06.789012345Z"), Stream: stream, Generation: 3, Worker: 0, PID: 9, Text: []byte(text)}
}

func TestALinesPartsAreShownAsOne(t *testing.T) {
	half, rest, other, end := record(logs.Stdout, "half"), record(logs.Stdout, " rest"), record(logs.Stderr, "other"), record(logs.Stdout, "")
	half.More = true
	at := time.Date(2001, 2, 3, 4, 5, 6, 789_000_000, time.UTC).Local().Format("2006-01-02 15:04:05.000")
	got := shownAs(t, func(*page) {}, half, other, rest, half, end, record(logs.Stdout, "next"))
	want := strings.ReplaceAll("@ web/3.0 out | half\n@ web/3.0 err | other\n@ web/3.0 out +  rest\n@ web/3.0 out | half\n@ web/3.0 out | next\n", "@", at)
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestTheDayIsShownWhenItIsNotToday(t *testing.T) {
	r := record(logs.Stdout, "x")
	if got := shownAs(t, func(*page) {}, r); !strings.HasPrefix(got, "2001-02-0") {
		t.Error(got)
	}
	now := time.Now()
	r.Stamp = now.UTC().AppendFormat(nil, time.RFC3339Nano)
	if got := shownAs(t, func(*page) {}, r); !strings.HasPrefix(got, now.Format("15:04:05.000")+" web/3.0 ") {
		t.Error(got)
	}
}

// A worker colours its own words on a terminal, and does nothing else there.
func TestATerminalIsNotForTheWorkerToMove(t *testing.T) {
	r := record(logs.Stdout, "a\x1b[31mred\x1b[0m\x1b[2Jb\x1b]0;title\x07\x9b\tc\xff\r")
	text := func(change func(*page)) string {
		_, got, _ := strings.Cut(shownAs(t, change, r), " | ")
		return got
	}
	terminal := func(colour bool) func(*page) {
		return func(p *page) { p.terminal, p.colour = true, colour }
	}
	if got := text(terminal(true)); got != "a\x1b[31mred\x1b[0m?[2Jb?]0;title?\uFFFD\tc\uFFFD\x1b[0m\n" {
		t.Errorf("%q", got)
	}
	if got := text(terminal(false)); got != "ared?[2Jb?]0;title?\uFFFD\tc\uFFFD\n" {
		t.Errorf("without colours: %q", got)
	}
	if got := text(func(*page) {}); got != string(r.Text)+"\n" {
		t.Errorf("in a file: %q", got)
	}
	if got := shownAs(t, terminal(true), record(logs.Stderr, "x")); !strings.Contains(got, "\x1b[31merr\x1b[0m | x") {
		t.Errorf("%q", got)
	}
	if got := shownAs(t, terminal(false), record(logs.Stderr, "x")); strings.Contains(got, "\x1b") {
		t.Errorf("%q", got)
	}
}

package health

import (
	"slices"
	"strings"
	"testing"
)

func TestStatusesAreNumbersAndRanges(t *testing.T) {
	for s, want := range map[string][]Range{
		"200":                {{200, 200}},
		"200-399":            {{200, 399}},
		"200,204":            {{200, 200}, {204, 204}},
		" 200 , 300 - 399 ":  {{200, 200}, {300, 399}},
		"100-599,418-418":    {{100, 599}, {418, 418}},
		"":                   nil,
		"20":                 nil,
		"0200":               nil,
		"+200":               nil,
		"99":                 nil,
		"600":                nil,
		"399-200":            nil,
		"200-":               nil,
		"-200":               nil,
		"200-299-399":        nil,
		"200;204":            nil,
		"200,":               nil,
		"2xx":                nil,
		"99999999999999-200": nil,
	} {
		got, err := ParseStatus(s)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	_, err := ParseStatus("200,2xx")
	if want := `status "200,2xx": "2xx" is neither a number from 100 to 599 nor a range of them`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// What was read reads the same when it is written again, and holds only statuses.
func FuzzParseStatus(f *testing.F) {
	for _, s := range []string{"200-399", "200,204", " 1 - 9,", "-", "599-100", "२००"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ranges, err := ParseStatus(s)
		if err != nil {
			if len(ranges) > 0 {
				t.Errorf("%q: %v and %v", s, ranges, err)
			}
			return
		}
		if len(ranges) != 1+strings.Count(s, ",") {
			t.Errorf("%q: %v", s, ranges)
		}
		var words []string
		for _, r := range ranges {
			if r.Min < 100 || r.Max > 599 || r.Min > r.Max {
				t.Errorf("%q: %v", s, r)
			}
			words = append(words, r.String())
		}
		again, err := ParseStatus(strings.Join(words, ","))
		if err != nil || !slices.Equal(again, ranges) {
			t.Errorf("%q: %v, then %v: %v", s, ranges, again, err)
		}
	})
}

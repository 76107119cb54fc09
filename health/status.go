package health

import (
	"fmt"
	"strconv"
	"strings"
)

// Range is the statuses from Min to Max, both included.
type Range struct{ Min, Max int }

// String is the range as ParseStatus reads it.
func (r Range) String() string {
	if r.Min == r.Max {
		return strconv.Itoa(r.Min)
	}
	return fmt.Sprintf("%d-%d", r.Min, r.Max)
}

// usual is what passes where nothing else was said.
var usual = []Range{{200, 399}}

// ParseStatus reads which statuses pass: numbers from 100 to 599 and ranges of
// them, separated by commas, as in "200-399" and "200,204".
func ParseStatus(s string) ([]Range, error) {
	var all []Range
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		from, ok := status(low)
		to, ok2 := status(high)
		if !ok || !ok2 {
			return nil, fmt.Errorf("status %q: %q is neither a number from 100 to 599 nor a range of them", s, part)
		}
		if from > to {
			return nil, fmt.Errorf("status %q: %d is above %d", s, from, to)
		}
		all = append(all, Range{from, to})
	}
	return all, nil
}

func status(s string) (n int, ok bool) {
	s = strings.Trim(s, " ")
	if len(s) != 3 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, n >= 100 && n <= 599
}

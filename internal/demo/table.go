package demo

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"baton/internal/load"
)

// Table prints the report for people, within 80 columns.
func (r *Report) Table(w io.Writer) error {
	t := table{}
	steered := "kernel steering"
	if r.Steered.Mode != "steered" {
		steered = "no steering here"
	}
	t.row("", "one shared socket", steered)
	t.pair("requests", r, func(x Round) string { return thousands(x.Requests) })
	t.pair("requests per second", r, func(x Round) string { return thousands(int(float64(x.Requests) / x.Seconds)) })
	t.pair("swaps", r, func(x Round) string { return thousands(x.Swaps) })
	t.pair("generations that answered", r, func(x Round) string { return thousands(x.Generations) })
	t.pair("lost", r, func(x Round) string { return thousands(x.Lost) })
	for _, reason := range reasons(r) {
		t.pair("  "+string(reason), r, func(x Round) string { return thousands(x.Reasons[reason]) })
	}
	for _, part := range []struct {
		name string
		of   func(Round) Latency
	}{
		{"latency, steady", func(x Round) Latency { return x.Steady }},
		{"latency, during swaps", func(x Round) Latency { return x.During }},
	} {
		line := func(name, figure string, of func(Latency) time.Duration) {
			t.pair(fmt.Sprintf("%-23s%s", name, figure), r, func(x Round) string { return millis(of(part.of(x))) })
		}
		line(part.name, "p50", func(l Latency) time.Duration { return l.P50 })
		line("", "p99", func(l Latency) time.Duration { return l.P99 })
		line("", "max", func(l Latency) time.Duration { return l.Max })
	}
	_, err := io.WriteString(w, t.String())
	return err
}

type table struct{ strings.Builder }

func (t *table) row(name, a, b string) { fmt.Fprintf(t, "%-28s%20s%20s\n", name, a, b) }

func (t *table) pair(name string, r *Report, value func(Round) string) {
	t.row(name, value(r.Shared), value(r.Steered))
}

// reasons are all classes of loss of both rounds.
func reasons(r *Report) []load.Reason {
	all := maps.Clone(r.Shared.Reasons)
	if all == nil {
		all = map[load.Reason]int{}
	}
	maps.Copy(all, r.Steered.Reasons)
	return slices.Sorted(maps.Keys(all))
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 2, 64) + " ms"
}

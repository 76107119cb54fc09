package main

import (
	"strings"
	"testing"
)

func TestQuantilesOfFewSamples(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		q, want float64
	}{
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4}, 0, 1},
		{[]float64{1, 2, 3, 4}, 1, 4},
		{[]float64{1, 2, 3, 4}, 0.95, 4},
		{append(make([]float64, 19), 1), 0.95, 0},
		{[]float64{7}, 0.95, 7},
	} {
		if got := quantile(c.samples, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.samples, c.q, got, c.want)
		}
	}
}

func TestReportSaysWhatWasMissed(t *testing.T) {
	var r report
	r.add("p", "under", "ratio", []float64{0.98}, ">= 0.99")
	r.add("p", "over", "ratio", []float64{1.2}, "<= 1.25")
	r.add("p", "free", "ms", []float64{5}, "")
	for i, want := range []string{"MISSED", "met", ""} {
		got := ""
		if met := r.Rows[i].Met; met != nil {
			got = map[bool]string{true: "met", false: "MISSED"}[*met]
		}
		if got != want {
			t.Errorf("%s: %q, want %q", r.Rows[i].Name, got, want)
		}
	}
	var b strings.Builder
	r.print(&b)
	if !strings.Contains(b.String(), "MISSED") {
		t.Errorf("the table does not say so:\n%s", b.String())
	}
}

func TestEverySecondPairBeginsWithTheOther(t *testing.T) {
	var order []string
	half := func(name string, x float64) func() (float64, error) {
		return func() (float64, error) { order = append(order, name); return x, nil }
	}
	for i := range 2 {
		x, y, err := inTurn(i, half("a", 1), half("b", 2))
		if err != nil || x != 1 || y != 2 {
			t.Errorf("pair %d: %v, %v, %v", i, x, y, err)
		}
	}
	if got := strings.Join(order, ""); got != "abba" {
		t.Errorf("order %s, want abba", got)
	}
}

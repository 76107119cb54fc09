package load_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"baton/internal/load"
)

func TestQuantilesAreWithinTwoPercentOfTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 300).Draw(t, "durations")
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		var h, other load.Histogram
		for i, d := range all {
			if i < cut {
				h.Record(time.Duration(d))
			} else {
				other.Record(time.Duration(d))
			}
		}
		h.Add(&other)
		slices.Sort(all)
		for _, q := range []float64{0, 0.5, 0.99, 0.999, 1} {
			exact := all[max(int(math.Ceil(q*float64(len(all))))-1, 0)]
			got := int64(h.Quantile(q))
			if got < exact || float64(got-exact) > 0.016*float64(exact)+1 {
				t.Fatalf("quantile %v is %d, exactly %d", q, got, exact)
			}
		}
		if h.Count() != len(all) || int64(h.Max()) != all[len(all)-1] {
			t.Fatalf("%d durations, the longest %d: got %d and %v", len(all), all[len(all)-1], h.Count(), h.Max())
		}
	})
}

func TestAnEmptyHistogramIsZero(t *testing.T) {
	var h load.Histogram
	if h.Quantile(0.5) != 0 || h.Max() != 0 || h.Mean() != 0 || h.Count() != 0 {
		t.Error("not zero")
	}
}

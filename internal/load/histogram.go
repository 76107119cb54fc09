package load

import (
	"math"
	"math/bits"
	"time"
)

// subBuckets is how many equal buckets split each power of two, so that a
// quantile is at most 1/subBuckets (1.6 %) above the truth.
const (
	subBits    = 6
	subBuckets = 1 << subBits
)

// Histogram counts durations in buckets that grow with the duration, like
// HdrHistogram: constant space, and a bounded relative error. The zero value
// is empty. It is not safe for concurrent use.
type Histogram struct {
	counts []uint64
	n      uint64
	sum    time.Duration
	max    time.Duration
}

// bucket maps nanoseconds to an index: below 2*subBuckets exactly, and above
// by the leading subBits+1 bits and the exponent.
func bucket(ns uint64) int {
	shift := max(bits.Len64(ns)-subBits-1, 0)
	return shift<<subBits + int(ns>>shift)
}

// upper is the largest number of nanoseconds in bucket i.
func upper(i int) uint64 {
	shift := max(i>>subBits-1, 0)
	return uint64(i-shift<<subBits+1)<<shift - 1
}

// Record counts one duration; a negative one counts as zero.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	i := bucket(uint64(d))
	for len(h.counts) <= i {
		h.counts = append(h.counts, 0)
	}
	h.counts[i]++
	h.n++
	h.sum += d
	h.max = max(h.max, d)
}

// Add counts all that other holds.
func (h *Histogram) Add(other *Histogram) {
	for len(h.counts) < len(other.counts) {
		h.counts = append(h.counts, 0)
	}
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.n += other.n
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// Count is how many durations were recorded.
func (h Histogram) Count() int { return int(h.n) }

// Max is the longest duration, exactly.
func (h Histogram) Max() time.Duration { return h.max }

// Mean is the arithmetic mean, exactly; 0 of none.
func (h Histogram) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return h.sum / time.Duration(h.n)
}

// Quantile is the duration that the share q (0 to 1) of all does not exceed,
// at most 1.6 % too long and never beyond Max; 0 of none.
func (h Histogram) Quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.n)))
	var seen uint64
	for i, n := range h.counts {
		seen += n
		if n > 0 && seen >= rank {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

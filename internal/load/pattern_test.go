package load_test

import (
	"bytes"
	"testing"

	"baton/internal/load"
)

func TestPatternIsOneSequenceWhereverItIsCut(t *testing.T) {
	whole := load.Pattern(0, 200_000)
	for _, at := range []int{0, 1, 4096, 65_520, 65_521, 131_042, 150_000} {
		if !bytes.Equal(load.Pattern(at, 50_000), whole[at:at+50_000]) {
			t.Errorf("another sequence from %d on", at)
		}
	}
}

package brief

import (
	"testing"
	"time"
)

func TestAgeInTwoUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59900 * time.Millisecond: "59s", time.Minute: "1m00s", time.Hour - 1: "59m59s",
		time.Hour: "1h00m", 24*time.Hour - 1: "23h59m", 24 * time.Hour: "1d00h", 1000 * time.Hour: "41d16h",
	} {
		if got := Age(d); got != want || len(got) > 6 {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

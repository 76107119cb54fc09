// Package brief puts amounts into a few characters, so that the commands and the live
// screen write the same amount in the same way. What it returns is for people, of a
// width that a column can be made for, and never read by a program. It imports nothing
// of ours and knows nothing of what the amounts are of.
package brief

import (
	"fmt"
	"time"
)

// Age is a duration in its two greatest units, in at most six characters up to 99 days:
// 59s, 1m00s, 23h59m, 41d16h. Less than nothing is 0s.
func Age(d time.Duration) string {
	s := int(max(0, d).Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 60*60:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*60*60:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

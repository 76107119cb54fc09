package process

import (
	"cmp"
	"slices"
	"strings"
)

// Changes names the variables by which one environment differs from another: +NAME is
// new, -NAME is gone, ~NAME has another value. The values are nobody's to read.
func Changes(before, after []string) []string {
	was, is := newEnvironment(before), newEnvironment(after)
	var names []string
	for k := range is.at {
		now, _ := is.get(k)
		switch old, there := was.get(k); {
		case !there:
			names = append(names, "+"+k)
		case old != now:
			names = append(names, "~"+k)
		}
	}
	for k := range was.at {
		if _, there := is.at[k]; !there {
			names = append(names, "-"+k)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(strings.Compare(a[1:], b[1:]), strings.Compare(a, b)) })
	return names
}

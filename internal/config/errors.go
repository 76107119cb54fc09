package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing wrong with a configuration, at its place.
type Error struct {
	// File is the path as it was given, or the flag ("--ready") for a value that
	// came from the command line; then Line and Column are 0.
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`   // from 1
	Column  int    `json:"column,omitempty"` // from 1, in characters
	Key     string `json:"key,omitempty"`    // as written, "listen[1].address"
	Problem string `json:"problem"`
	Hint    string `json:"hint,omitempty"` // what to do
}

// Error gives file:line:column, the key, what is wrong, and what to do.
func (e Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
			if e.Column > 0 {
				fmt.Fprintf(&b, ":%d", e.Column)
			}
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Problem)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Errors is everything that is wrong, sorted by line. Parse and Load return no
// other kind of error.
type Errors []Error

// Error gives one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single errors to errors.Is and errors.As.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// tidy sorts by place and drops repetitions: what is wrong with the base is
// found again under each profile.
func (e Errors) tidy() Errors {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.File, b.File), cmp.Compare(a.Key, b.Key))
	})
	seen := make(map[Error]bool, len(e))
	return slices.DeleteFunc(e, func(one Error) bool {
		again := seen[one]
		seen[one] = true
		return again
	})
}

// Nearest returns the candidate that a typing error would most likely have meant,
// or "" when none is near.
func Nearest(word string, candidates []string) string {
	best, least := "", 1+max(1, min(3, len(word)/3))
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), c); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of letters to insert, remove, change or swap with a
// neighbour (optimal string alignment) that turns a into b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	if n := len(x) - len(y); n > 3 || n < -3 {
		return 4 // further than Nearest accepts; spares the table for long input
	}
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			change := 1
			if x[i-1] == y[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}

package tui

import (
	"strconv"
	"strings"
	"time"

	"baton/internal/brief"
)

// column of a table. Its cells are cut or filled up to its width.
type column struct {
	head  string
	width int
	right bool // what is compared stands at the right
}

// cell of a table.
type cell struct {
	text string
	tone tone
}

func cells(texts ...string) []cell {
	c := make([]cell, len(texts))
	for i, t := range texts {
		c[i].text = t
	}
	return c
}

// row draws the cells in their columns, behind a margin of two. A row that is marked
// has no other tone.
func (l look) row(columns []column, row []cell, width int, pointed, mark bool) string {
	margin := "  "
	if pointed {
		margin = l.pointer + " "
	}
	var b strings.Builder
	b.WriteString(margin)
	for i, c := range columns {
		if i > 0 {
			b.WriteByte(' ')
		}
		text := l.cut(row[i].text, c.width)
		pad := strings.Repeat(" ", c.width-textWidth(text))
		if !mark {
			text = l.paint(row[i].tone, text)
		}
		if c.right {
			text = pad + text
		} else {
			text += pad
		}
		b.WriteString(text)
	}
	line := l.fit(b.String(), width)
	if mark {
		return l.paint(marked, line)
	}
	return line
}

func (l look) heads(columns []column, width int) string {
	row := make([]cell, len(columns))
	for i, c := range columns {
		row[i].text = c.head
	}
	return l.paint(faint, l.row(columns, row, width, false, false))
}

// widthOf a table, its margin included.
func widthOf(columns []column) int {
	w := 2 + len(columns) - 1
	for _, c := range columns {
		w += c.width
	}
	return w
}

// window is which of n rows are shown where there is room for some: the one at must
// be among them.
func window(n, room, from, at int) (first, last int) {
	from = min(from, at)
	from = max(from, at-room+1)
	from = max(0, min(from, n-room))
	return from, min(n, from+room)
}

// since is the age of something that began then, "-" where that is not known.
func since(then, now time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return brief.Age(now.Sub(then))
}

// size is an amount of memory in three digits.
func size(bytes uint64) string {
	if bytes == 0 {
		return "-"
	}
	v, unit := float64(bytes)/1024, 0
	for v >= 999.5 && unit < 3 {
		v, unit = v/1024, unit+1
	}
	if v < 99.95 {
		return strconv.FormatFloat(v, 'f', 1, 64) + "KMGT"[unit:unit+1]
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + "KMGT"[unit:unit+1]
}

// percent of one CPU; less than nothing was not known.
func percent(v float64) string {
	if v < 0 {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}

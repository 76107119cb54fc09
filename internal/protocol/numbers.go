package protocol

import (
	"fmt"
	"slices"
	"strings"
)

// standard is how many descriptors every process has: input, output, error.
const standard = 3

// firstSocket is the number of a worker's first socket. tableflip's two pipes come
// before it.
func (c *Choice) firstSocket() int {
	if c.speaks(KindTableflip) {
		return standard + 2
	}
	return standard
}

// Numbers are the descriptors of a worker's sockets, by the listeners' names.
// Their order is the only thing about sockets that counts. The error says why
// ready_fd cannot be what it is, and which numbers are free.
func (c *Choice) Numbers(sockets []Socket) (map[string]int, error) {
	if err := c.room(sockets); err != nil {
		return nil, err
	}
	numbers := make(map[string]int, len(sockets))
	for i, s := range sockets {
		numbers[s.Name] = c.firstSocket() + i
	}
	return numbers, nil
}

// room says whether ready_fd is a number that can be had.
func (c *Choice) room(sockets []Socket) error {
	n := c.Settings.ReadyFD
	if !c.speaks(KindS6) {
		return nil
	}
	first := c.firstSocket()
	free := first + len(sockets)
	if c.speaks(KindTableflip) {
		free += len(tableflipNames(sockets)) - len(sockets)
	}
	var taken string
	switch {
	case n >= free:
		return nil
	case n < 0:
		return fmt.Errorf("ready_fd %d: not a descriptor; %d and above are free", n, free)
	case n < standard:
		taken = "standard input, output or error"
	case n < first:
		taken = "one of tableflip's pipes"
	case n < first+len(sockets):
		taken = fmt.Sprintf("the socket of listener %q", sockets[n-first].Name)
	default:
		taken = "a socket under another of its names, for tableflip"
	}
	return fmt.Errorf("ready_fd %d: that is %s; %d and above are free", n, taken, free)
}

// instead suggests what was meant, or lists what there is.
func instead(word string, names []string) string {
	best, at := len(word)/2+1, -1
	for i, n := range names {
		if d := distance(strings.ToLower(word), strings.ToLower(n)); d < best {
			best, at = d, i
		}
	}
	switch {
	case at >= 0:
		return fmt.Sprintf("; did you mean %q?", names[at])
	case len(names) == 0:
		return ", and no other"
	}
	return "; there are: " + strings.Join(names, ", ")
}

// distance is how many letters have to be changed, put in or left out to make a
// of b (after Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			row[j+1] = min(last[j+1], row[j]) + 1
			if cost := last[j]; a[i] == b[j] {
				row[j+1] = min(row[j+1], cost)
			} else {
				row[j+1] = min(row[j+1], cost+1)
			}
		}
	}
	return row[len(b)]
}

package cli

import (
	"fmt"
	"os"
	"time"

	"baton/internal/event"
)

// progress shows what is under way while somebody waits: on a terminal in one line that
// changes, elsewhere as lines, once it takes long enough for somebody to wonder.
type progress struct {
	out      *os.File
	terminal bool
	begin    time.Time
	last     string
	line     bool // something stands on the terminal's line
}

// wonder is when somebody who does not look at a terminal is told that it takes long.
const wonder = 2 * time.Second

func (p *program) progress() *progress {
	return &progress{out: p.stderr, terminal: isTerminal(p.stderr) && os.Getenv("TERM") != "dumb", begin: time.Now()}
}

// say shows what is under way now. It may be called again and again with the same.
func (s *progress) say(text string) {
	text = printable(text)
	switch {
	case s.terminal:
		if text != s.last {
			fmt.Fprintf(s.out, "\r\x1b[K%s", cut(text, helpWidth-1)) // erased to the line's end, so that nothing of the last one stays
			s.line = true
		}
	case time.Since(s.begin) < wonder:
		return
	case text != s.last:
		fmt.Fprintln(s.out, text)
	}
	s.last = text
}

// done takes the line away: the result follows.
func (s *progress) done() {
	if s.line {
		fmt.Fprint(s.out, "\r\x1b[K")
	}
	s.line, s.last = false, ""
}

// underway is what an application is at, in one line.
func underway(name string, r *event.Report) string {
	text := name + ": " + phase(r)
	if r.State != event.StateStopping {
		for _, g := range r.Generations {
			switch g.Phase {
			case "preparing", "starting":
				text += fmt.Sprintf(", generation %d: %d/%d ready", g.Number, g.Ready(), g.Wanted)
			case "canary":
				text += fmt.Sprintf(", generation %d", g.Number)
				if c := g.Canary; c != nil && c.Weight > 0 {
					text += fmt.Sprintf(" gets %d %%", c.Weight)
				}
				if c := g.Canary; c != nil && c.Paused {
					text += " until baton promote"
				}
			}
		}
	}
	workers, connections, known := 0, 0, false
	for _, g := range r.Generations {
		if g.Phase != "draining" && r.State != event.StateStopping {
			continue
		}
		for _, w := range g.Workers {
			workers++
			if w.Connections != nil {
				connections, known = connections+*w.Connections, true
			}
		}
	}
	if workers > 0 {
		text += fmt.Sprintf(", %s draining", count(workers, "worker"))
		if known {
			text += ", " + count(connections, "connection") + " left"
		}
	}
	return text
}

// count is a number and what it is of.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

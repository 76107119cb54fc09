package cli

import (
	"bufio"
	"bytes"
	"hash/fnv"
	"strconv"
	"time"

	"baton/internal/logs"
)

// page prints records.
type page struct {
	out      *bufio.Writer
	json     bool
	terminal bool
	colour   bool
	day      string           // today
	going    map[speaker]bool // whose last record was no whole line
	buf      []byte
}

// speaker is one stream of one process.
type speaker struct {
	app, stream string
	pid         int
}

func (p *page) show(r *logs.Record) error {
	if p.json {
		return p.showJSON(r)
	}
	who := speaker{r.App, r.Stream, r.PID}
	goesOn := p.going[who]
	if r.More {
		p.going[who] = true
	} else if goesOn {
		delete(p.going, who)
	}
	if goesOn && !r.More && len(r.Text) == 0 {
		return nil // the newline alone had not come
	}
	b := p.buf[:0]
	b = p.paint(b, faint, p.when(r.Time()))
	b = append(b, ' ')
	name := printable(r.App)
	if r.Generation > 0 && r.Stream != logs.Baton {
		name += "/" + strconv.Itoa(r.Generation)
		if r.Worker >= 0 {
			name += "." + strconv.Itoa(r.Worker)
		}
	}
	b = p.paint(b, appColour(r.App), name)
	b = append(b, ' ')
	b = p.paint(b, streamColour(r), r.Stream)
	if goesOn {
		b = append(b, " + "...)
	} else {
		b = append(b, " | "...)
	}
	b = p.text(b, r.Text)
	p.buf = append(b, '\n')
	_, err := p.out.Write(p.buf)
	return err
}

// showJSON adds the application's name, which in the file is that of its folder.
func (p *page) showJSON(r *logs.Record) error {
	b := strconv.AppendQuote(append(p.buf[:0], `{"app":`...), r.App) // names are plain
	b = append(b, ',')
	p.buf = append(append(b, r.JSON[1:]...), '\n')
	_, err := p.out.Write(p.buf)
	return err
}

func (p *page) when(t time.Time) string {
	t = t.Local()
	if t.Format(time.DateOnly) != p.day {
		// It may be past midnight by now.
		if p.day = time.Now().Format(time.DateOnly); t.Format(time.DateOnly) != p.day {
			return t.Format("2006-01-02 15:04:05.000")
		}
	}
	return t.Format("15:04:05.000")
}

const (
	faint  = "2"
	red    = "31"
	yellow = "33"
	cyan   = "36"
)

func (p *page) paint(b []byte, colour, text string) []byte {
	if !p.colour || colour == "" {
		return append(b, text...)
	}
	b = append(append(append(b, "\x1b["...), colour...), 'm')
	return append(append(b, text...), "\x1b[0m"...)
}

// appColour tells applications apart; red and yellow mean something else.
func appColour(app string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(app)) // never fails
	return []string{"32", "34", "35", cyan, "92", "94", "95", "96"}[h.Sum32()%8]
}

func streamColour(r *logs.Record) string {
	switch {
	case r.Stream == logs.Stderr || r.Level == "error":
		return red
	case r.Level == "warn":
		return yellow
	case r.Stream == logs.Baton:
		return cyan
	}
	return ""
}

// text is what was written. On a terminal nothing but colours reaches it that could tell
// it what to do; elsewhere it is as it was.
func (p *page) text(b, text []byte) []byte {
	if !p.terminal {
		return append(b, text...)
	}
	text = bytes.TrimSuffix(text, []byte{'\r'})
	painted := false
	for {
		at := bytes.Index(text, []byte("\x1b["))
		if at < 0 {
			break
		}
		end := at + 2
		for end < len(text) && (text[end] >= '0' && text[end] <= '9' || text[end] == ';') {
			end++
		}
		if end == len(text) || text[end] != 'm' {
			b = append(b, printable(string(text[:at+2]))...)
			text = text[at+2:]
			continue
		}
		b = append(b, printable(string(text[:at]))...)
		if p.colour {
			b = append(b, text[at:end+1]...)
			painted = true
		}
		text = text[end+1:]
	}
	b = append(b, printable(string(text))...)
	if painted {
		b = append(b, "\x1b[0m"...)
	}
	return b
}

package cli

import (
	"encoding/json"
	"os"
	"sync"
	"time"

	"baton/internal/config"
	"baton/internal/event"
	"baton/internal/process"

	"github.com/urfave/cli/v2"
)

// background is the flag by which start has run tell it, on descriptor 3, how the start
// goes: what the launcher does until it serves, or why it does not.
const background = "background"

const toldFD = 3

// news is one line that is told.
type news struct {
	Begun *begun       `json:"begun,omitempty"`
	Event *event.Event `json:"event,omitempty"`
	Ended *ended       `json:"ended,omitempty"`
}

// begun: the configuration was read.
type begun struct {
	Name string `json:"name"`
	// Patience is how long it may be quiet.
	Patience time.Duration `json:"patience"`
}

// ended: the launcher ends without ever having served.
type ended struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

// told is the launcher's end of the pipe. It never waits for who reads, but at the end
// for a moment. A nil one tells nobody.
type told struct {
	lines chan news
	done  chan struct{} // closed when all is written, or nobody reads

	mu   sync.Mutex
	over bool
}

// toldFewest is more than a start has to tell; what is beyond is left out.
const toldFewest = 1024

func toldOf(c *cli.Context) *told {
	if !c.Bool(background) {
		return nil
	}
	pipe := process.Inherited(toldFD)
	if pipe == nil {
		return nil
	}
	t := &told{lines: make(chan news, toldFewest), done: make(chan struct{})}
	go t.write(pipe) // ends when it is over, with the reader, or with the process
	return t
}

func (t *told) write(pipe *os.File) {
	defer close(t.done)
	defer pipe.Close() // its end is what the reader waits for
	out := json.NewEncoder(pipe)
	for line := range t.lines {
		if out.Encode(line) != nil {
			return // nobody reads any more, which is his to decide
		}
	}
}

func (t *told) tell(line news, last bool) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	select {
	case t.lines <- line:
	default: // he does not read
	}
	if last {
		t.over = true
		close(t.lines)
	}
}

func (t *told) begun(c *config.Config) {
	h := c.Handoff
	t.tell(news{Begun: &begun{Name: c.Name, Patience: max(h.ReadyTimeout, h.DrainTimeout) + startMargin}}, false)
}

// startMargin is what a start may take beyond the time its workers have to become ready.
const startMargin = 10 * time.Second

func (t *told) observe(e event.Event) {
	t.tell(news{Event: &e}, e.Serves())
}

// ended tells why it does not serve, if it never has.
func (t *told) ended(err error) {
	if t == nil {
		return
	}
	code, text, hint := explain(err)
	t.tell(news{Ended: &ended{Code: code, Text: text, Hint: hint}}, true)
	select {
	case <-t.done:
	case <-time.After(lastWordTime):
	}
}

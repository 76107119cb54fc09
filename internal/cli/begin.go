package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"baton/internal/apps"
	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/process"
)

// begin starts an application in the background and waits for what comes of it. before
// is what was known of it, which stays known when it does not come to serve.
func (p *program) begin(ctx context.Context, r apps.Registry, a, before apps.App) outcome {
	switch pid, runs, err := answers(ctx, a.Name); {
	case err != nil:
		return failure(a.Name, err)
	case runs:
		taken := &control.TakenError{Name: a.Name, PID: pid}
		o := failure(a.Name, &exit{code: Busy, err: taken, hint: "baton reload " + a.Name + " swaps it, baton restart " + a.Name + " starts it anew"})
		o.Outcome, o.PID = outcomeRuns, pid
		return o
	}
	// Before it runs: whoever ends this command leaves what is known behind.
	a.Started = time.Now()
	if err := r.Put(a); err != nil {
		if !startsAs(a, before) {
			return failure(a.Name, err)
		}
		// A full disk must not keep down what is known already just as it is.
		fmt.Fprintln(p.stderr, printable(a.Name+": its start is not noted: "+err.Error()))
		a.Started = before.Started
	}
	o, err := p.launch(ctx, a)
	if err != nil {
		o = failure(a.Name, err)
	}
	if err := p.noted(ctx, r, a, before, o); err != nil {
		o.hint = strings.TrimPrefix(o.hint+"; "+err.Error(), "; ")
	}
	return o
}

// startsAs: what is known of an application starts it as a does.
func startsAs(a, known apps.App) bool {
	return a.Name == known.Name && a.Directory == known.Directory && slices.Equal(a.Args, known.Args) && slices.Equal(a.Env, known.Env)
}

// noted has what is known of an application agree with what came of its start. Another
// start of the name, or a delete, may have come between: of several the one whose
// launcher runs counts, and one that failed takes back only what it wrote itself.
func (p *program) noted(ctx context.Context, r apps.Registry, a, before apps.App, o outcome) error {
	failed := o.Outcome == outcomeFailed
	runs := false
	if !failed {
		pid, is, err := answers(ctx, a.Name)
		runs = is && pid == o.PID || err != nil
	}
	return r.Change(a.Name, func(now apps.App) apps.App {
		mine := now.Name != "" && now.Started.Equal(a.Started)
		switch {
		case failed && mine:
			return before
		case failed || mine || !runs:
			return now
		}
		written := a
		if now.Name != "" { // it may have been saved since
			written.Saved, written.Unit = now.Saved, now.Unit
		}
		return written
	})
}

// launch starts the launcher and hears from it until it serves or ends.
func (p *program) launch(ctx context.Context, a apps.App) (outcome, error) {
	log, err := openLog(a.Name)
	if err != nil {
		return outcome{}, err
	}
	defer log.Close() // the launcher has its own
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return outcome{}, err
	}
	env, err := launching(a)
	if err != nil {
		return outcome{}, err
	}
	heard, told, err := os.Pipe()
	if err != nil {
		return outcome{}, err
	}
	defer heard.Close() // read only
	begun, err := process.Background{
		Args: append([]string{"baton", "run", "--" + background}, runArgs(a)...), Env: env, Dir: a.Directory,
		Output: int(log.Fd()), Told: int(told.Fd()),
	}.Start()
	_ = told.Close() // likewise; its other end is only then the launcher's
	if err != nil {
		return outcome{}, err
	}
	w := &waiting{name: a.Name, begun: begun, progress: p.progress()}
	o := w.hear(ctx, heard)
	w.progress.done()
	o.Name, o.Log = a.Name, log.Name()
	if o.Outcome == outcomeFailed {
		if o.text == "" {
			lines := lastLines(log.Name(), from)
			if len(lines) == 0 { // its own lines go to its workers' log
				lines = w.said
			}
			o.lost(begun, lines)
		}
		o.hint = strings.TrimPrefix(o.hint+"; its log: "+log.Name(), "; ")
	}
	return o, nil
}

// waiting is the wait for a launcher to serve.
type waiting struct {
	name     string
	begun    *process.Begun
	progress *progress

	patience time.Duration
	workers  map[int]bool // started, and whether they are ready
	failed   *event.Event // the newcomer
	said     []string     // the last lines that the launcher told
}

// hear returns what comes of it. The launcher goes on whatever becomes of ctx.
func (w *waiting) hear(ctx context.Context, from io.Reader) outcome {
	lines, left := make(chan news), make(chan struct{})
	defer close(left)
	go func() { // ends with the pipe, which is closed at both ends
		defer close(lines)
		read := json.NewDecoder(bufio.NewReader(from))
		for {
			var n news
			if read.Decode(&n) != nil {
				return
			}
			select {
			case lines <- n:
			case <-left:
				return
			}
		}
	}()
	w.patience, w.workers = startMargin+time.Minute, map[int]bool{}
	quiet := time.NewTimer(w.patience)
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	doing := w.name + ": starting"
	for {
		w.progress.say(doing)
		select {
		case n, open := <-lines:
			if !open {
				return w.end(nil)
			}
			if n.Ended != nil {
				return w.end(n.Ended)
			}
			if text := w.note(n); text != "" {
				doing = text
			}
			if n.Event != nil && n.Event.Serves() {
				return outcome{Outcome: outcomeServing, PID: w.begun.PID}
			}
			quiet.Reset(w.patience)
		case <-look.C:
		case <-quiet.C:
			return outcome{
				Outcome: outcomeStarting, PID: w.begun.PID, code: Failed,
				text: fmt.Sprintf("baton: %s: still starting, with pid %d, and quiet for %v", w.name, w.begun.PID, w.patience),
				hint: "it goes on: baton status " + w.name + " tells how, baton stop " + w.name + " ends it",
			}
		case <-ctx.Done():
			return outcome{Outcome: outcomeStarting, PID: w.begun.PID, code: Failed, text: "baton: " + w.name + ": " + context.Cause(ctx).Error()}
		}
	}
}

// note takes in what was told, and says what is under way.
func (w *waiting) note(n news) string {
	if n.Begun != nil {
		w.patience = n.Begun.Patience
	}
	if n.Event == nil {
		return ""
	}
	w.said = append(w.said, n.Event.Message)
	w.said = w.said[max(0, len(w.said)-mostLines):]
	switch e := *n.Event; e.Kind {
	case event.Started:
		w.workers[e.Worker] = false
	case event.Ready:
		w.workers[e.Worker] = true
	case event.RolledBack:
		w.failed = &e
		return ""
	case event.Finding:
		return w.name + ": " + e.Message
	default:
		return ""
	}
	ready := 0
	for _, is := range w.workers {
		if is {
			ready++
		}
	}
	return fmt.Sprintf("%s: starting, %d/%d ready", w.name, ready, len(w.workers))
}

// end is the outcome of a launcher that has ended or is about to.
func (w *waiting) end(e *ended) outcome {
	code := Code(w.begun.Code()) // of the process, which ends behind its last words
	o := outcome{Outcome: outcomeFailed, code: code}
	if code < Failed || code > Busy {
		o.code = Failed
	}
	if e == nil {
		return o
	}
	if o.text, o.hint = e.Text, e.Hint; o.text != "" {
		if rest, ok := strings.CutPrefix(o.text, "baton: "); ok {
			o.Reason, o.text = rest, "baton: "+w.name+": "+rest
		} else {
			o.Reason = o.text
		}
	}
	if w.failed != nil {
		o.Tail = w.failed.Tail
	}
	return o
}

// lost is a launcher that ended without a word: its log has what there is.
func (o *outcome) lost(begun *process.Begun, lines []string) {
	o.Reason = fmt.Sprintf("the launcher ended with %d before anything served", begun.Code())
	o.text, o.Tail = "baton: "+o.Name+": "+o.Reason, lines
}

// mostLines are as many as are shown of a launcher that was lost.
const mostLines = 10

// lastLines are the last of a file from a place on.
func lastLines(path string, from int64) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close() // read only
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	from = max(from, info.Size()-64<<10)
	text, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return nil
	}
	if len(text) == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return lines[max(0, len(lines)-mostLines):]
}

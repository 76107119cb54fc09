package machine

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite what the histories under testdata/machine say is done")

// A history is a text: lines that tell facts, each followed, indented, by what
// the machine has done about it. Lines with # are for the reader. `show` prints
// what there is. README.md beside them lists the facts.
func TestTextHistories(t *testing.T) {
	files, err := filepath.Glob("../../testdata/machine/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("%d histories found", len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			told, err := retell(string(text))
			if err != nil {
				t.Fatalf("%s:%v", file, err)
			}
			if told == string(text) {
				return
			}
			if !*update {
				t.Fatalf("%s (-want +got; -update rewrites it):\n%s", file, cmp.Diff(string(text), told))
			}
			if err := os.WriteFile(file, []byte(told), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// retell runs the facts of a history and writes it anew.
func retell(text string) (string, error) {
	var out strings.Builder
	p := newPlayer()
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, " ") {
			continue // what was done last time
		}
		out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		done, err := p.play(line)
		if err != nil {
			return "", fmt.Errorf("%d: %q: %w", n, line, err)
		}
		for _, a := range done {
			out.WriteString("  " + a + "\n")
		}
	}
	return out.String(), nil
}

// player tells a machine facts in words.
type player struct {
	m    Machine
	fail bool             // the next steering fails
	last map[string]Timer // by name: as it was set last
	live map[Timer]bool
}

func newPlayer() *player { return &player{last: map[string]Timer{}, live: map[Timer]bool{}} }

func (p *player) play(line string) ([]string, error) {
	words, err := split(line)
	if err != nil {
		return nil, err
	}
	switch words[0] {
	case "show":
		return showMachine(&p.m), nil
	case "unsteerable": // the next steering fails
		p.fail = true
		return nil, nil
	}
	e, err := p.event(words)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range p.step(e) {
		out = append(out, showAction(a))
	}
	if len(out) == 0 {
		out = []string{"nothing"}
	}
	return out, nil
}

func (p *player) step(e Event) []Action {
	if f, ok := e.(Fired); ok {
		delete(p.live, f.Timer)
	}
	actions := p.m.Step(e)
	for _, a := range actions {
		switch a := a.(type) {
		case SetTimer:
			p.last[a.Timer.String()] = a.Timer
			p.live[a.Timer] = true
		case StopTimer:
			delete(p.live, a.Timer)
		}
	}
	if p.m.unsaid == 0 {
		return actions
	}
	// The answer to a Steer comes before any other fact.
	var answer Event = Steered{}
	if p.fail {
		p.fail, answer = false, Unsteered{"steer: no memory"}
	}
	return append(actions, p.step(answer)...)
}

// event makes a fact of a line's words.
func (p *player) event(words []string) (Event, error) {
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	switch words[0] {
	case "fire", "fire-late":
		name := arg(1) + " " + arg(2)
		t, ever := p.last[name]
		if !ever || p.live[t] != (words[0] == "fire") {
			return nil, fmt.Errorf("timer %s: ever set: %v, running: %v", name, ever, p.live[t])
		}
		return Fired{t}, nil
	case "stop":
		return Stop{}, nil
	case "steered":
		return Steered{}, nil
	case "unsteered":
		return Unsteered{arg(1)}, nil
	case "end":
		return End{}, nil
	case "extended":
		by, err := time.ParseDuration(arg(2))
		if err != nil {
			return nil, err
		}
		id, err := numbered(arg(1), "w")
		return Extended{Worker(id), by}, err
	case "abort":
		return Abort{}, nil
	case "promote":
		return Promote{arg(1) == "step"}, nil
	case "unhealthy":
		id, err := numbered(arg(1), "w")
		return Unhealthy{Worker(id), arg(2), arg(3) == "stuck"}, err
	case "exited":
		id, err := numbered(arg(1), "w")
		return Exited{Worker(id), arg(2), arg(3) == "stay"}, err
	case "prepared":
		policy, err := parsePolicy(words[min(2, len(words)):])
		if err != nil {
			return nil, err
		}
		g, err := numbered(arg(1), "g")
		return Prepared{Generation(g), policy}, err
	}
	return numberedEvent(words[0], arg(1), arg(2))
}

// numberedEvent makes the facts that are about one number and may have a reason.
func numberedEvent(word, about, reason string) (Event, error) {
	prefix := map[string]string{
		"reload": "", "rollback": "", "scale": "", "quiet": "", "stranded": "", "broken": "", "refused": "g",
		"unstartable": "w", "ready": "w", "probed": "w", "left": "w", "idle": "w", "outgrown": "w",
	}
	n, err := numbered(about, prefix[word])
	if err != nil {
		return nil, err
	}
	switch word {
	case "reload":
		return Reload{Request(n)}, nil
	case "refused":
		return Refused{Generation(n), reason}, nil
	case "unstartable":
		return Unstartable{Worker(n), reason}, nil
	case "rollback":
		return Rollback{Request(n)}, nil
	case "scale":
		return Scale{n}, nil
	case "outgrown":
		return Outgrown{Worker(n), reason}, nil
	case "ready":
		return BecameReady{Worker(n)}, nil
	case "probed":
		return Probed{Worker(n), reason}, nil
	case "left":
		return Left{Worker(n), reason}, nil
	case "idle":
		return Idle{Worker(n)}, nil
	case "broken":
		return Broken{Slot(n), reason}, nil
	case "quiet":
		return Quiet{Slot(n)}, nil
	case "stranded":
		return Stranded{Slot(n), reason == "own"}, nil
	}
	return nil, fmt.Errorf("no such fact")
}

func numbered(s, prefix string) (int, error) {
	digits, ok := strings.CutPrefix(s, prefix)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is not %sN", s, prefix)
	}
	return n, nil
}

// parsePolicy reads key=value over the defaults of a configuration with one worker.
func parsePolicy(words []string) (Policy, error) {
	p := Policy{
		Workers: 1, ReadyTimeout: 30 * time.Second, DrainDelay: time.Second, DrainTimeout: 30 * time.Second,
		BackoffMin: 100 * time.Millisecond, BackoffMax: 30 * time.Second, ResetAfter: 10 * time.Second,
	}
	durations := map[string]*time.Duration{
		"ready_timeout": &p.ReadyTimeout, "bake": &p.Bake, "drain_delay": &p.DrainDelay,
		"drain_idle": &p.DrainIdle, "drain_timeout": &p.DrainTimeout, "backoff_max": &p.BackoffMax,
	}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch {
		case key == "probe":
			p.Probe = true
		case key == "rolling":
			p.Rolling = true
		case key == "sticky":
			p.Sticky = true
		case key == "quiesce":
			p.Quiesce = true
		case key == "canary":
			p.Canary, err = parseSteps(value)
		case key == "ladder":
			p.Ladder, err = parseTimes(value)
		case key == "revert_after":
			p.RevertAfter, err = strconv.Atoi(value)
		case key == "workers":
			p.Workers, err = strconv.Atoi(value)
		case key == "max_draining":
			p.MaxDraining, err = strconv.Atoi(value)
		case durations[key] != nil:
			*durations[key], err = time.ParseDuration(value)
		default:
			err = fmt.Errorf("no such setting")
		}
		if err != nil {
			return Policy{}, fmt.Errorf("%s: %w", word, err)
		}
	}
	return p, nil
}

// parseSteps reads "5:30s,25": percent, and for how long, or until it is promoted.
func parseSteps(text string) ([]Step, error) {
	var steps []Step
	for part := range strings.SplitSeq(text, ",") {
		weight, span, timed := strings.Cut(part, ":")
		n, err := strconv.Atoi(weight)
		if err != nil {
			return nil, err
		}
		s := Step{Weight: n}
		if timed {
			if s.For, err = time.ParseDuration(span); err != nil {
				return nil, err
			}
		}
		steps = append(steps, s)
	}
	return steps, nil
}

func parseTimes(text string) ([]time.Duration, error) {
	var times []time.Duration
	for part := range strings.SplitSeq(text, ",") {
		d, err := time.ParseDuration(part)
		if err != nil {
			return nil, err
		}
		times = append(times, d)
	}
	return times, nil
}

// split cuts a line into words; a reason is one word, in quotes.
func split(line string) ([]string, error) {
	var words []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			words, line = append(words, word), rest
			continue
		}
		q, err := strconv.QuotedPrefix(line)
		if err != nil {
			return nil, err
		}
		word, err := strconv.Unquote(q)
		if err != nil {
			return nil, err
		}
		words, line = append(words, word), line[len(q):]
	}
	return words, nil
}

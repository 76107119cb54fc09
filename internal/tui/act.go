package tui

import (
	"context"
	"errors"
	"fmt"
	"time"

	"baton/internal/control"
	"baton/internal/event"

	tea "charm.land/bubbletea/v2"
)

// question is asked before a launcher is told to do something.
type question struct {
	text    string
	answers map[string]deed // by key; any other key that says no is no
}

// deed is something to be done, and what is said meanwhile.
type deed struct {
	says string
	do   tea.Cmd
}

// doneMsg is what came of a deed.
type doneMsg struct {
	name    string
	says    string         // what was said when it was asked for
	text    string         // when it was done
	verdict *event.Verdict // where there is one
	err     error
}

// act asks whether to do what a key stands for. It reports whether it stands for
// something.
func (s *screen) act(key string) bool {
	build, known := map[string]func(*application) *question{
		"r": s.askReload, "R": s.askRestart, "s": s.askStop, "b": s.askRollback, "p": s.askPromote, "a": s.askAbort,
		"+": func(a *application) *question { return s.askScale(a, +1) },
		"=": func(a *application) *question { return s.askScale(a, +1) }, // the same key without shift
		"-": func(a *application) *question { return s.askScale(a, -1) },
	}[key]
	if !known || key == "R" && s.o.Restart == nil {
		return false
	}
	switch a := s.app(s.selected); {
	case a == nil:
		s.say(plain, "no application is selected")
	case a.ended && key != "R":
		text := a.name + " is not running"
		if s.o.Restart != nil {
			text += "; R starts it"
		}
		s.say(bad, text)
	default:
		s.ask = build(a)
	}
	return true
}

// reply takes the answer to a question.
func (s *screen) reply(key string) tea.Cmd {
	d, yes := s.ask.answers[key]
	switch {
	case yes:
		s.ask = nil
		s.say(moving, d.says)
		return func() tea.Msg {
			msg := d.do()
			if done, ok := msg.(doneMsg); ok {
				done.says = clean(d.says)
				return done
			}
			return msg
		}
	case key == "n", key == "N", key == "esc", key == "q":
		s.ask = nil
	}
	return nil
}

// once makes a question of one deed.
func once(text, says string, do tea.Cmd) *question {
	return &question{text: text + " y/n", answers: map[string]deed{"y": {says, do}}}
}

func (s *screen) askReload(a *application) *question {
	return once("reload "+a.name+"?", a.name+": a reload was asked for", s.judged(a.name, func(ctx context.Context, c *control.Client) (event.Verdict, error) {
		return c.Reload(ctx, 0)
	}))
}

func (s *screen) askRollback(a *application) *question {
	text := "roll " + a.name + " back?"
	if a.report != nil && len(a.report.Releases) > 0 {
		r := a.report.Releases[0]
		text = fmt.Sprintf("roll %s back to what generation %d ran, %s?", a.name, r.Generation, r.Path)
	}
	return once(text, a.name+": a rollback was asked for", s.judged(a.name, func(ctx context.Context, c *control.Client) (event.Verdict, error) {
		return c.Rollback(ctx)
	}))
}

func (s *screen) askRestart(a *application) *question {
	text, says, came := "stop "+a.name+" and start it again? Connections are refused in between.", a.name+": a restart was asked for", "restarted"
	if a.ended {
		text, says, came = "start "+a.name+" as it was started before?", a.name+": a start was asked for", "started"
	}
	return once(text, says, func() tea.Msg {
		return doneMsg{name: a.name, text: came, err: s.o.Restart(s.ctx, a.name)}
	})
}

func (s *screen) askStop(a *application) *question {
	return once("stop "+a.name+": finish what there is, and end?", a.name+" is stopping", s.asked(a.name, 0, func(ctx context.Context, c *control.Client) (string, error) {
		return "stopped", c.Stop(ctx, false)
	}))
}

func (s *screen) askScale(a *application, by int) *question {
	g := a.shown()
	if g == nil {
		s.say(plain, "it is not known yet how many workers "+a.name+" has")
		return nil
	}
	to := g.Wanted + by
	if to < 1 {
		s.say(plain, a.name+" has one worker; s stops it")
		return nil
	}
	text := fmt.Sprintf("%s: %s instead of %d?", a.name, plural(to, "worker"), g.Wanted)
	return once(text, fmt.Sprintf("%s: %s were asked for", a.name, plural(to, "worker")), s.asked(a.name, patienceToAct, func(ctx context.Context, c *control.Client) (string, error) {
		n, err := c.Scale(ctx, fmt.Sprintf("%+d", by))
		return plural(n, "worker"), err
	}))
}

func (s *screen) askPromote(a *application) *question {
	newcomer, standby := a.in("canary"), a.in("standby")
	do := func(step bool) tea.Cmd {
		return s.asked(a.name, patienceToAct, func(ctx context.Context, c *control.Client) (string, error) {
			return "promoted", c.Promote(ctx, step)
		})
	}
	promote := deed{a.name + ": the end was asked for, for the newcomer", do(false)}
	switch {
	case newcomer != nil:
		q := &question{
			text:    fmt.Sprintf("%s: end the canary, generation %d gets everything? y/n", a.name, newcomer.Number),
			answers: map[string]deed{"y": promote},
		}
		if c := newcomer.Canary; c != nil && c.Step < c.Steps {
			q.text += ", s: only the next step"
			q.answers["s"] = deed{a.name + ": the canary's next step was asked for", do(true)}
		}
		return q
	case standby != nil:
		return once(fmt.Sprintf("%s: end the bake, generation %d ends?", a.name, standby.Number), promote.says, promote.do)
	}
	s.say(plain, a.name+" has neither a canary nor a bake")
	return nil
}

func (s *screen) askAbort(a *application) *question {
	newcomer, standby := a.in("canary"), a.in("standby")
	do := s.asked(a.name, patienceToAct, func(ctx context.Context, c *control.Client) (string, error) {
		return "aborted", c.Abort(ctx)
	})
	says := a.name + ": the end was asked for, for who served before"
	switch {
	case newcomer != nil:
		return once(fmt.Sprintf("%s: abort the canary, generation %d ends?", a.name, newcomer.Number), says, do)
	case standby != nil:
		return once(fmt.Sprintf("%s: abort the bake, generation %d serves again?", a.name, standby.Number), says, do)
	}
	s.say(plain, a.name+" has neither a canary nor a bake")
	return nil
}

// patienceToAct is how long a launcher may take for what it does at once.
const patienceToAct = 15 * time.Second

// asked calls a launcher, for so long at most; 0: until the screen ends.
func (s *screen) asked(name string, most time.Duration, call func(context.Context, *control.Client) (string, error)) tea.Cmd {
	client := control.In(s.o.Directory, name)
	return func() tea.Msg {
		ctx, cancel := s.ctx, context.CancelFunc(func() {})
		if most > 0 {
			ctx, cancel = context.WithTimeoutCause(s.ctx, most, fmt.Errorf("none within %v", most))
		}
		defer cancel()
		text, err := call(ctx, client)
		return doneMsg{name: name, text: text, err: err}
	}
}

// judged calls a launcher and waits for the verdict, however long that takes.
func (s *screen) judged(name string, call func(context.Context, *control.Client) (event.Verdict, error)) tea.Cmd {
	client := control.In(s.o.Directory, name)
	return func() tea.Msg {
		v, err := call(s.ctx, client)
		return doneMsg{name: name, verdict: &v, err: err}
	}
}

// done shows what came of it, and has the launcher asked how it is.
func (s *screen) done(msg doneMsg) tea.Cmd {
	a := s.app(msg.name)
	if a != nil {
		a.due = time.Time{}
	}
	s.listed = time.Time{} // it may have started or ended one
	switch v := msg.verdict; {
	case errors.Is(msg.err, context.Canceled):
	case msg.err != nil:
		s.say(bad, msg.name+": "+msg.err.Error())
	case v == nil:
		// A verdict that came meanwhile is worth more: of a reload whose canary was
		// promoted, for one.
		if s.message.text == "" || s.message.text == msg.says {
			s.say(good, msg.name+": "+msg.text)
		}
	case v.Outcome == control.Swapped:
		s.say(good, fmt.Sprintf("%s: swapped, generation %d serves", msg.name, v.Generation))
	default:
		text := msg.name + ": " + v.Outcome
		if v.Reason != "" {
			text += ": " + v.Reason
		}
		s.say(bad, text)
		if a == nil {
			break
		}
		for _, line := range v.Tail { // where a log is read they are in it
			a.note(s.now, "| "+clean(line))
		}
	}
	return s.questions()
}

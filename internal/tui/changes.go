package tui

import (
	"fmt"
	"slices"

	"baton/internal/event"
)

// changes says in words what is different from one report to the next. It stands in
// for a log where none is kept, and sees no more than two reports show.
func changes(before, now *event.Report) []string {
	var said []string
	say := func(format string, args ...any) { said = append(said, clean(fmt.Sprintf(format, args...))) }
	if before == nil {
		say("seen: %s, baton is process %d", now.State, now.PID)
		return said
	}
	if before.PID != now.PID {
		say("another launcher runs it: process %d", now.PID)
		return said
	}
	for _, g := range slices.Backward(now.Generations) {
		sayGeneration(say, g, find(before.Generations, g.Number))
	}
	for _, g := range before.Generations {
		if find(now.Generations, g.Number) == nil {
			say("generation %d is gone", g.Number)
		}
	}
	if n := now.Restarts - before.Restarts; n > 0 {
		say("%s started in the place of another", plural(n, "worker"))
	}
	if now.State != before.State {
		say("state: %s", now.State)
	}
	if now.Verdict != before.Verdict && now.Verdict != "" {
		say("verdict: %s", now.Verdict)
	}
	return said
}

func find(all []event.Generation, number int) *event.Generation {
	if i := slices.IndexFunc(all, func(g event.Generation) bool { return g.Number == number }); i >= 0 {
		return &all[i]
	}
	return nil
}

func sayGeneration(say func(string, ...any), g event.Generation, before *event.Generation) {
	if before == nil || before.Phase != g.Phase {
		what := map[string]string{
			"preparing": "is being prepared", "starting": "starts", "canary": "is a canary", "serving": "serves", "standby": "stands by", "draining": "drains",
		}[g.Phase]
		if what == "" {
			what = "is " + g.Phase
		}
		say("generation %d %s", g.Number, what)
	}
	if c := g.Canary; c != nil && (before == nil || before.Canary == nil || *before.Canary != *c) {
		say("generation %d: %s", g.Number, share(c))
	}
	if before != nil && before.Wanted != g.Wanted {
		say("generation %d: %s instead of %d", g.Number, plural(g.Wanted, "worker"), before.Wanted)
	}
}

// share says how much a canary gets.
func share(c *event.CanaryStep) string {
	if c.Steps == 0 {
		return "takes over worker by worker"
	}
	text := fmt.Sprintf("%d%% of new connections, step %d of %d", c.Weight, c.Step, c.Steps)
	if c.Paused {
		text += ", paused"
	}
	return text
}

package tui

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"baton/internal/event"

	tea "charm.land/bubbletea/v2"
)

// run gives the screen what a command answers.
func run(t *testing.T, s *screen, cmd tea.Cmd) {
	t.Helper()
	if cmd == nil {
		t.Fatal("there is no command")
	}
	s.Update(cmd())
}

func wantDrawn(t *testing.T, s *screen, wants ...string) {
	t.Helper()
	got := drawn(s)
	for _, want := range wants {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// Each key asks; no key but the answer does anything, and the question is about the
// application that was selected when it was asked.
func TestEveryActionAsksFirst(t *testing.T) {
	for key, want := range map[string]string{
		"r": "reload web? y/n", "s": "stop web: finish what there is, and end? y/n", "b": "roll web back? y/n",
		"+": "web: 4 workers instead of 3? y/n", "=": "web: 4 workers instead of 3? y/n", "-": "web: 2 workers instead of 3? y/n",
		"p": "web: end the canary, generation 8 gets everything? y/n, s: only the next step",
		"a": "web: abort the canary, generation 8 ends? y/n",
	} {
		t.Run(key, func(t *testing.T) {
			s := scene(t, 80, 24)
			if cmd := press(s, key); cmd != nil {
				t.Error("the key alone did something")
			}
			wantDrawn(t, s, want)
			for _, other := range []string{"k", "x", "tab", "enter", "r"} {
				if cmd := press(s, other); cmd != nil || s.ask == nil || s.selected != "web" {
					t.Errorf("%q was taken for an answer", other)
				}
			}
			if cmd := press(s, "n"); cmd != nil || s.ask != nil {
				t.Error("n was not no")
			}
			// No launcher is there: the answer of the real client says so.
			press(s, key)
			run(t, s, press(s, "y"))
			wantDrawn(t, s, "web: web is not running")
		})
	}
}

func TestACanaryCanBeTakenOneStepOn(t *testing.T) {
	s := scene(t, 80, 24)
	press(s, "p")
	run(t, s, press(s, "s"))
	wantDrawn(t, s, "web: web is not running")
	last := canary()
	last.Generations[0].Canary.Step = 3
	tell(s, 50, last)
	press(s, "p")
	if got := drawn(s); strings.Contains(got, "next step") {
		t.Errorf("on the last step:\n%s", got)
	}
}

func TestWithoutCanaryOrBakeThereIsNothingToEnd(t *testing.T) {
	s := display(t, 80, 24, "web")
	tell(s, 0, serving("web", 1))
	for _, key := range []string{"p", "a"} {
		if press(s, key); s.ask != nil {
			t.Errorf("%s asks %q", key, s.ask.text)
		}
		wantDrawn(t, s, "web has neither a canary nor a bake")
	}
	if press(s, "-"); s.ask != nil {
		t.Errorf("the last worker: asks %q", s.ask.text)
	}
	bake := serving("web", 1)
	bake.Generations = append(bake.Generations, event.Generation{Number: 6, Phase: "standby", Wanted: 1})
	tell(s, 1, bake)
	press(s, "p")
	wantDrawn(t, s, "web: end the bake, generation 6 ends? y/n", "stands by", "no worker")
	press(s, "n a")
	wantDrawn(t, s, "web: abort the bake, generation 6 serves again? y/n")
}

func TestVerdictsAreShownAndWhyToo(t *testing.T) {
	s := scene(t, 80, 24)
	s.Update(doneMsg{name: "web", verdict: &event.Verdict{Outcome: "swapped", Generation: 9}})
	wantDrawn(t, s, "web: swapped, generation 9 serves")
	s.Update(doneMsg{name: "web", verdict: &event.Verdict{Outcome: "rolled back", Reason: "exit status 7", Tail: []string{"cannot open \x1b]0;key\a"}}})
	wantDrawn(t, s, "web: rolled back: exit status 7", "| cannot open")
	s.Update(doneMsg{name: "web", says: "web: 4 workers were asked for", text: "4 workers"}) // which is to be seen anyway
	wantDrawn(t, s, "web: rolled back: exit status 7")
	press(s, "+ y")
	s.Update(doneMsg{name: "web", says: s.message.text, text: "4 workers"})
	wantDrawn(t, s, "web: 4 workers")
	s.Update(doneMsg{name: "web", err: errors.New("too many connections")})
	wantDrawn(t, s, "web: too many connections")
	press(s, "esc")
	if got := drawn(s); strings.Contains(got, "too many") {
		t.Errorf("esc left the message:\n%s", got)
	}
}

func TestRestartIsOfferedWhereThereIsOne(t *testing.T) {
	s := scene(t, 160, 50)
	if press(s, "R"); s.ask != nil || strings.Contains(drawn(s), "R restart") {
		t.Errorf("without one:\n%s", drawn(s))
	}
	var of string
	s.o.Restart = func(_ context.Context, name string) error { of = name; return errors.New("no such file") }
	wantDrawn(t, s, "R restart")
	press(s, "R")
	run(t, s, press(s, "y"))
	if wantDrawn(t, s, "web: no such file"); of != "web" {
		t.Errorf("%q was restarted", of)
	}
}

func TestKeysGoToThePane(t *testing.T) {
	s := scene(t, 80, 24)
	press(s, "g")
	if s.selected != "api" {
		t.Errorf("%s is selected, want the first", s.selected)
	}
	press(s, "j j j")
	if s.selected != "web" {
		t.Errorf("%s is selected, want the last", s.selected)
	}
	press(s, "tab j j")
	if s.selected != "web" || s.row != 2 {
		t.Errorf("%s, row %d", s.selected, s.row)
	}
	wantDrawn(t, s, "▸─ web", "▸                  2   20406 ready")
	press(s, "G j")
	if s.row != 5 {
		t.Errorf("row %d, want the last", s.row)
	}
	tell(s, 60, serving("web", 1))
	if s.row != 0 {
		t.Errorf("row %d of a single one", s.row)
	}
}

// A list that does not fit is moved so far that the selected one is seen.
func TestWhatIsSelectedIsSeen(t *testing.T) {
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("app%02d", i))
	}
	s := display(t, 80, 24, names...)
	for i := range 40 {
		wantDrawn(t, s, fmt.Sprintf("▸ app%02d", i))
		press(s, "j")
	}
	press(s, "g")
	wantDrawn(t, s, "▸ app00")
	tell(s, 0, serving("app00", 30))
	press(s, "tab")
	for i := range 30 {
		wantDrawn(t, s, fmt.Sprintf("%3d   %d ready", i, 20401+i))
		press(s, "j")
	}
}

func TestHelpNamesTheKeysAndGoesWithAnyOfThem(t *testing.T) {
	s := scene(t, 80, 16)
	press(s, "?")
	wantDrawn(t, s, "search the log", "+ -            one worker more, or less", "q              quit")
	if cmd := press(s, "r"); cmd != nil || s.ask != nil || s.help {
		t.Error("the key that closes the help did something else")
	}
}

func TestQuitQuits(t *testing.T) {
	for _, keys := range []string{"q", "? x q", "tab q", "r n q", "/ x enter q"} {
		cmd := press(scene(t, 80, 24), keys)
		if cmd == nil {
			t.Errorf("%s: no command", keys)
		} else if _, quits := cmd().(tea.QuitMsg); !quits {
			t.Errorf("%s does not quit", keys)
		}
	}
	s := scene(t, 80, 24)
	if cmd := press(s, "r q"); cmd != nil || s.ask != nil {
		t.Error("q at a question is no")
	}
}

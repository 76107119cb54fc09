package tui

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baton/internal/control"
	"baton/internal/event"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the screens under testdata anew")

// noon is when everything here happens.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)

// display is a screen of that size on which the applications run that are named.
func display(t *testing.T, width, height int, names ...string) *screen {
	t.Helper()
	s := newScreen(t.Context(), Options{Directory: t.TempDir()}, look{glyphs: block})
	s.now = noon
	s.Update(tea.WindowSizeMsg{Width: width, Height: height})
	s.Update(listMsg{names: names})
	return s
}

// tell gives the screen a report as of so many seconds after noon.
func tell(s *screen, second int, r *event.Report) {
	s.now = noon.Add(time.Duration(second) * time.Second)
	s.Update(reportMsg{name: r.Name, report: r, at: s.now})
}

// press gives keys, separated by blanks, and returns the last one's command.
func press(s *screen, keys string) tea.Cmd {
	var cmd tea.Cmd
	for _, k := range strings.Fields(keys) {
		msg := tea.KeyPressMsg{}
		switch k {
		case "tab":
			msg.Code = tea.KeyTab
		case "enter":
			msg.Code = tea.KeyEnter
		case "esc":
			msg.Code = tea.KeyEscape
		case "backspace":
			msg.Code = tea.KeyBackspace
		case "pgup":
			msg.Code = tea.KeyPgUp
		case "pgdown":
			msg.Code = tea.KeyPgDown
		case "right":
			msg.Code = tea.KeyRight
		default:
			msg.Code, msg.Text = []rune(k)[0], k
		}
		_, cmd = s.Update(msg)
	}
	return cmd
}

// drawn is what is on the screen, without tones.
func drawn(s *screen) string { return ansi.Strip(s.View().Content) }

// wantScreen compares the screen with one in testdata, and holds it to its size.
func wantScreen(t *testing.T, s *screen, name string) {
	t.Helper()
	got := drawn(s)
	lines := strings.Split(got, "\n")
	if len(lines) != s.height {
		t.Errorf("%d lines on a screen of %d", len(lines), s.height)
	}
	for i, line := range lines {
		if w := ansi.StringWidth(line); w > s.width {
			t.Errorf("line %d is %d wide on a screen of %d: %q", i+1, w, s.width, line)
		}
		lines[i] = strings.TrimRight(line, " ")
	}
	got = strings.Join(lines, "\n") + "\n"
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -want +got\n%s", name, diff)
	}
}

// crew are n ready workers of a generation, each with its share of weight percent.
func crew(from, n int, age time.Duration, weight float64) []event.Worker {
	var all []event.Worker
	for i := range n {
		all = append(all, event.Worker{
			Serial: from + i, Index: i, Slot: i, Role: "member", State: "ready", PID: 20400 + from + i, Weight: weight / float64(n),
			Started: noon.Add(-age), Memory: 48 << 20, CPU: age / 100,
		})
	}
	return all
}

func serving(name string, n int) *event.Report {
	return &event.Report{
		Name: name, PID: 20298, State: event.StateServing, Verdict: "swapped",
		Listeners: []event.Listener{{Name: "http", Address: "tcp://[::]:8080", Mode: "steered"}},
		Generations: []event.Generation{{
			Number: 7, Phase: "serving", Path: "/srv/web/releases/41/server", Wanted: n, Workers: crew(1, n, 51*time.Hour, 100),
		}},
	}
}

// burn has each worker have used so much CPU time besides.
func burn(r *event.Report, spent float64) *event.Report {
	for i, g := range r.Generations {
		for j, w := range g.Workers {
			r.Generations[i].Workers[j].CPU = w.CPU + time.Duration(spent*float64(time.Second))
		}
	}
	return r
}

// canary is web with a newcomer that gets a quarter.
func canary() *event.Report {
	r := serving("web", 3)
	for i := range r.Generations[0].Workers {
		r.Generations[0].Workers[i].Weight = 25
	}
	r.Generations = append([]event.Generation{{
		Number: 8, Phase: "canary", Path: "/srv/web/releases/42/server", Wanted: 3,
		Canary: &event.CanaryStep{Step: 1, Steps: 3, Weight: 25, Paused: true}, Workers: crew(4, 3, 90*time.Second, 25),
	}}, r.Generations...)
	return r
}

// draining is web after a swap, with so many connections left in generation 7.
func draining(left int) *event.Report {
	r := serving("web", 2)
	old := r.Generations[0]
	old.Phase = "draining"
	for i := range old.Workers {
		n := left / 2
		old.Workers[i].State, old.Workers[i].Weight, old.Workers[i].Connections = "idling", 0, &n
	}
	r.Generations = []event.Generation{{
		Number: 8, Phase: "serving", Path: "/srv/web/releases/42/server", Wanted: 2, Workers: crew(4, 2, 5*time.Second, 100),
	}, old}
	return r
}

func loop() *event.Report {
	return &event.Report{
		Name: "queue", PID: 311, State: event.StateCrashLoop, Restarts: 14, Verdict: "rolled back: exit status 7",
		Generations: []event.Generation{{Number: 1, Phase: "serving", Wanted: 1, Looping: true, Workers: []event.Worker{
			{Serial: 15, Slot: 0, Role: "member", State: "waiting", Restarts: 14},
		}}},
	}
}

// scene is three applications of which web has a canary.
func scene(t *testing.T, width, height int) *screen {
	s := display(t, width, height, "api", "queue", "web")
	press(s, "G")
	spent := 0.0
	for second := range 40 {
		spent += 0.05 + float64(second%8)/40 // of a CPU, in this second
		tell(s, second, burn(serving("api", 1), spent/10))
		tell(s, second, loop())
		tell(s, second, burn(canary(), spent))
	}
	return s
}

func TestScreensOfTheTwoSizes(t *testing.T) {
	for _, size := range []struct{ width, height int }{{80, 24}, {160, 50}} {
		wantScreen(t, scene(t, size.width, size.height), fmt.Sprintf("canary-%dx%d.txt", size.width, size.height))
	}
}

func TestASmallerScreenSaysWhatItNeeds(t *testing.T) {
	for _, size := range []struct{ width, height int }{{79, 24}, {80, 15}, {3, 2}} {
		s := scene(t, size.width, size.height)
		if got := drawn(s); !strings.HasPrefix(got, "baton monit needs 80 columns and 16 rows;") {
			t.Errorf("%dx%d: %q", size.width, size.height, got)
		}
		s.Update(tea.WindowSizeMsg{Width: 80, Height: 16})
		if got := drawn(s); !strings.Contains(got, "LAST VERDICT") || strings.Count(got, "\n") != 15 {
			t.Errorf("after it grew:\n%s", got)
		}
	}
}

// Whatever there is to show, no line is wider than the screen and none is too many.
func TestEverySizeIsFilledExactly(t *testing.T) {
	for _, height := range []int{16, 17, 23, 24, 29, 30, 43, 44, 60} {
		for _, width := range []int{80, 81, 99, 100, 120, 160, 250} {
			s := scene(t, width, height)
			for i := range 12 { // more than there is room for
				r := draining(8)
				r.Name = fmt.Sprintf("application-with-a-long-name-%d", i)
				r.Generations = append(r.Generations, canary().Generations...)
				names := []string{"api", "queue", "web"}
				for j := range i + 1 {
					names = append(names, fmt.Sprintf("application-with-a-long-name-%d", j))
				}
				s.Update(listMsg{names: names})
				tell(s, 41, r)
			}
			press(s, "g")
			for _, keys := range []string{"", "G", "tab", "G", "tab", "G", "g", "?"} {
				press(s, keys)
				lines := strings.Split(drawn(s), "\n")
				if len(lines) != height && !s.help {
					t.Fatalf("%dx%d: %d lines", width, height, len(lines))
				}
				for _, line := range lines {
					if ansi.StringWidth(line) > width {
						t.Fatalf("%dx%d: too wide: %q", width, height, line)
					}
				}
			}
		}
	}
}

func TestADrainIsSeenToGoOn(t *testing.T) {
	s := display(t, 80, 24, "web")
	tell(s, 0, draining(12))
	tell(s, 1, draining(6))
	wantScreen(t, s, "drain-80x24.txt")
	tell(s, 2, serving("web", 2)) // its number is 7 again, which is of no matter here
	if got := drawn(s); strings.Contains(got, "drain ") || !strings.Contains(got, "generation 8 is gone") {
		t.Errorf("after the drain:\n%s", got)
	}
}

func TestASwapIsSeenWorkerByWorker(t *testing.T) {
	s := display(t, 80, 24, "web")
	tell(s, 0, serving("web", 4))
	r := serving("web", 4)
	coming := crew(5, 4, time.Second, 0)
	coming[2].State, coming[3].State = "starting", "probing"
	r.Generations = append([]event.Generation{{Number: 8, Phase: "starting", Wanted: 4, Workers: coming}}, r.Generations...)
	tell(s, 1, r)
	got := drawn(s)
	for _, want := range []string{"web  swapping", "start       8 ████████░░░░░░░░ 2 of 4 workers ready", "generation 8 starts"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestCPUIsCountedOverASecondAndOfEachWorker(t *testing.T) {
	s := display(t, 80, 24, "web")
	tell(s, 0, serving("web", 2))
	a := s.app("web")
	if a.cpu() != -1 {
		t.Errorf("at the first look %v percent, want none", a.cpu())
	}
	r := burn(serving("web", 2), 0.5)
	r.Generations[0].Workers = append(r.Generations[0].Workers, event.Worker{
		Serial: 9, Role: "member", State: "ready", PID: 9, Started: noon.Add(time.Second), CPU: time.Second, // younger than the look before
	})
	tell(s, 2, r)
	if got := a.cpu(); got < 99.9 || got > 100.1 {
		t.Errorf("%v percent, want 25 and 25 and 50", got)
	}
	s.now = noon.Add(2100 * time.Millisecond) // too soon to tell
	s.Update(reportMsg{name: "web", report: burn(serving("web", 2), 10), at: s.now})
	if got := a.cpu(); got < 99.9 || got > 100.1 || len(a.history.samples) != 2 {
		t.Errorf("%v percent after a tenth of a second, and %d samples", got, len(a.history.samples))
	}
	other := serving("web", 2) // another launcher: serials begin anew, and so does the count
	other.PID++
	tell(s, 5, other)
	if a.cpu() != -1 {
		t.Errorf("of another launcher's workers %v percent, want none", a.cpu())
	}
}

func TestALauncherThatEndsStaysInTheList(t *testing.T) {
	s := scene(t, 80, 24)
	s.Update(listMsg{names: []string{"api", "queue"}})
	if got := drawn(s); !strings.Contains(got, "▸ web   ended") || !strings.Contains(got, "baton has ended") {
		t.Errorf("web's launcher is gone:\n%s", got)
	}
	press(s, "r")
	if got := drawn(s); s.ask != nil || !strings.Contains(got, "web is not running") {
		t.Errorf("reload of what has ended:\n%s", got)
	}
	s.Update(reportMsg{name: "api", err: fmt.Errorf("api is %w", control.ErrNotRunning)})
	if state, _ := s.app("api").state(); state != "ended" {
		t.Errorf("api is %s", state)
	}
	s.Update(listMsg{names: []string{"api", "queue", "web"}})
	tell(s, 50, serving("web", 1))
	if state, _ := s.app("web").state(); state != "serving" {
		t.Errorf("web is %s after it was started again", state)
	}
}

// What is known and does not run is listed as baton status has it, and can be started.
func TestWhatDoesNotRunIsListedAndCanBeStarted(t *testing.T) {
	s := display(t, 80, 24)
	rest := []*event.Report{
		{Name: "old", State: event.StateStopped}, {Name: "bad", State: event.StateDied, Verdict: "17 lives on"},
	}
	s.Update(listMsg{names: []string{"web"}, rest: rest})
	tell(s, 0, serving("web", 1))
	wantDrawn(t, s, "  bad  died ", "17 lives on", "  old  stopped ", "▸ web  serving", "r reload")
	press(s, "k r")
	wantDrawn(t, s, "▸ old", "old is not running")
	if s.ask != nil || strings.Contains(drawn(s), "r reload") {
		t.Errorf("what does not run can be reloaded:\n%s", drawn(s))
	}
	var of string
	s.o.Restart = func(_ context.Context, name string) error { of = name; return nil }
	press(s, "r")
	wantDrawn(t, s, "old is not running; R starts it", "R start")
	press(s, "R")
	wantDrawn(t, s, "start old as it was started before? y/n")
	run(t, s, press(s, "y"))
	if wantDrawn(t, s, "old: started"); of != "old" {
		t.Errorf("%q was started", of)
	}
	if !s.listing {
		t.Error("nobody looks whether it runs now")
	}
	s.Update(listMsg{names: []string{"old", "web"}, rest: rest[1:]})
	tell(s, 1, serving("old", 1))
	wantDrawn(t, s, "▸ old  serving")
	// One that ran is kept for what the registry says of it; one that was forgotten
	// without having run goes.
	s.Update(listMsg{names: []string{"web"}, rest: rest[:1]})
	wantDrawn(t, s, "▸ old  stopped", "baton has ended")
	if s.app("bad") != nil {
		t.Errorf("bad is known to nobody any more:\n%s", drawn(s))
	}
	s.Update(listMsg{names: []string{"web"}})
	wantDrawn(t, s, "▸ old  ended")
}

func TestALauncherThatDoesNotAnswerIsSilent(t *testing.T) {
	s := scene(t, 80, 24)
	s.Update(reportMsg{name: "web", err: errors.New("web: no answer: none within 3s"), at: s.now})
	if got := drawn(s); !strings.Contains(got, "web   silent") || !strings.Contains(got, "web: no answer") {
		t.Errorf("web does not answer:\n%s", got)
	}
}

func TestNoApplicationSaysWhereOneIsLookedFor(t *testing.T) {
	s := display(t, 80, 24)
	if got := drawn(s); !strings.Contains(got, "no application runs; launchers are looked for in "+s.o.Directory[:5]) {
		t.Errorf("nothing runs:\n%s", got)
	}
	for _, k := range strings.Fields("j k tab j tab j r s + - b p a / n N esc G g") {
		press(s, k)
		_ = drawn(s)
	}
}

func TestWithoutColoursNothingIsColoured(t *testing.T) {
	for name, colours := range map[string]bool{"NO_COLOR is set": false, "NO_COLOR is not set": true} {
		s := scene(t, 80, 24)
		s.look.colours = colours
		if got := s.View().Content; strings.Contains(got, "\x1b[3") != colours {
			t.Errorf("%s:\n%q", name, got)
		}
	}
}

func TestTheTerminalSaysWhatCanBeDrawn(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want look
	}{
		{map[string]string{}, look{true, ascii}},
		{map[string]string{"LANG": "C.UTF-8", "NO_COLOR": "1"}, look{false, block}},
		{map[string]string{"LANG": "de_DE.utf8", "TERM": "linux"}, look{true, console}},
		{map[string]string{"LANG": "C.UTF-8", "LC_ALL": "C"}, look{true, ascii}},
	} {
		if got := lookFor(func(k string) string { return c.env[k] }); got.colours != c.want.colours || got.full+got.ellipsis != c.want.full+c.want.ellipsis {
			t.Errorf("%v: %+v", c.env, got)
		}
	}
}

func TestOnlyATerminalIsDrawnOn(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Setenv("TERM", "xterm")
	if err := Run(t.Context(), Options{Input: f, Output: f}); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("on a file: %v", err)
	}
}

package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
)

// printed is what p.table writes.
func printed(t *testing.T, all []state) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // read below
	if err := (&program{stdout: f}).table(all); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func report(change func(*event.Report)) *event.Report {
	r := &event.Report{Name: "web", PID: 4194304, State: event.StateServing, Restarts: 3, Verdict: "swapped", Generations: []event.Generation{{
		Number: 12, Phase: "serving", Wanted: 4, Workers: []event.Worker{
			{Index: 0, Role: "member", State: "ready", Started: time.Now().Add(-50 * time.Hour)},
			{Index: 1, Role: "emptier", State: "ready"},
			{Index: 3, Role: "member", State: "starting"},
		},
	}}}
	if change != nil {
		change(r)
	}
	return r
}

func TestTheTableFitsEightyColumns(t *testing.T) {
	long := strings.Repeat("n", 64)
	words := strings.Repeat("rolled back: \x1b[31mexit status 7 \u00fc", 9)
	rows := printed(t, []state{
		{name: "web", report: report(nil)},
		{name: long, report: report(func(r *event.Report) { r.Verdict = words })},
		{name: "api", err: errors.New("api: no answer:\nnone")},
	})
	for _, row := range rows {
		if n := len([]rune(row)); n > helpWidth || strings.ContainsAny(row, "\x1b\t") || strings.HasSuffix(row, " ") {
			t.Errorf("%d columns: %q", n, row)
		}
	}
	if len(rows) != 4 || !strings.Contains(rows[1], "2d02h") || !strings.Contains(rows[1], "1/4") || !strings.Contains(rows[1], " 3 ") {
		t.Errorf("printed:\n%s", strings.Join(rows, "\n"))
	}
	if !strings.Contains(rows[2], "nnn..") || !strings.HasSuffix(rows[2], "rolled ba..") || !strings.HasSuffix(rows[3], "..") {
		t.Errorf("printed:\n%s", strings.Join(rows, "\n"))
	}
	// With room nothing is cut.
	if rows := printed(t, []state{{name: "web", report: report(nil)}}); !strings.HasSuffix(rows[1], "swapped") || !strings.HasPrefix(rows[1], "web  ") {
		t.Errorf("printed:\n%s", strings.Join(rows, "\n"))
	}
}

func TestTheStateInOneWord(t *testing.T) {
	with := func(phase string) func(*event.Report) {
		return func(r *event.Report) {
			r.Generations = slices.Insert(r.Generations, 0, event.Generation{Number: 13, Phase: phase})
		}
	}
	for want, change := range map[string]func(*event.Report){
		"serving":    with("draining"),
		"swapping":   with("starting"),
		"baking":     with("standby"),
		"canary":     with("canary"),
		"stopping":   func(r *event.Report) { r.State = event.StateStopping },
		"crash-loop": func(r *event.Report) { r.State = event.StateCrashLoop },
		"starting":   func(r *event.Report) { r.State, r.Generations = event.StateStarting, nil },
	} {
		r := report(change)
		if got := phase(r); got != want {
			t.Errorf("%s, want %s: %+v", got, want, r)
		}
		if g := r.Shown(); g != nil && g.Number != 12 {
			t.Errorf("%s: generation %d is shown", want, g.Number)
		}
	}
}

func TestFiguresStayShort(t *testing.T) {
	for bytes, want := range map[uint64]string{0: "0B", 999: "999B", 1000: "1.0K", 99 << 10: "99.0K", 1 << 20: "1.0M", 512 << 20: "512M", 1 << 40: "1.0T", 999 << 30: "999G"} {
		if got := size(bytes); got != want || len(got) > 6 {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
	for share, want := range map[float64]string{0: "0.0%", 0.123: "12.3%", 0.9994: "99.9%", 0.9996: "100%", 12.5: "1250%"} {
		if got := percent(share); got != want {
			t.Errorf("%v: %s, want %s", share, got, want)
		}
	}
}

func TestFlagsMayStandBehindTheName(t *testing.T) {
	commands := (&program{}).commands()
	for line, want := range map[string]string{
		"baton":                                  "baton",
		"baton reload":                           "baton reload",
		"baton reload web":                       "baton reload -- web",
		"baton reload web --no-wait":             "baton reload --no-wait -- web",
		"baton reload web --if-generation 3":     "baton reload --if-generation 3 -- web",
		"baton reload web --if-generation=3":     "baton reload --if-generation=3 -- web",
		"baton reload --if-generation 3 web":     "baton reload --if-generation 3 -- web",
		"baton reload web --if-generation":       "baton reload --if-generation -- web",
		"baton ls web --json":                    "baton ls --json -- web",
		"baton scale -1":                         "baton scale -- -1",
		"baton scale web -1":                     "baton scale -- web -1",
		"baton scale -- --help":                  "baton scale -- --help",
		"baton stop - --now":                     "baton stop --now -- -",
		"baton run --name web -- ./server --now": "baton run --name web -- ./server --now",
		"baton init file --force":                "baton init file --force",
	} {
		if got := strings.Join(arrange(strings.Fields(line), commands), " "); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", line, got, want)
		}
	}
}

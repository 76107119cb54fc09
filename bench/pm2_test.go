package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/load"
)

func needsProc(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("needs Linux's /proc: ", err)
	}
}

func TestRollupIsReadInBytes(t *testing.T) {
	const text = "55a0-7ffd ---p 00000000 00:00 0    [rollup]\n" +
		"Rss:               61500 kB\nPss:               31250 kB\nPss_Dirty:         11111 kB\nPss_Anon:          22222 kB\nShared_Clean:          0 kB\n"
	got, err := rollup(text)
	if want := (size{rss: 61500 * 1024 / 1e6, pss: 32}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "Rss: 1 kB\n", "Pss: 1 kB\n", "Rss: 1 kB\nPss: many kB\n"} {
		if got, err := rollup(bad); err == nil {
			t.Errorf("rollup(%q) = %+v", bad, got)
		}
	}
}

func TestAProcessIsToldFromALaterOneOfItsPID(t *testing.T) {
	state, began, err := parseStat("7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 5 6 0 0 20 0 11 0 987654 1000 200 18446744073709551615\n")
	if state != "S" || began != "987654" || err != nil {
		t.Errorf("%q, %q, %v", state, began, err)
	}
	if _, _, err := parseStat("7 (short) S 1 7"); err == nil {
		t.Error("a line cut short is taken")
	}
	needsProc(t)
	me, err := tree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if other := (process{me[0].pid, me[0].began + "1"}); !me[0].alive() || other.alive() {
		t.Errorf("%+v is alive: %v; %+v: %v", me[0], me[0].alive(), other, other.alive())
	}
}

func TestTheTreeHoldsWhatAChildHasStarted(t *testing.T) {
	needsProc(t)
	// A shell gives what it starts in the background /dev/null for its input.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "cat <&3 & echo up; wait")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{r}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("needs sh: ", err)
	}
	_ = r.Close()
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	mine, err := tree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	below, err := tree(cmd.Process.Pid)
	if err != nil || len(below) != 2 || below[0].pid != cmd.Process.Pid {
		t.Errorf("below the shell: %+v, %v", below, err)
	}
	for _, p := range below {
		if !slices.Contains(mine, p) || !p.alive() {
			t.Errorf("%+v is not in %+v, or not alive", p, mine)
		}
	}
	if err := w.Close(); err != nil { // ends cat, and with it the shell
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for _, p := range below {
		if p.alive() {
			t.Errorf("%+v has ended and counts as alive", p)
		}
	}
}

func TestWhoRunsTheSameExecutableIsAStranger(t *testing.T) {
	needsProc(t)
	path, err := exec.LookPath("cat")
	if err != nil {
		t.Skip("needs cat: ", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(t.TempDir(), "cat") // nobody else runs this one
	if err := os.WriteFile(mine, text, 0o700); err != nil {
		t.Fatal(err)
	}
	var two []process
	for range 2 {
		cmd := exec.CommandContext(t.Context(), mine)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
				t.Error(err)
			}
		}()
		all, err := tree(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		two = append(two, all...)
	}
	if one, none := strangers(two[:1]), strangers(two); one != 1 || none != 0 {
		t.Errorf("%d beside one of two, %d beside both", one, none)
	}
}

func TestAKeptConnectionThatEndsUnderARequestIsALoss(t *testing.T) {
	o := outcome{by: map[load.Kind]load.Result{
		load.Fresh:     {Requests: 100, Lost: 3, Reasons: map[load.Reason]int{load.Timeout: 1, load.EOF: 2}},
		load.KeepAlive: {Requests: 50, Lost: 1, IdleClosed: 9, IdleClean: 5, IdleRaced: 4},
	}}
	if fresh, kept := o.lost(load.Fresh), o.lost(load.KeepAlive); fresh != 3 || kept != 5 {
		t.Errorf("fresh %v, keep-alive %v", fresh, kept)
	}
	if line := o.line(); !strings.Contains(line, "fresh lost 3 of 100") || !strings.Contains(line, "2 eof, 1 timeout") || !strings.Contains(line, "keep-alive lost 5 of 54") {
		t.Error(line)
	}
}

func TestALongReloadIsToldFromItsRequestOn(t *testing.T) {
	at := time.Now()
	l := launched{events: []event.Event{
		{Time: at.Add(-time.Second), Message: "before"},
		{Time: at.Add(5 * time.Millisecond), Message: "generation 2 serves"},
		{Time: at.Add(7 * time.Second), Message: "generation 1 is gone"},
	}}
	if got, want := l.logged(at), "+5ms generation 2 serves; +7s generation 1 is gone"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRatiosAreOfPairs(t *testing.T) {
	if got := ratios([]float64{2, 0, 4}, []float64{1, 5, 6}); !slices.Equal(got, []float64{0.5, 1.5}) {
		t.Error(got)
	}
}

func TestTheLockFileNamesWhatThePackageAsksFor(t *testing.T) {
	var asked struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	var locked struct {
		Packages map[string]struct {
			Version   string `json:"version"`
			Integrity string `json:"integrity"`
		} `json:"packages"`
	}
	for file, into := range map[string]any{"express/package.json": &asked, "express/package-lock.json": &locked} {
		text, err := programs.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"pm2", "express"} {
		got := locked.Packages["node_modules/"+name]
		if got.Version == "" || got.Version != asked.Dependencies[name] || got.Integrity == "" {
			t.Errorf("%s: %q is asked for, %+v is locked", name, asked.Dependencies[name], got)
		}
	}
	for _, r := range rivalries {
		if _, err := programs.ReadFile("express/" + r.script); err != nil {
			t.Error(err)
		}
	}
}

// broken is a side that fails at its start; a launcher may be there all the same.
type broken struct {
	side
	stopped bool
}

var errBroken = errors.New("broken")

func (b *broken) start(context.Context) error { return errBroken }

func (b *broken) stop(ctx context.Context) error {
	b.stopped = ctx.Err() == nil
	return nil
}

func TestASideIsStoppedAfterAnErrorAndAfterAnInterrupt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cancel()
	var b broken
	if _, err := endure(ctx, &b, "", 1); !errors.Is(err, errBroken) || !b.stopped {
		t.Errorf("%v, stopped: %v", err, b.stopped)
	}
}

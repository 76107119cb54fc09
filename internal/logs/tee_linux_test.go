package logs

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// The launcher's lines are in the store in words, and where they were as they were.
func TestTheLaunchersLinesAreInTheStoreToo(t *testing.T) {
	var b bytes.Buffer
	tee := NewTee(slog.NewTextHandler(&b, nil))
	log := slog.New(tee)
	log.Info("before there was a store")
	s := &Store{}
	tee.Into(s, false)
	log.Info("pid 7 is ready", "event", "ready", "generation", 3, "worker", 2, "slot", 0, "pid", 7, "tail", []string{"said already"})
	log.With("a", "x y").WithGroup("g").Warn("careful", "b", "")
	log.Debug("not at this level")
	log.Error("bad \x1b", "n", 1)
	want := []string{
		"pid 7 is ready|3|", `careful a="x y" g.b=""` + "|0|warn", "bad \x1b n=1|0|error",
	}
	got := parsed(t, s.buf)
	for i, r := range got {
		line := string(r.Text) + "|" + string(rune('0'+r.Generation)) + "|" + r.Level
		if r.Stream != Baton || r.Worker != -1 || i >= len(want) || line != want[i] {
			t.Errorf("%s", r.JSON)
		}
	}
	if len(got) != len(want) || strings.Count(b.String(), "\n") != 4 {
		t.Errorf("%d records, and\n%s", len(got), b.String())
	}
}

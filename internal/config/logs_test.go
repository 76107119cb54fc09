package config

import (
	"strings"
	"testing"
)

// baton start captures what workers write, unless the file says otherwise.
func TestADefaultFromOutsideGivesWayToTheFile(t *testing.T) {
	under := []Setting{{Key: "logs.output", Value: OutputCapture, From: "baton start"}}
	for text, want := range map[string]string{
		"":                       OutputCapture,
		"logs.keep = 3\n":        OutputCapture,
		"logs.output = 'pass'\n": OutputPass,
	} {
		if got := parse(t, minimal+text, Options{Under: under}).Logs.Output; got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	set := []Setting{{Key: "logs.output", Value: OutputInherit, From: "--x"}}
	if got := parse(t, minimal, Options{Under: under, Set: set}).Logs.Output; got != OutputInherit {
		t.Errorf("under a flag: %s", got)
	}
	if got := parse(t, minimal+"logs.keep = 3\n", Options{}).Logs; got.Output != OutputPass || got.Keep != 3 {
		t.Errorf("a file for baton start is none for baton run: %+v", got)
	}
	_, err := Parse(minimal+"logs = 3\n", "a.toml", Options{Under: under})
	if err == nil || !strings.Contains(err.Error(), "a.toml:3:1: logs: must be a table") {
		t.Errorf("a section that is none: %v", err)
	}
}

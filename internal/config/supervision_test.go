package config

import (
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDrainLadderHasTheNamedSignalsInOrder(t *testing.T) {
	for text, want := range map[string][]Rung{
		"":                                   {{syscall.SIGTERM, 0}},
		"handoff.drain_signals = ['sigint']": {{syscall.SIGINT, 0}},
		"handoff.drain_signals = [{signal = 'SIGQUIT'}]": {{syscall.SIGQUIT, 0}},
		"handoff.drain_signals = [{signal = 'usr2', after = '0s'}, {signal = 'TERM', after = '1500ms'}, {signal = 'INT', after = '29s'}]": {
			{syscall.SIGUSR2, 0}, {syscall.SIGTERM, 1500 * time.Millisecond}, {syscall.SIGINT, 29 * time.Second},
		},
	} {
		h := parse(t, minimal+text, Options{}).Handoff
		if diff := cmp.Diff(want, h.DrainLadder()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
		if h.DrainSignal() != want[0].Signal {
			t.Errorf("%s: first is %s, want %s", text, h.DrainSignal(), want[0].Signal)
		}
	}
	if got := (Handoff{}).DrainSignal(); got != syscall.SIGTERM {
		t.Errorf("without a name: %s", got)
	}
}

func TestSignalsHaveOneSpelling(t *testing.T) {
	h := parse(t, minimal+"handoff = {drain_signals = ['sigint'], quiesce_signal = 'SIGusr1'}\n", Options{}).Handoff
	if h.DrainSignals[0].Signal != "INT" || h.QuiesceSignal != "USR1" || h.Quiesce() != syscall.SIGUSR1 {
		t.Errorf("%+v, quiesce %s", h, h.Quiesce())
	}
	if got := Default().Handoff.Quiesce(); got != 0 {
		t.Errorf("without a name: %s", got)
	}
}

// A setting has what TOML would hold: a number for a number, a list for a list.
func TestWorkersAndWatchAsSettings(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := parse(t, "watch = ['file']\n"+minimal+"handoff.workers = 2\n", Options{Set: []Setting{
		{Key: "handoff.workers", Value: int64(4), From: "--workers"},
		{Key: "watch", Value: []string{"here", "/there"}, From: "--watch"},
	}})
	if want := []string{filepath.Join(dir, "here"), "/there"}; c.Handoff.Workers != 4 || !slices.Equal(c.Watch, want) {
		t.Errorf("%d workers, watch %v, want 4 and %v", c.Handoff.Workers, c.Watch, want)
	}
	c = parse(t, minimal+"handoff.workers = 2\n", Options{Set: []Setting{{Key: "handoff.workers", Value: "max", From: "--workers"}}})
	if c.Handoff.Workers != 0 {
		t.Errorf(`"max" is %d, want 0`, c.Handoff.Workers)
	}
	for value, want := range map[any]string{
		int64(0): `--workers: handoff.workers: must be at least 1; write a number, or "max" for one per CPU`,
		"many":   `--workers: handoff.workers: "many" is not a number of workers; write a number, or "max" for one per CPU`,
	} {
		_, err := Parse(minimal, "app.toml", Options{Set: []Setting{{Key: "handoff.workers", Value: value, From: "--workers"}}})
		if err == nil || err.Error() != want {
			t.Errorf("%v: got %v, want %s", value, err, want)
		}
	}
}

func TestSizesReadBackAsTheyWereWritten(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "1M": 1 << 20, "1048577": 1<<20 + 1, "1025K": 1025 << 10, "500M": 500 << 20, "2G": 2 << 30, "3T": 3 << 40,
		"9223372036854775807": math.MaxInt64,
	} {
		c := parse(t, minimal+"limits.memory = '"+text+"'\n", Options{})
		if c.Limits.Memory != want || sizeText(want) != text {
			t.Errorf("%q is %d, want %d; and that is %q", text, c.Limits.Memory, want, sizeText(want))
		}
	}
	for text, want := range map[string]string{"1024K": "1M", "4096M": "4G", "1048576": "1M"} {
		if c := parse(t, minimal+"limits.memory = '"+text+"'\n", Options{}); sizeText(c.Limits.Memory) != want {
			t.Errorf("%s is written %s, want %s", text, sizeText(c.Limits.Memory), want)
		}
	}
}

// Scripts read these from baton check --json.
func TestJSONOfSupervisionHasTheFormsOfTheFile(t *testing.T) {
	c := parse(t, minimal+`
[handoff]
workers = "max"
canary = [{ weight = 5, for = "90s" }, { weight = 25, pause = true }]
[limits]
memory = "500M"
`, Options{})
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"workers":"max"`, `"memory":"500M"`, `"drain_signals":["TERM"]`, `"stop_exit_codes":[]`, `"watch":[]`, `"crash":[]`,
		`"canary":[{"for":"1m30s","pause":false,"weight":5},{"for":"0s","pause":true,"weight":25}]`, `"stuck_after":"10s"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// The two probes have the same keys, and neither is taken for the other.
func TestLiveProbeIsNotTheReadyProbe(t *testing.T) {
	c := parse(t, minimal+"[health.live]\nprobe = 'http'\npath = '/live'\n[health.ready]\nprobe = 'tcp'\ninterval = '1s'\n", Options{})
	live, ready := c.Health.Live, c.Health.Ready
	if live.Probe.Probe != "http" || live.Path != "/live" || live.Interval != 10*time.Second {
		t.Errorf("live is %+v", live)
	}
	if ready.Probe != "tcp" || ready.Path != "/" || ready.Interval != time.Second {
		t.Errorf("ready is %+v", ready)
	}
	// A ready mode implies a probe of the newcomer, and none of who serves.
	if c = parse(t, minimal+"handoff.ready = 'http'\n", Options{}); c.Health.Live.Probe.Probe != "" {
		t.Errorf("live probe is %q", c.Health.Live.Probe.Probe)
	}
	// A live probe may take longer than a newcomer may.
	parse(t, minimal+"handoff.ready_timeout = '2s'\nhealth.live = {probe = 'tcp', timeout = '5s'}\n", Options{})
}

// What a profile takes away from the file may leave another key of it without effect.
func TestProfileThatTakesAwayWhatAKeyNeeds(t *testing.T) {
	for text, want := range map[string]string{
		"handoff = {canary = [{weight = 1, pause = true}], canary_by = 'client'}\n[profile.x]\nhandoff.canary = []\n":              "handoff.canary_by: has no effect without canary",
		"hooks = {crash = ['a'], timeout = '1s'}\n[profile.x]\nhooks.crash = []\n":                                                 "hooks.timeout: has no effect",
		"health.live.stuck = 'replace'\n[profile.x]\nhealth.live.stuck_after = '0s'\n":                                             "health.live.stuck: has no effect",
		"health.live = {probe = 'tcp', interval = '1s'}\n[profile.x]\nhealth.live.probe = ''\n":                                    "health.live.interval: has no effect",
		"handoff.drain_signals = [{signal = 'INT'}, {signal = 'TERM', after = '9s'}]\n[profile.x]\nhandoff.drain_timeout = '9s'\n": "handoff.drain_signals[1].after: after 9s is not below drain_timeout 9s",
		"handoff.quiesce_signal = 'INT'\n[profile.x]\nhandoff.drain_signals = ['INT']\n":                                           "handoff.quiesce_signal: INT is one of drain_signals",
	} {
		_, err := Parse(minimal+text, "app.toml", Options{})
		var all Errors
		if !errors.As(err, &all) || len(all) != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want the one error %s of\n%s", err, want, text)
		}
	}
}

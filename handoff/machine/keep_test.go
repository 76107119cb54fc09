package machine

import (
	"strings"
	"testing"
)

// A machine that serves with two workers, of which one has an heir.
func kept(t *testing.T) Memory {
	t.Helper()
	var m Machine
	m.Step(Reload{1})
	m.Step(Prepared{1, Policy{Workers: 2}})
	m.Step(BecameReady{1})
	m.Step(BecameReady{2})
	m.Step(Steered{})
	m.Step(Outgrown{2, "memory"})
	m.Step(Reload{2})
	m.Step(Reload{3}) // is remembered
	k := m.Keep()
	if len(k.Generations) != 2 || k.Generations[0].Workers[1].Heir != 3 || k.Pending == nil || *k.Pending != 3 {
		t.Fatalf("kept %+v", k)
	}
	return k
}

func TestWhatDoesNotFitTogetherIsNotResumed(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(*Memory)
		words  string
	}{
		"nothing":        {func(*Memory) {}, ""},
		"a holder":       {func(k *Memory) { k.Slots[0].Holder = 9 }, "slot 0: held by worker 9 of generation 1, which is not there"},
		"an owner":       {func(k *Memory) { k.Slots[1].Owner = 9 }, "slot 1: held by worker 2 of generation 9, which is not there"},
		"an heir":        {func(k *Memory) { k.Generations[0].Workers[0].Heir = 9 }, "worker 1: its heir, worker 9, is not there"},
		"who it is for":  {func(k *Memory) { k.Generations[0].Workers[0].Yields = 9 }, "worker 1: leaves for generation 9, which is not there"},
		"a slot":         {func(k *Memory) { k.Generations[0].Workers[0].Slot = 9 }, "worker 1: there is no slot 9"},
		"a slot below 0": {func(k *Memory) { k.Generations[0].Workers[0].Slot = -2 }, "worker 1: there is no slot -2"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kept(t)
			c.damage(&k)
			_, err := Resume(k)
			if words := ""; err != nil || c.words != "" {
				if err != nil {
					words = err.Error()
				}
				if words != c.words || strings.TrimSpace(words) == "" {
					t.Errorf("error %q, want %q", words, c.words)
				}
			}
		})
	}
}

// What a machine keeps is its own: the one that goes on does not change it.
func TestWhatWasKeptStaysAsItWas(t *testing.T) {
	k := kept(t)
	m, err := Resume(k)
	if err != nil {
		t.Fatal(err)
	}
	m.Step(Stop{})
	m.Step(End{})
	if again := kept(t); len(k.Generations) != len(again.Generations) || *k.Pending != *again.Pending || k.Generations[0].Phase != Serving || k.Stopping {
		t.Errorf("kept %+v", k)
	}
}

// One that leaves for a newcomer's worker stays when that newcomer fails.
func TestWhoLeavesForANewcomerIsKept(t *testing.T) {
	var m Machine
	m.Step(Reload{1})
	m.Step(Prepared{1, Policy{Workers: 2}})
	m.Step(BecameReady{1})
	m.Step(BecameReady{2})
	m.Step(Steered{})
	m.Step(Reload{2})
	m.Step(Prepared{2, Policy{Workers: 2, Rolling: true}})
	m.Step(BecameReady{3}) // steering has not answered
	k := m.Keep()
	if w := k.Generations[0].Workers[0]; !w.Leaves || w.Yields != 2 {
		t.Fatalf("kept %+v", w)
	}
	resumed, err := Resume(k)
	if err != nil {
		t.Fatal(err)
	}
	resumed.Step(Unsteered{"no memory"})
	if w := resumed.Keep().Generations[0].Workers[0]; w.Leaves || w.State != Ready {
		t.Errorf("of a newcomer that failed: %+v", w)
	}
}

package machine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// What is shown of a machine in the middle of things is what there is.
func TestLook(t *testing.T) {
	for name, c := range map[string]struct {
		facts []string
		want  View
	}{
		"nothing": {nil, View{}},
		"a canary beside one that replaces a worker": {
			[]string{
				"reload 1", "prepared g1 workers=2", "ready w1", "ready w2", "reload 2", "prepared g2 workers=2", "ready w3", "ready w4",
				"exited w1", "exited w2", "quiet 0", "quiet 1", `exited w4 "exit status 0" stay`, `outgrown w3 "memory"`,
				"reload 3", "prepared g3 canary=5:1m,20", "ready w6", "promote step",
			},
			View{
				Generations: []GenerationView{
					{Number: 2, Phase: Serving, Release: 2, Wanted: 2, Stopped: []int{1}, Workers: []WorkerView{
						{ID: 3, Role: Member, Slot: 2, State: Ready, Heir: 5},
						{ID: 5, Role: Member, Slot: 0, State: Coming},
					}},
					{Number: 3, Phase: Canary, Release: 3, Wanted: 1, Step: 2, Steps: 2, Weight: 20, Paused: true, Workers: []WorkerView{
						{ID: 6, Role: Member, Slot: 1, State: Ready},
					}},
				},
				Table: []Share{{1, 1, 0}, {2, 4, 0}},
				Good:  []Generation{1},
			},
		},
		"the first one has failed": {
			[]string{"reload 1", "prepared g1", "fire ready w1"},
			View{
				Generations: []GenerationView{{Number: 1, Phase: Draining, Release: 1, Wanted: 1, Workers: []WorkerView{
					{ID: 1, Role: Member, Slot: 0, State: Signalled},
				}}},
				Stopping: true,
			},
		},
		"a loop": {
			[]string{"reload 1", "prepared g1", "ready w1", "exited w1", "exited w2", "fire restart w3", "exited w3", "fire restart w4", "exited w4"},
			View{
				Generations: []GenerationView{{Number: 1, Phase: Serving, Release: 1, Wanted: 1, Looping: true, Workers: []WorkerView{
					{ID: 5, Role: Member, Slot: 0, State: Waiting, Restarts: 4},
				}}},
				Table: []Share{{0, 1, 0}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlayer()
			for _, fact := range c.facts {
				if _, err := p.play(fact); err != nil {
					t.Fatalf("%q: %v", fact, err)
				}
			}
			if diff := cmp.Diff(c.want, p.m.Look(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

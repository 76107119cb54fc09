package socket

import (
	"fmt"
	"testing"
)

func TestFindingsAreNeverLostAndNeverBlock(t *testing.T) {
	f := newFindings("web")
	total := 0
	for slot := range 200 { // more than the channel holds, and nobody reads
		f.post(Broken, slot, "gone")
		total++
	}
	for i := range 3 {
		f.post(Stranger, -1, fmt.Sprintf("socket %d", i))
		f.post(Stranger, -1, fmt.Sprintf("socket %d", i))
		total++
	}
	f.post(Broken, 199, "gone again")
	seen := make(map[Finding]bool)
	for len(seen) < total {
		select {
		case got := <-f.out:
			if got.Listener != "web" || seen[got] {
				t.Fatalf("%+v", got)
			}
			seen[got] = true
		default:
			before := len(f.out)
			f.flush()
			if len(f.out) == before {
				t.Fatalf("%d of %d findings came", len(seen), total)
			}
		}
	}
	if !seen[Finding{"web", Broken, 199, "gone again"}] || seen[Finding{"web", Broken, 199, "gone"}] {
		t.Error("of two facts about slot 199 the earlier one was kept")
	}
	f.close()
	f.close()
	f.post(Broken, 1, "late")
	if _, open := <-f.out; open {
		t.Error("a finding after the end")
	}
}

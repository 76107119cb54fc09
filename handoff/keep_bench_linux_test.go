package handoff_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"baton/handoff"
	"baton/handoff/machine"
	"baton/internal/event"
	"baton/internal/keep"
	"baton/internal/socket"
	"baton/internal/testkit"
)

// What it costs to keep what there is, which is done with each change: to collect it, to
// have it in words, and to write it. keeps/swap is how often that is in a swap.
func BenchmarkKeep(b *testing.B) {
	for _, workers := range []int{1, 8} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			e := startAs(b, func(p *handoff.Plan) {
				p.Policy.Workers = workers
				for i := 2; i < 4; i++ {
					p.Listeners = append(p.Listeners, handoff.ListenerPlan{
						Address: socket.Address{Network: "tcp", Host: fmt.Sprintf("127.0.0.%d", i)},
						Options: socket.Options{Name: fmt.Sprint("web", i), UID: -1, GID: -1},
					})
				}
			}, "ready=notify")
			e.wait(event.Serving, 1)
			before := e.keeps.Load()
			if v := e.reload(); v.Outcome != machine.Swapped {
				b.Fatalf("%+v", v)
			}
			e.wait(event.Gone, 1)
			testkit.Wait(b, func() bool { return len(e.Report().Generations) == 1 }, "one generation to be left")
			swap := e.keeps.Load() - before
			file, err := os.Create(filepath.Join(b.TempDir(), "state"))
			if err != nil {
				b.Fatal(err)
			}
			defer file.Close()
			record, size := keep.NewRecord(file), 0
			err = e.Freeze(func(take func() (handoff.State, *keep.Files)) error {
				for b.Loop() {
					s, _ := take()
					text, err := json.Marshal(s)
					if err != nil {
						return err
					}
					if err := record.Write(text); err != nil {
						return err
					}
					size = len(text)
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(size), "bytes")
			b.ReportMetric(float64(swap), "keeps/swap")
		})
	}
}

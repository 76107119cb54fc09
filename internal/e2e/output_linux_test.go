package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"baton/internal/testkit"
)

// What workers write comes out as they wrote it, whichever way it takes; the
// way shows in what their descriptors are.
func TestWorkersOutputComesOutUntouched(t *testing.T) {
	testkit.Together(t)
	for _, way := range []string{"pass", "inherit"} {
		t.Run(way, func(t *testing.T) {
			testkit.Leaks(t)
			const lines = 2000
			a := run(t, config(t, testkit.Target(fmt.Sprintf("lines=%d", lines)), quick,
				fmt.Sprintf("[logs]\noutput = %q", way), listen("web", "127.0.0.1:0")))
			for _, stream := range []string{"stdout", "stderr"} {
				a.WaitLog(fmt.Sprintf("^%s line %d of %d$", stream, lines, lines))
			}
			next := map[string]int{"stdout": 1, "stderr": 1}
			for _, l := range a.Lines() {
				stream, n, ok := strings.Cut(l.Text, " line ")
				if !ok {
					continue
				}
				if want := fmt.Sprintf("%d of %d", next[stream], lines); n != want || l.Stdout != (stream == "stdout") {
					t.Fatalf("%q, want line %s of %s", l.Text, want, stream)
				}
				next[stream]++
			}
			pipe := func(pid, fd int) string {
				link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
				if err != nil {
					t.Fatal(err)
				}
				return link
			}
			same := pipe(a.PID(), 1) == pipe(a.Children()[0], 1) && pipe(a.PID(), 2) == pipe(a.Children()[0], 2)
			if same != (way == "inherit") {
				t.Errorf("the worker has the launcher's own descriptors: %v", same)
			}
			a.Stop()
		})
	}
}

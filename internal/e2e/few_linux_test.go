package e2e

import (
	"fmt"
	"os/exec"
	"testing"

	"baton/internal/testkit"
)

// A launcher that may have too few descriptors for what it is to start says so and ends,
// whichever of them it lacks.
func TestALauncherThatHasTooFewDescriptorsEnds(t *testing.T) {
	testkit.Together(t)
	for _, n := range []int{16, 20, 24, 28, 32} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			testkit.Leaks(t)
			path := config(t, testkit.Target(), "[handoff]\nworkers = 4", listen("web", "127.0.0.1:0"))
			l := testkit.NewBaton(t, "run", "--config", path, "--log", "json")
			l.StartBy = func(c *exec.Cmd) error {
				sh, err := exec.LookPath("sh")
				if err != nil {
					return err
				}
				c.Args = append([]string{sh, "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, n), c.Path}, c.Args[1:]...)
				c.Path = sh
				return c.Start()
			}
			l.Start()
			if code := l.Wait(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
		})
	}
}

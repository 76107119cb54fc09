// Command plain is the target of testkit in a program of its own: tests that run with the
// race detector have their workers without it, which start and answer in a tenth of
// the time. What is looked for in those tests is the launcher's.
package main

import (
	"fmt"
	"os"

	"baton/internal/testkit"
)

func main() {
	testkit.Main()
	fmt.Fprintln(os.Stderr, "plain: run by tests, as testkit.Target says")
	os.Exit(2)
}

package process

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// That it is in the group by then is shown where there are groups: internal/e2e.
func TestATargetJoinsItsControlGroupOrIsNotStarted(t *testing.T) {
	r, err := Resolve(Command{Exec: []string{"/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	join := filepath.Join(t.TempDir(), "cgroup.procs")
	start := func() (*Process, error) {
		return Start(t.Context(), Spec{Release: r, Env: []string{}, Group: join, Stdin: -1, Stdout: -1, Stderr: -1})
	}
	if _, err := start(); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("without a group: %v", err)
	}
	if err := os.WriteFile(join, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := start()
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if text, err := os.ReadFile(join); string(text) != "0" {
		t.Errorf("written was %q, %v", text, err)
	}
}

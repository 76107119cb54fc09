package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var binary struct {
	once sync.Once
	path string
	err  error
}

// EnvBinary in the environment is the path of a real baton that is built already: where
// there is no Go, as in a machine that a test boots.
const EnvBinary = "BATON_TESTKIT_BINARY"

// Binary is the path of the real baton, built once per test process from the
// tree that the tests are of, with the race detector when they have it.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv(EnvBinary); path != "" {
		return path
	}
	binary.once.Do(func() { binary.path, binary.err = build() })
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

// build puts the binary beside the test's own, where go test removes it. A test
// binary that was not made by go test gets it in a directory of its user's, that
// the next build takes over.
func build() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	if !strings.Contains(dir, "go-build") {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("baton-testkit-%d", os.Getuid()))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, "baton")
	args := []string{"build", "-o", path}
	if Raced {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "baton")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build baton: %w\n%s", err, out)
	}
	return path, nil
}

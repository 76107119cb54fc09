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
	dir, err := buildDir()
	if err != nil {
		return "", err
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

// targetProgram is what plays the target. Without a place to build another one, as inside
// a booted machine, it is this test binary.
var targetProgram = sync.OnceValue(func() string {
	self, err := os.Executable()
	if err != nil {
		panic(err) // Linux and Darwin always know it
	}
	if !Raced || os.Getenv(EnvBinary) != "" {
		return self
	}
	dir, err := buildDir()
	if err != nil {
		return self
	}
	path := filepath.Join(dir, "plain")
	if out, err := exec.Command("go", "build", "-race=false", "-o", path, "baton/internal/testkit/plain").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build of the target: %v\n%s", err, out))
	}
	return path
})

// buildDir is the test binary's own directory, or one of its user's.
func buildDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	if strings.Contains(dir, "go-build") {
		return dir, nil
	}
	dir = filepath.Join(os.TempDir(), fmt.Sprintf("baton-testkit-%d", os.Getuid()))
	return dir, os.MkdirAll(dir, 0o755)
}

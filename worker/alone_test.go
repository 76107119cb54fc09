package worker

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const stranger = `package main

import (
	"context"
	"log"
	"net/http"

	"baton/worker"
)

func main() {
	l, err := worker.Listen("http", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(worker.Serve(context.Background(), &http.Server{}, l))
}
`

// A program of somebody else's needs this package's source and nothing more: no
// module of ours has to be downloaded, and none enters its go.mod.
func TestThePackageIsImportableAlone(t *testing.T) {
	repository, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	module := fmt.Sprintf("module stranger\n\ngo 1.26.0\n\nrequire baton v0.0.0\n\nreplace baton => %s\n", repository)
	for name, text := range map[string]string{"main.go": stranger, "go.mod": module} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// No network and nothing downloaded before; go's build cache is the test's own.
	env := append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=mod", "GOWORK=off", "GOMODCACHE="+filepath.Join(dir, "modules"))
	tool(t, dir, env, "build", "-o", filepath.Join(dir, "stranger"), ".")
	now, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if string(now) != module {
		t.Errorf("go.mod became\n%s", now)
	}
	if sums, err := os.ReadFile(filepath.Join(dir, "go.sum")); err == nil && len(sums) > 0 {
		t.Errorf("go.sum is\n%s", sums)
	}
	deps := tool(t, dir, env, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	if got := strings.Join(strings.Fields(deps), " "); got != "baton/worker stranger" {
		t.Errorf("besides the standard library it builds %s", got)
	}
}

func TestThePackageCompilesElsewhere(t *testing.T) {
	for _, system := range []string{"darwin", "windows"} {
		tool(t, ".", append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0"), "build", ".")
	}
}

func tool(t *testing.T, dir string, env []string, words ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "go", words...)
	c.Dir, c.Env = dir, env
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return string(out)
}

package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"baton/internal/testkit"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(cramped); dir != "" {
		os.Exit(crampedMain(dir))
	}
	os.Exit(m.Run())
}

// quiet is what tests give time to: long enough for a busy machine to do what belongs
// together, as a rule.
const quiet = 250 * time.Millisecond

// watching is a Watcher, what it told, and a file of the test's own that it watches
// besides.
type watching struct {
	*Watcher
	t     *testing.T
	told  chan string
	extra string
	n     int

	mu     sync.Mutex
	failed []string
}

// watch watches paths, and ends with the test.
func watch(t *testing.T, paths ...string) *watching {
	t.Helper()
	testkit.Leaks(t)
	w := &watching{t: t, told: make(chan string, 100), extra: filepath.Join(t.TempDir(), "extra")}
	write(t, w.extra, "")
	var err error
	w.Watcher, err = New(Options{Paths: append(slices.Clone(paths), w.extra), Quiet: quiet,
		Changed: func(path string) { w.told <- path }, Failed: w.fail})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.failed) > 0 {
			t.Errorf("it says %q", w.failed)
		}
	})
	return w
}

func (w *watching) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = append(w.failed, err.Error())
}

// next is what is told next.
func (w *watching) next() string {
	w.t.Helper()
	select {
	case path := <-w.told:
		return path
	case <-time.After(60 * time.Second):
		w.t.Fatal("nothing was told within a minute")
		return ""
	}
}

// tells fails unless the path is what is told next. What is told besides is found by
// whoever asks next.
func (w *watching) tells(path, after string) {
	w.t.Helper()
	if got := w.next(); got != path {
		w.t.Errorf("after %s it told of %s, want %s", after, got, path)
	}
}

// silent fails if anything is told but a change that is made now.
func (w *watching) silent(after string) {
	w.t.Helper()
	w.n++
	write(w.t, w.extra, fmt.Sprint(w.n))
	if got := w.next(); got != w.extra {
		w.t.Errorf("after %s it told of %s", after, got)
		write(w.t, w.extra, "again")
		_ = w.next() // it, or what was written before
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes files, and links where "path -> to" is written, and returns their folder,
// without links.
func tree(t *testing.T, entries ...string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	grow(t, dir, entries...)
	return dir
}

func grow(t *testing.T, dir string, entries ...string) {
	t.Helper()
	for _, e := range entries {
		path, to, link := strings.Cut(e, " -> ")
		path = filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if link {
			must(t, os.Symlink(to, path))
		} else {
			write(t, path, "before")
		}
	}
}

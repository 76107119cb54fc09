package launcher

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/testkit"
)

type reloads chan struct{}

func (r reloads) Reload(func(handoff.Verdict)) { r <- struct{}{} }

// A start does not wait for a tree that takes long to be looked at, and what is written
// there meanwhile is a reload all the same.
func TestAStartDoesNotWaitForABigTree(t *testing.T) {
	testkit.Leaks(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "server")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	for _, path := range []string{file, dir} {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	c := &config.Config{Name: "web", Watch: []string{dir}}
	b := newBeside(c, slog.New(slog.DiscardHandler))
	defer b.close()
	b.making.Lock() // as long as this is held the tree is being looked at
	asked, back := make(reloads, 1), make(chan struct{})
	go func() { // ends with watch
		b.watch(c, asked)
		close(back)
	}()
	select {
	case <-back:
	case <-time.After(30 * time.Second):
		b.making.Unlock()
		t.Fatal("the start waits")
	}
	if err := os.WriteFile(file, []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.making.Unlock()
	select {
	case <-asked:
	case <-time.After(30 * time.Second):
		t.Error("what was written meanwhile is not known")
	}
}

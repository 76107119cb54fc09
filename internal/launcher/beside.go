package launcher

import (
	"log/slog"
	"os"
	"slices"
	"sync"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/hooks"
	"baton/internal/protocol"
	"baton/internal/watch"
)

// beside is what goes on beside the engine, by the configuration of the generation that
// serves: the hooks on its events, and the watch on files whose change is a reload.
type beside struct {
	log   *slog.Logger
	hooks *hooks.Hooks

	mu      sync.Mutex // never held while the engine is waited for
	engine  reloader
	paths   []string
	watcher *watch.Watcher // nil: nothing is watched
	closed  bool
}

// reloader is what a change asks of the engine.
type reloader interface {
	Reload(func(handoff.Verdict))
}

func newBeside(first *config.Config, log *slog.Logger) *beside {
	return &beside{log: log, hooks: hooks.New(hooks.Options{
		Name: first.Name, Config: hooksOf(first), Env: protocol.Scrub(os.Environ()), Log: log,
	})}
}

func hooksOf(c *config.Config) hooks.Config {
	h := c.Hooks
	return hooks.Config{Ready: h.Ready, Swap: h.Swap, Rollback: h.Rollback, Crash: h.Crash, Stuck: h.Stuck, Timeout: h.Timeout}
}

// apply takes over what the generation that now serves was configured with. It waits
// for nobody.
func (b *beside) apply(c *config.Config) {
	b.hooks.Set(hooksOf(c))
	go b.watchPaths(c.Watch) // ends when the files were looked at
}

// watch begins to reload the engine at changes.
func (b *beside) watch(first *config.Config, engine reloader) {
	b.mu.Lock()
	b.engine = engine
	b.mu.Unlock()
	b.watchPaths(first.Watch)
}

func (b *beside) watchPaths(paths []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.engine == nil || slices.Equal(paths, b.paths) {
		return
	}
	b.paths = paths
	if b.watcher != nil {
		b.watcher.Set(paths)
		return
	}
	engine := b.engine
	w, err := watch.New(watch.Options{
		Paths: paths,
		Changed: func(path string) {
			b.log.Info("changed: "+path, "path", path)
			engine.Reload(nil)
		},
		Failed: func(err error) { b.log.Warn(err.Error()) },
	})
	if err != nil {
		b.log.Warn(err.Error())
		return
	}
	b.watcher = w
}

// close ends both, when the engine has ended: commands that run get their time.
func (b *beside) close() {
	b.mu.Lock()
	b.closed = true
	w := b.watcher
	b.mu.Unlock()
	if w != nil {
		w.Close()
	}
	b.hooks.Close()
}

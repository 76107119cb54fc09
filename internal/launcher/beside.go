package launcher

import (
	"log/slog"
	"os"
	"sync"
	"time"

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

	making sync.Mutex // held while a watcher is made

	mu      sync.Mutex // never held while anything is waited for
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
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paths = c.Watch
	switch {
	case b.watcher != nil:
		b.watcher.Set(b.paths)
	case len(b.paths) > 0 && b.engine != nil:
		go b.begin(time.Time{}) // ends when the files were looked at
	}
}

// watchTime is how long a start waits for its files to be looked at. A tree that takes
// longer is watched once the application runs.
const watchTime = 200 * time.Millisecond

// watch has changes of files reload the engine from now on.
func (b *beside) watch(first *config.Config, engine reloader) {
	b.mu.Lock()
	b.engine, b.paths = engine, first.Watch
	b.mu.Unlock()
	if len(first.Watch) == 0 {
		return
	}
	since, made := time.Now(), make(chan struct{})
	go func() { // ends when the files were looked at
		defer close(made)
		b.begin(since)
	}()
	select {
	case <-made:
	case <-time.After(watchTime):
	}
}

// begin makes the watcher, which takes as long as there are files; what was asked for
// meanwhile is told to it then. What has changed since, when nobody watched yet, counts.
func (b *beside) begin(since time.Time) {
	b.making.Lock()
	defer b.making.Unlock()
	b.mu.Lock()
	engine, paths, needed := b.engine, b.paths, b.watcher == nil && !b.closed
	b.mu.Unlock()
	if !needed {
		return
	}
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
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		go w.Close() // ends by itself: nobody waits for it
		return
	}
	b.watcher = w
	w.Set(b.paths)
	if !since.IsZero() && time.Since(since) >= watchTime { // else nothing was started yet
		w.Since(since)
	}
}

// close ends both, when the engine has ended: commands that run get their time, unless
// they are told to hurry.
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

// hurried is the engine for those who may ask for its end now: the hooks hear of that
// too, also when the engine has ended already.
type hurried struct {
	*handoff.Supervisor
	hooks *hooks.Hooks
}

func (h hurried) End() {
	h.hooks.Hurry()
	h.Supervisor.End()
}

// Package watch tells when something changes under paths: a program that was built
// anew, a file of a configuration. It is for a development loop, in which each change
// is a reload.
//
// What it keeps:
//
//   - A change is told when there has been none for a while, so that a program is told
//     of when it has been written, and once; what changes all the time is told of all
//     the same.
//   - What counts is what the path leads to when it is told: a file that was replaced,
//     or that went and came back, a link on the way that leads elsewhere now. A path
//     that leads nowhere is waited for and not told of.
//   - Whatever goes wrong with the watching is told, and ends nothing.
//
// It never reads a file, and never tells that a file was read, or that its owner, mode
// or times were changed and nothing else. A file that is written under another name
// (a hard link) is not seen to change; nor is one on a filesystem that another machine
// writes to.
package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	defaultQuiet = 200 * time.Millisecond
	// latest is how long a change is held back while others follow it, in times of
	// the quiet: 2 s by default.
	latest = 10
	// gather is how long a look at the paths is put off for others to share it, and
	// share how much of the time may go into looking, as 1 of so many parts.
	gather = 20 * time.Millisecond
	share  = 5
	// coarse is more than the kernel's clock for files lags behind its own.
	coarse = 20 * time.Millisecond
	// passes bound one look; what still grows then sends events.
	passes = 10
)

// Options are what New needs.
type Options struct {
	// Paths are absolute: files, and directories with all that lies below them. One
	// need not exist.
	Paths []string
	// Quiet is how long nothing must have changed; 0: 200 ms.
	Quiet time.Duration
	// Changed is told a path that has changed, one of those that have. It is called
	// by one goroutine; what changes meanwhile is told after it has returned. It may
	// call Set, but not Close.
	Changed func(path string)
	// Failed is told what cannot be watched, and why, once for as long as it lasts. Two
	// goroutines may call it, and New before it has returned.
	Failed func(error)
}

// Watcher watches. Safe for concurrent use.
type Watcher struct {
	o      Options
	fs     *fsnotify.Watcher
	close  func()         // once
	closed chan struct{}  // by it
	looper sync.WaitGroup // who adds watches
	rest   sync.WaitGroup // who ends with fs
	poke   chan struct{}  // of one: want, or lost, has something new

	mu    sync.Mutex
	want  []string  // paths
	lost  bool      // events were lost, any path may have changed
	since time.Time // what has changed later counts; zero: nothing is asked

	// The loop's own.
	paths    []string
	survey   *survey
	said     map[string]bool // problems
	stale    bool            // the survey may be out of date
	cost     time.Duration   // of the last look
	changes  []change        // not told yet
	looking  *time.Timer     // to the next look
	silence  *time.Timer     // to the end of the quiet
	patience *time.Timer     // to the end of putting it off
}

// change is the first of one path that was given.
type change struct{ given, path string }

// New watches from its return on. An error means that this system, or this user, can
// watch nothing; that one of the paths cannot be watched is told to Failed.
func New(o Options) (*Watcher, error) {
	f, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch: %w%s", err, hint(err))
	}
	if o.Quiet <= 0 {
		o.Quiet = defaultQuiet
	}
	w := &Watcher{
		o: o, fs: f, closed: make(chan struct{}), poke: make(chan struct{}, 1), want: cleaned(o.Paths),
		survey: newSurvey(nil), looking: stopped(), silence: stopped(), patience: stopped(),
	}
	w.close = sync.OnceFunc(func() { close(w.closed) })
	w.paths = w.want
	w.look()
	w.looper.Go(w.loop) // ends with Close
	w.rest.Go(w.errors) // likewise
	return w, nil
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func cleaned(paths []string) []string {
	all := make([]string, len(paths))
	for i, p := range paths {
		all[i] = filepath.Clean(p)
	}
	return all
}

// Set gives other paths, soon. It never blocks. What has changed under a path that
// stays is told.
func (w *Watcher) Set(paths []string) {
	w.mu.Lock()
	w.want = cleaned(paths)
	w.mu.Unlock()
	w.wake()
}

// Since has what was written after a time, by the files' own account, count as a change:
// for what happened before New returned. It never blocks.
func (w *Watcher) Since(t time.Time) {
	w.mu.Lock()
	w.since = t
	w.mu.Unlock()
	w.wake()
}

func (w *Watcher) wake() {
	select {
	case w.poke <- struct{}{}:
	default: // it has been poked
	}
}

// Close ends it and waits for Changed to return.
func (w *Watcher) Close() {
	w.close()
	w.looper.Wait()  // fsnotify must not be closed while a watch is added: the number may be another's by then
	_ = w.fs.Close() // of a descriptor that nothing was written to
	w.rest.Wait()
}

// errors is apart from the loop, since fsnotify tells an error with the lock held
// that the loop needs to add a watch.
func (w *Watcher) errors() {
	for err := range w.fs.Errors {
		switch {
		case errors.Is(err, syscall.EINVAL):
			// A directory was gone before its watch could be removed: as good.
		case errors.Is(err, fsnotify.ErrEventOverflow):
			w.mu.Lock()
			w.lost = true
			w.mu.Unlock()
			w.wake()
		default:
			w.o.Failed(fmt.Errorf("watch: %w", err))
		}
	}
}

func (w *Watcher) loop() {
	defer w.looking.Stop()
	defer w.silence.Stop()
	defer w.patience.Stop()
	for {
		select {
		case <-w.closed:
			return
		case e := <-w.fs.Events:
			w.see(e)
		case <-w.poke:
			w.poked()
		case <-w.looking.C:
			w.look()
		case <-w.silence.C:
			w.tell()
		case <-w.patience.C:
			w.tell()
		}
	}
}

// see takes in one event.
func (w *Watcher) see(e fsnotify.Event) {
	if e.Op&^fsnotify.Chmod == 0 { // also what reading, linking and touching do
		return
	}
	path := filepath.Clean(e.Name)
	given := w.survey.concerns(path)
	if len(given) == 0 {
		return
	}
	if e.Has(fsnotify.Create) || e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		w.outdated()
	}
	for _, g := range given {
		w.note(change{g, path})
	}
}

// outdated has the paths looked at soon.
func (w *Watcher) outdated() {
	if !w.stale {
		w.stale = true
		w.looking.Reset(max(gather, (share-1)*w.cost))
	}
}

// note remembers a change and begins the quiet anew.
func (w *Watcher) note(c change) {
	if len(w.changes) == 0 {
		w.patience.Reset(latest * w.o.Quiet)
	}
	w.silence.Reset(w.o.Quiet)
	if !slices.ContainsFunc(w.changes, func(o change) bool { return o.given == c.given }) {
		w.changes = append(w.changes, c)
	}
}

// tell tells the first change of a path that leads somewhere.
func (w *Watcher) tell() {
	if w.stale {
		w.look() // before it is told, so that what changes from now on is seen
	}
	changes := w.changes
	w.changes = nil
	w.silence.Stop()
	w.patience.Stop()
	for _, c := range changes {
		if _, err := os.Stat(c.given); err == nil && slices.Contains(w.paths, c.given) {
			w.o.Changed(c.path)
			return
		}
	}
}

// poked takes over what others have left for the loop.
func (w *Watcher) poked() {
	w.mu.Lock()
	want, lost, since := w.want, w.lost, w.since
	w.lost, w.since = false, time.Time{}
	w.mu.Unlock()
	if lost {
		w.outdated()
		for _, p := range w.paths {
			w.note(change{p, p})
		}
	}
	if !slices.Equal(want, w.paths) {
		w.paths = want
		w.look()
	}
	if !since.IsZero() {
		for _, c := range w.survey.since(since.Add(-coarse)) {
			w.note(c)
		}
	}
}

// look has watched what the paths lead to now. What appeared before its watch was
// there has sent no event, so it looks until nothing is new.
func (w *Watcher) look() {
	w.stale = false
	w.looking.Stop()
	begin := time.Now()
	var problems []error
	for range passes {
		var grown bool
		if grown, problems = w.apply(newSurvey(w.paths)); !grown {
			break
		}
	}
	w.cost = time.Since(begin)
	said := map[string]bool{}
	for _, err := range problems {
		said[err.Error()] = true
		if !w.said[err.Error()] {
			w.o.Failed(err)
		}
	}
	w.said = said
}

// apply has exactly the places of a survey watched, and tells whether one is new.
func (w *Watcher) apply(s *survey) (grown bool, problems []error) {
	for path, p := range w.survey.places {
		if now := s.places[path]; now == nil || !os.SameFile(now.info, p.info) {
			_ = w.fs.Remove(path) // gone already is as good
			delete(w.survey.places, path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(s.places)) {
		p := s.places[path]
		err := w.fs.Add(path) // once more is nothing, unless it went and came back
		switch {
		case err == nil:
			grown = grown || w.survey.places[path] == nil
			continue
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // the next pass, or its parent's event, sees it
		case errors.Is(err, fs.ErrPermission) && !p.needed(): // more often than not nothing happens there
		case full(err):
			problems = append(problems, fmt.Errorf("watch %s and others: %w%s", path, err, hint(err)))
			s.forget(func(other string) bool { return other >= path && w.survey.places[other] == nil })
			w.survey = s
			return false, problems
		default:
			problems = append(problems, fmt.Errorf("watch %s: %w%s", path, err, hint(err)))
		}
		delete(s.places, path)
	}
	w.survey = s
	return grown, problems
}

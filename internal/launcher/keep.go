package launcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"syscall"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/keep"
	"baton/internal/process"
)

// A launcher that is upgraded goes on in the same process, and one that is killed is
// followed by another: either way the next one begins with this State, and with the
// descriptors that it names.

// stateVersion is the form of a State. It is raised when an older baton could not go on
// with what this one writes, or the other way round; oldestState is the oldest form that
// this one goes on with. The text is for tests, which build a program with another one.
var (
	stateVersion = "1"
	oldestState  = "1"
)

// State is what a launcher leaves to the one that takes its place.
type State struct {
	Version string          `json:"version"` // stateVersion of who wrote it
	Baton   string          `json:"baton"`   // who wrote it, for people
	Name    string          `json:"name"`    // of the application
	Boot    string          `json:"boot"`    // process.Boot
	Writer  process.Mark    `json:"writer"`
	Config  json.RawMessage `json:"config"` // kept: what the launcher began with
	Engine  handoff.State   `json:"engine"`
	Events  []event.Event   `json:"events"` // the last ones
	// Control says whether there is a control socket, and Stored what is in systemd's
	// store.
	Control bool     `json:"control"`
	Stored  []string `json:"stored"`
	// Given are the names that systemd calls its sockets by. Of an upgrade alone: to
	// another process it gives them itself.
	Given []string `json:"given"`
	// Caught are signals that were told and not acted on. Of an upgrade alone.
	Caught []process.Caught `json:"caught"`
}

// stateSuffix of the file beside the control socket that holds the State.
const stateSuffix = ".state"

// keptEvents are those that are written with each change: for a person who asks what came
// before a launcher was killed.
const keptEvents = 10

// decode reads a State and holds it to what this program can go on with.
func decode(text []byte) (*State, error) {
	// The form first: the rest of another one may not even decode.
	var form struct {
		Version string `json:"version"`
		Baton   string `json:"baton"`
	}
	if err := json.Unmarshal(text, &form); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	switch {
	case form.Version == "" || less(form.Version, oldestState):
		return nil, fmt.Errorf("state: of form %q, which %s wrote; this baton goes on with form %s and later", form.Version, form.Baton, oldestState)
	case less(stateVersion, form.Version):
		return nil, fmt.Errorf("state: of form %s, which %s wrote; this baton is older, and goes on with form %s and earlier", form.Version, form.Baton, stateVersion)
	}
	s := &State{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return s, nil
}

// less compares numbers that are written without leading zeros.
func less(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }

// keeper writes the State down whenever it changes.
type keeper struct {
	state  State // but Engine and Events
	events *control.Feed
	given  *given
	store  store // nil: descriptors are kept nowhere
	log    *slog.Logger

	path   string
	file   *os.File // nil: it is not written
	record *keep.Record
	last   []byte          // what was written
	stored map[string]bool // names in the store
	said   bool            // that it cannot be written
}

// store is where descriptors outlive the process: systemd's.
type store interface {
	Store(name string, fds ...int) error
	Forget(name string) error
}

// newKeeper begins to keep the State in the file of the launcher before this one, or else in one
// that it makes at path. Without either, path being "", it is not kept. Nor are descriptors
// without a store, whatever the launcher before this one had in one.
func newKeeper(c *config.Config, baton, path string, before *Inheritance, given *given, events *control.Feed, to store, log *slog.Logger) *keeper {
	k := &keeper{events: events, given: given, store: to, log: log, path: path, stored: make(map[string]bool), file: before.record}
	k.state = State{Version: stateVersion, Baton: baton, Name: c.Name, Boot: process.Boot(), Control: path != ""}
	k.state.Writer, _, _ = process.MarkOf(os.Getpid()) // where it cannot be told, whoever reads it asks for less
	if to != nil {
		for _, name := range before.names() {
			k.stored[name] = true
		}
	}
	var err error
	if k.state.Config, err = json.Marshal((*kept)(c)); err == nil && k.file == nil && path != "" {
		k.file, err = openState(path)
	}
	if err != nil {
		k.complain(err)
		return k
	}
	if k.file == nil {
		return k
	}
	k.record = keep.NewRecord(k.file)
	if to != nil && !k.stored[stateName] {
		k.put(stateName, fdOf(k.file))
	}
	return k
}

// stateName is the name of the State's file in the store.
const stateName = "state"

// openState makes the file anew: what is left of another launcher was read by now. It
// holds what the environment does.
func openState(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
}

// fdOf is the number of an open file, without a change to it.
func fdOf(f *os.File) int {
	number := -1 // it is closed
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { number = int(fd) }) // likewise
	}
	return number
}

// keep is handoff.Options.Keep. New descriptors are stored before the State that names
// them, and others forgotten behind it.
func (k *keeper) keep(st handoff.State, f *keep.Files) {
	if k.file == nil {
		return
	}
	if k.store != nil {
		f.Each(func(name string, fd int) {
			if !k.stored[name] {
				k.put(name, fd)
			}
		})
	}
	k.write(st)
	for name := range k.stored {
		if name != stateName && !f.Has(name) {
			delete(k.stored, name)
			if err := k.store.Forget(storePrefix + name); err != nil {
				k.complain(err)
			}
		}
	}
}

func (k *keeper) put(name string, fd int) {
	k.stored[name] = true
	if err := k.store.Store(storePrefix+name, fd); err != nil {
		k.complain(err)
	}
}

func (k *keeper) write(st handoff.State) {
	k.state.Engine, k.state.Events = st, k.events.Last(keptEvents)
	text, err := json.Marshal(&k.state)
	if err == nil && bytes.Equal(text, k.last) {
		return
	}
	if err == nil {
		err = k.record.Write(text)
	}
	if err != nil {
		// No state is better than one of before: who goes on by that ends who serves now.
		k.last = nil
		k.complain(errors.Join(err, k.file.Truncate(0)))
		return
	}
	k.last = append(k.last[:0], text...)
}

// complain says once that a killed launcher's successor would not know.
func (k *keeper) complain(err error) {
	if !k.said {
		k.said = true
		k.log.Warn("what is needed to go on after a kill is not kept: " + err.Error())
	}
}

// whole is the State for the program that this process becomes: with all events, and the
// signals that were told and not acted on. The file that it is written to goes along.
func (k *keeper) whole(st handoff.State, f *keep.Files, caught []process.Caught) ([]byte, error) {
	s := k.state
	s.Engine, s.Events, s.Caught = st, k.events.Last(1<<20), caught
	s.Stored, s.Given = slices.Sorted(maps.Keys(k.stored)), k.given.keep(f)
	if k.file != nil {
		f.Put(stateName, fdOf(k.file))
	}
	return json.Marshal(&s)
}

// close takes the file away: nothing is left to go on with.
func (k *keeper) close() {
	if k.file == nil {
		return
	}
	err := k.file.Close() // of what was written nothing is needed any more
	if there := os.Remove(k.path); there != nil && !errors.Is(there, fs.ErrNotExist) {
		err = errors.Join(err, there)
	}
	if err != nil {
		k.log.Warn("the file of the state is left behind: " + err.Error())
	}
	if k.store != nil {
		for name := range k.stored {
			_ = k.store.Forget(storePrefix + name) // the manager forgets all when the unit has ended
		}
	}
}

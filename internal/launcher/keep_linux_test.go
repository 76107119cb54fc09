package launcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/event"
	"baton/internal/keep"
)

// The configuration that a State holds is the same field by field, whatever it has.
func TestAConfigurationGoesThroughAStateWhole(t *testing.T) {
	files, err := filepath.Glob("../../testdata/config/valid/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal(err, " no files")
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := config.Parse(string(text), path, config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		all := []*config.Config{plain}
		for _, profile := range plain.Profiles {
			c, err := config.Parse(string(text), path, config.Options{Profile: profile})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		for _, c := range all {
			told, err := json.Marshal((*kept)(c))
			if err != nil {
				t.Fatal(err)
			}
			again, err := originOf(told)
			if err != nil {
				t.Fatal(err)
			}
			if got := (*config.Config)(again.(*kept)); !reflect.DeepEqual(got, c) {
				t.Errorf("%s %s: became\n%+v\nwas\n%+v", path, c.Profile, got, c)
			}
		}
	}
	if _, err := originOf(json.RawMessage("[]")); err == nil || !strings.HasPrefix(err.Error(), "configuration: ") {
		t.Errorf("of a list: %v", err)
	}
}

func TestFormsOfAState(t *testing.T) {
	version, oldest := stateVersion, oldestState
	defer func() { stateVersion, oldestState = version, oldest }()
	stateVersion, oldestState = "10", "9"
	for text, words := range map[string]string{
		`{"version":"10","baton":"1.2"}`:            "",
		`{"version":"9","baton":"1.1"}`:             "",
		`{"version":"8","baton":"1.0"}`:             `state: of form "8", which 1.0 wrote; this baton goes on with form 9 and later`,
		`{"version":"11","baton":"1.3"}`:            "state: of form 11, which 1.3 wrote; this baton is older, and goes on with form 10 and earlier",
		`{"version":"100","engine":7}`:              "state: of form 100, which  wrote; this baton is older, and goes on with form 10 and earlier",
		`{}`:                                        `state: of form "", which  wrote; this baton goes on with form 9 and later`,
		`{"version":"10","engine":7}`:               "state: json: cannot unmarshal number into Go struct field State.engine of type handoff.State",
		`{"version":10}`:                            "state: json: cannot unmarshal number into Go struct field .version of type string",
		`{"version":"10","of a later one":{"a":1}}`: "", // what it does not know it leaves
		``: "state: unexpected end of JSON input",
	} {
		_, err := decode([]byte(text))
		if got := fmt.Sprint(err); words == "" && err != nil || words != "" && got != words {
			t.Errorf("%s: got %q, want %q", text, got, words)
		}
	}
}

// fds is a store that notes what it is told, and holds duplicates as systemd does. It
// fails with err, if there is one.
type fds struct {
	t     *testing.T
	order []string
	held  map[string]int
	err   error
	look  func() // called first
}

func (s *fds) Store(name string, all ...int) error {
	s.look()
	s.order = append(s.order, "+"+name)
	if s.err != nil {
		return s.err
	}
	own, err := syscall.Dup(all[0])
	if err != nil || len(all) != 1 {
		s.t.Fatal(all, err)
	}
	s.held[name] = own
	return nil
}

func (s *fds) Forget(name string) error {
	s.look()
	s.order = append(s.order, "-"+name)
	if fd, ok := s.held[name]; ok {
		delete(s.held, name)
		return syscall.Close(fd)
	}
	return s.err
}

func (s *fds) told() (all []string) {
	all, s.order = s.order, nil
	return all
}

func newStore(t *testing.T) *fds {
	s := &fds{t: t, held: make(map[string]int), look: func() {}}
	t.Cleanup(func() {
		for _, fd := range s.held {
			_ = syscall.Close(fd) // only held
		}
	})
	return s
}

// pen is a keeper with all that it needs.
type pen struct {
	*keeper
	path string
	log  *bytes.Buffer
}

func newPen(t *testing.T, to store, path string, before *Inheritance) *pen {
	t.Helper()
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	if before == nil {
		before = &Inheritance{files: &keep.Files{}}
	}
	p := &pen{newKeeper(&config.Config{Name: "web"}, "1.2", path, before, &given{}, &control.Feed{}, to, log), path, &text}
	t.Cleanup(func() {
		if p.file != nil {
			_ = p.file.Close() // it may have been
		}
	})
	return p
}

// written is the State in a file.
func written(t *testing.T, path string) *State {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s, err := stateIn(file, "web")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open is a descriptor of the test's.
func open(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) }) // only named
	return fd
}

func TestDescriptorsAreStoredBeforeTheStateThatNamesThem(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(t.TempDir(), "web.state")
	p := newPen(t, s, path, nil)
	if got := s.told(); !slices.Equal(got, []string{"+baton.state"}) {
		t.Fatalf("at first %v", got)
	}
	restarts := func() int { // by the file, at the time of a call
		if w := written(t, path); w != nil {
			return w.Engine.Restarts
		}
		return -1
	}
	var at []int
	s.look = func() { at = append(at, restarts()) }
	var f keep.Files
	f.Put("l1.s0", open(t))
	f.Put("w1.pid", open(t))
	p.keep(handoff.State{Restarts: 1}, &f)
	if got := s.told(); !slices.Equal(got, []string{"+baton.l1.s0", "+baton.w1.pid"}) || !slices.Equal(at, []int{-1, -1}) || restarts() != 1 {
		t.Errorf("told %v while the file was at %v, and now at %d", got, at, restarts())
	}
	at = nil
	var next keep.Files
	next.Put("l1.s0", open(t))
	next.Put("w2.pid", open(t))
	p.keep(handoff.State{Restarts: 2}, &next)
	if got := s.told(); !slices.Equal(got, []string{"+baton.w2.pid", "-baton.w1.pid"}) || !slices.Equal(at, []int{1, 2}) {
		t.Errorf("told %v while the file was at %v", got, at)
	}
	p.keep(handoff.State{Restarts: 2}, &next)
	if got := s.told(); len(got) > 0 {
		t.Errorf("again %v", got)
	}
	s.look = func() {}
	p.close()
	got := s.told()
	slices.Sort(got)
	if !slices.Equal(got, []string{"-baton.l1.s0", "-baton.state", "-baton.w2.pid"}) || len(s.held) > 0 {
		t.Errorf("at the end %v, held %v", got, s.held)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
	if p.log.Len() > 0 {
		t.Error(p.log.String())
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestNothingIsWrittenWhenNothingHasChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.state")
	p := newPen(t, nil, path, nil)
	var f keep.Files
	p.keep(handoff.State{Restarts: 1}, &f)
	before := content(t, path)
	for range 3 {
		p.keep(handoff.State{Restarts: 1}, &f)
	}
	if !bytes.Equal(content(t, path), before) {
		t.Error("written again")
	}
	p.events.Add(event.Event{Kind: event.Ready, Message: "one more"})
	p.keep(handoff.State{Restarts: 1}, &f)
	if bytes.Equal(content(t, path), before) || written(t, path).Events[0].Message != "one more" {
		t.Error("an event is not in it")
	}
	for i := range 2 * keptEvents {
		p.events.Add(event.Event{Message: fmt.Sprint(i)})
	}
	p.keep(handoff.State{Restarts: 1}, &f)
	if got := written(t, path).Events; len(got) != keptEvents || got[keptEvents-1].Message != fmt.Sprint(2*keptEvents-1) {
		t.Errorf("%d events, the last is %+v", len(got), got[len(got)-1])
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v: it has what the environment has", info.Mode(), err)
	}
}

// A disk that is full, or a store, costs what a killed launcher's successor would know, is
// said once, and nothing else.
func TestWhatCannotBeKeptIsSaidOnce(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	s := newStore(t)
	p := newPen(t, s, filepath.Join(t.TempDir(), "web.state"), &Inheritance{files: &keep.Files{}, record: full})
	s.err = syscall.ENOSPC
	var f keep.Files
	f.Put("l1.s0", open(t))
	for i := range 3 {
		p.keep(handoff.State{Restarts: i}, &f)
	}
	said := p.log.String()
	if strings.Count(said, "\n") != 1 || !strings.Contains(said, "level=WARN") ||
		!strings.Contains(said, "what is needed to go on after a kill is not kept") || !strings.Contains(said, "no space left on device") {
		t.Errorf("said %q", said)
	}
}

// A file that somebody put where the State is to lie is not written into.
func TestTheStateIsAFileOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "web.state"), filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(other, []byte("mine"), 0o666), os.Symlink(other, path)); err != nil {
		t.Fatal(err)
	}
	p := newPen(t, nil, path, nil)
	p.keep(handoff.State{}, &keep.Files{})
	if text := content(t, other); string(text) != "mine" || written(t, path) == nil {
		t.Errorf("the other file has %q", text)
	}
	nowhere := newPen(t, nil, filepath.Join(dir, "none", "web.state"), nil)
	nowhere.keep(handoff.State{}, &keep.Files{})
	nowhere.close()
	if said := nowhere.log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "no such file or directory") {
		t.Errorf("without a directory: %q", said)
	}
}

// given makes what systemd passes to the next launcher of what lies in a store.
func (s *fds) given() *Inheritance {
	s.t.Helper()
	i := &Inheritance{files: &keep.Files{}}
	if err := i.sort(s.passed()); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		i.files.Close()
		_ = i.record.Close() // it may have been
	})
	return i
}

func TestASuccessorFindsWhatAKilledLauncherStored(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(t.TempDir(), "web.state")
	p := newPen(t, s, path, nil)
	var f keep.Files
	f.Put("l1.s0", open(t))
	p.keep(handoff.State{Restarts: 3}, &f)
	if err := p.file.Close(); err != nil { // it was killed; so is the directory
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s.told()

	i := s.given()
	if i.Upgraded() || i.state == nil || i.state.Engine.Restarts != 3 || i.state.Name != "web" || !i.files.Has("l1.s0") {
		t.Fatalf("%+v", i)
	}
	if c := i.Config(); c == nil || c.Name != "web" {
		t.Errorf("configuration %+v", c)
	}
	names := i.names()
	slices.Sort(names)
	if !slices.Equal(names, []string{"l1.s0", "state"}) {
		t.Errorf("names %v", names)
	}
	next := newPen(t, s, path, i)
	next.keep(handoff.State{Restarts: 4}, &f)
	next.keep(handoff.State{Restarts: 5}, &keep.Files{})
	if got := s.told(); !slices.Equal(got, []string{"-baton.l1.s0"}) {
		t.Errorf("what is stored was stored again: %v", got)
	}
	if w, err := stateIn(i.record, ""); err != nil || w.Engine.Restarts != 5 {
		t.Errorf("it is not written where the store has it: %+v, %v", w, err)
	}
}

// The unit may be another one by then, of whose manager there is no store.
func TestASuccessorWithoutAStoreForgetsNothingThere(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(t.TempDir(), "web.state")
	p := newPen(t, s, path, nil)
	var f keep.Files
	f.Put("l1.s0", open(t))
	p.keep(handoff.State{Restarts: 3}, &f)
	next := newPen(t, nil, path, s.given())
	next.keep(handoff.State{Restarts: 4}, &keep.Files{})
	if w := written(t, path); w.Engine.Restarts != 4 || len(next.stored) > 0 {
		t.Errorf("written %d, stored %v", w.Engine.Restarts, next.stored)
	}
}

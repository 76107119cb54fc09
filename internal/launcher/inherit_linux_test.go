package launcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"baton/handoff"
	"baton/internal/config"
	"baton/internal/control"
	"baton/internal/keep"
	"baton/internal/process"
	"baton/internal/socket"
	"baton/internal/systemd"
	"baton/internal/testkit"
)

// passed is what systemd passes of the store: duplicates, by name.
func (s *fds) passed() (given []systemd.Given) {
	s.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		fd, err := syscall.Dup(s.held[name])
		if err != nil {
			s.t.Fatal(err)
		}
		given = append(given, systemd.Given{Name: name, FD: fd})
	}
	return given
}

func TestWhatWasStoredIsToldFromWhatASocketUnitGave(t *testing.T) {
	i := &Inheritance{files: &keep.Files{}}
	if err := i.sort([]systemd.Given{{Name: "web", FD: open(t)}, {Name: "", FD: open(t)}}); err != nil {
		t.Errorf("nothing was stored: %v", err)
	}
	if len(i.given) != 2 || i.files.Len() != 0 || i.stored || i.names() != nil {
		t.Errorf("%+v", i)
	}
	twice := []systemd.Given{{Name: "baton.l1.s0", FD: open(t)}, {Name: "baton.l1.s0", FD: open(t)}, {Name: "web", FD: open(t)}}
	err := i.sort(twice)
	const want = `what a killed launcher left in systemd's store cannot be used: descriptor "state": it was not kept`
	if err == nil || err.Error() != want {
		t.Errorf("without a state: %v", err)
	}
	if !i.files.Has("l1.s0") || !i.stored {
		t.Errorf("%+v", i)
	}
	empty, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	s := newStore(t)
	if err := s.Store("baton.state", fdOf(empty)); err != nil {
		t.Fatal(err)
	}
	i = &Inheritance{files: &keep.Files{}}
	if err := i.sort(s.passed()); err == nil || !strings.HasSuffix(err.Error(), "it is empty, or older than the machine's start") {
		t.Errorf("an empty state: %v", err)
	}
	if err := i.record.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhichConfigurationASuccessorBeginsWith(t *testing.T) {
	text, err := json.Marshal((*kept)(&config.Config{Name: "before"}))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("line 3: what is this?")
	good := func() (*config.Config, error) { return &config.Config{Name: "now"}, nil }
	bad := func() (*config.Config, error) { return nil, broken }
	for name, c := range map[string]struct {
		before  *Inheritance
		load    func() (*config.Config, error)
		want    string // its name; "": an error
		trouble bool
	}{
		"nobody's":                            {&Inheritance{}, good, "now", false},
		"nobody's, broken":                    {&Inheritance{}, bad, "", false},
		"the same process":                    {&Inheritance{state: &State{Config: text}, upgraded: true}, bad, "before", false},
		"a killed one's":                      {&Inheritance{state: &State{Config: text}}, good, "now", false},
		"a killed one's, broken":              {&Inheritance{state: &State{Config: text}}, bad, "before", true},
		"one that cannot be read, and broken": {&Inheritance{state: &State{Config: json.RawMessage("[]")}, upgraded: true}, bad, "", false},
	} {
		got, err := c.before.First(c.load)
		if (err == nil) != (c.want != "") || err == nil && got.Name != c.want || err != nil && !errors.Is(err, broken) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if (c.before.trouble != nil) != c.trouble || c.trouble && !errors.Is(c.before.trouble, broken) {
			t.Errorf("%s: trouble %v", name, c.before.trouble)
		}
	}
}

// left is what a launcher of the name web leaves that is killed: a State with a worker, a
// process of its own that has the socket.
func left(t *testing.T, c *control.Claim, name string, differ func(*State)) (worker *exec.Cmd, inode uint64) {
	t.Helper()
	l, err := socket.Listen(t.Context(), socket.Address{Network: "tcp", Host: "127.0.0.1"}, socket.Options{Name: "web", UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Reserve(0); err != nil {
		t.Fatal(err)
	}
	var f keep.Files
	st := State{Version: stateVersion, Name: name, Boot: process.Boot()}
	st.Engine.Listeners = []handoff.ListenerState{{Key: "tcp://127.0.0.1:0", Name: "l1", Socket: l.Keep("l1", &f)}}
	fd, err1 := l.FD(0)
	inode, err2 := l.Inode(0)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	own, err := syscall.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(own), "slot")
	worker = exec.Command("sleep", "600")
	worker.ExtraFiles = []*os.File{file}
	worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := errors.Join(worker.Start(), file.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = worker.Process.Kill() // it may have ended
		_ = worker.Wait()
	})
	mark, _, err := process.MarkOf(worker.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	st.Engine.Workers = []handoff.WorkerState{{ID: 1, Running: true, Process: process.ProcessState{PID: mark.PID, Start: mark.Start}}}
	differ(&st)
	text, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	state, err := openState(c.Beside(stateSuffix))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(keep.NewRecord(state).Write(text), state.Close()); err != nil {
		t.Fatal(err)
	}
	return worker, inode
}

// Without a service manager the sockets are fetched from the workers that have them.
func TestWhatAKilledLauncherLeftIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		name   string
		differ func(*State)
		ended  bool // the worker is gone
		found  bool
		says   string // in the log; "": nothing
	}{
		"its worker's":          {"web", func(*State) {}, false, true, ""},
		"nobody's any more":     {"web", func(*State) {}, true, false, ""},
		"another application's": {"api", func(*State) {}, false, false, "it is of api"},
		"of another start":      {"web", func(s *State) { s.Boot = "1" }, false, false, ""},
		"another one's number":  {"web", func(s *State) { s.Engine.Workers[0].Process.Start++ }, false, false, ""},
		"of a later form":       {"web", func(s *State) { s.Version = "999" }, false, false, "of form 999"},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Leaks(t)
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			claim, err := control.Take(dir, "web")
			if err != nil {
				t.Fatal(err)
			}
			defer claim.Close()
			worker, inode := left(t, claim, c.name, c.differ)
			if c.ended {
				if err := worker.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = worker.Wait() // it was killed
			}
			var text bytes.Buffer
			log := slog.New(slog.NewTextHandler(&text, nil))
			i := &Inheritance{files: &keep.Files{}}
			i.find(claim, "web", log)
			defer i.files.Close()
			if found := i.state != nil; found != c.found || found != (i.files.Len() > 0) || len(i.living()) > 0 != found {
				t.Fatalf("found %v, with %d descriptors", found, i.files.Len())
			}
			if got := text.String(); (got != "") != (c.says != "") || !strings.Contains(got, c.says) {
				t.Errorf("said %q, want %q", got, c.says)
			}
			// Nor is it forgotten who must be ended where the list of workers was not kept.
			if known, err := Left(dir, "web"); err != nil || len(known) > 0 != c.found {
				t.Errorf("left are %v, %v", known, err)
			}
			if !c.found {
				return
			}
			fd := -1
			i.files.Each(func(_ string, n int) { fd = n })
			var st syscall.Stat_t
			if err := syscall.Fstat(fd, &st); err != nil || st.Ino != inode {
				t.Errorf("it is socket %d, want %d (%v)", st.Ino, inode, err)
			}
			if i.stored || i.names() != nil {
				t.Error("it is said to be in a store")
			}
		})
	}
}

// A supervisor is made of what fits together; else what is left is ended, and it begins anew.
func TestWhatDoesNotFitTogetherIsEnded(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	i := &Inheritance{files: &keep.Files{}, state: &State{}}
	i.state.Engine.Workers = []handoff.WorkerState{{ID: 1, Gen: 7}}
	fd, err := syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	i.files.Put("l1.s0", fd)
	ended := false
	s := i.supervisor(handoff.Options{Log: log, Load: func() (*handoff.Plan, error) { return nil, context.Canceled }}, &control.Feed{}, func() { ended = true })
	if s == nil || !ended || i.state != nil || i.files.Len() > 0 {
		t.Errorf("%v, ended %v, %+v", s, ended, i)
	}
	if !strings.Contains(text.String(), "level=ERROR") || !strings.Contains(text.String(), "worker 1: its generation, 7, is not there") {
		t.Errorf("said %q", text.String())
	}
}

// Whom a launcher has taken over is in its list of workers from the beginning.
func TestTheListOfWorkersHasThoseThatWereTakenOver(t *testing.T) {
	testkit.Leaks(t)
	home := t.TempDir()
	over := exec.Command("sleep", "600")
	over.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := over.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = over.Process.Kill() // it may have ended
		_ = over.Wait()
	}()
	mark, _, err := process.MarkOf(over.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	c := newCrew(filepath.Join(home, "web"+crewSuffix), []process.Mark{mark}, slog.New(slog.DiscardHandler))
	defer c.close()
	next := exec.Command("sleep", "600")
	next.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := next.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = next.Process.Kill() // likewise
		_ = next.Wait()
	}()
	c.list(next.Process.Pid) // and it is
	if left, err := Left(home, "web"); err != nil || len(left) != 2 {
		t.Errorf("listed: %v, %v", left, err)
	}
	by := Ending{Spared: []process.Mark{mark}}
	if left, err := by.left(home, "web"); err != nil || len(left) != 1 || left[0].PID != next.Process.Pid {
		t.Errorf("to be ended: %v, %v", left, err)
	}
}

// What was told and not acted on goes to the program that this process becomes.
func TestSignalsWaitUntilTheyWereActedOn(t *testing.T) {
	s := newSignals()
	hup, term := process.Caught{Signal: syscall.SIGHUP, PID: 7}, process.Caught{Signal: syscall.SIGTERM, PID: 8}
	s.take(hup)
	s.take(term)
	if got := s.waits(); !slices.Equal(got, []process.Caught{hup, term}) {
		t.Errorf("at first %v", got)
	}
	if c, ok := s.next(); !ok || c != hup {
		t.Fatalf("next is %v, %v", c, ok)
	}
	if got := s.waits(); !slices.Equal(got, []process.Caught{hup, term}) {
		t.Errorf("while the first is acted on %v", got)
	}
	s.acted()
	if got := s.waits(); !slices.Equal(got, []process.Caught{term}) {
		t.Errorf("behind it %v", got)
	}
	next := newSignals()
	text, err := json.Marshal(State{Caught: s.waits()})
	if err != nil {
		t.Fatal(err)
	}
	state := &State{}
	if err := json.Unmarshal(text, state); err != nil {
		t.Fatal(err)
	}
	(&Inheritance{state: state}).resend(next) // of another process: they were that one's
	if got := next.waits(); len(got) > 0 {
		t.Errorf("a killed launcher's: %v", got)
	}
	(&Inheritance{state: state, upgraded: true}).resend(next)
	if got := next.waits(); !slices.Equal(got, []process.Caught{term}) {
		t.Errorf("the same process's: %v", got)
	}
}

// A list that could not be written is tried again, though nobody is started any more, and
// what kept it from that is said once.
func TestTheListOfWorkersIsTriedAgain(t *testing.T) {
	testkit.Leaks(t)
	home := filepath.Join(t.TempDir(), "run") // not there yet
	worker := exec.Command("sleep", "600")
	worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 10)
	c := newCrew(filepath.Join(home, "web"+crewSuffix), nil, slog.New(slog.NewTextHandler(lines(said), nil)))
	defer c.close()
	defer func() {
		_ = worker.Process.Kill() // it may have ended
		_ = worker.Wait()
	}()
	c.list(worker.Process.Pid)
	if text := <-said; !strings.Contains(text, "the list of workers is not kept") {
		t.Errorf("said %q", text)
	}
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool {
		left, err := Left(home, "web")
		return err == nil && len(left) == 1 && left[0].PID == worker.Process.Pid
	}, "it to be listed")
	if len(said) > 0 {
		t.Errorf("said %q besides", <-said)
	}
}

// lines passes on what is written, a line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) { l <- string(b); return len(b), nil }

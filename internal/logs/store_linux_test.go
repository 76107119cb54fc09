package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"baton/internal/testkit"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// leaks fails the test for goroutines that are there after its cleanup.
func leaks(t *testing.T) { t.Cleanup(func() { goleak.VerifyNone(t) }) }

// troubles is what a store complains of.
type troubles struct {
	mu  sync.Mutex
	all []string
}

func (t *troubles) add(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, err.Error())
}

func (t *troubles) list() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.all...)
}

func openStore(t *testing.T, o StoreOptions) (*Store, *troubles) {
	t.Helper()
	said := &troubles{}
	o.Trouble = said.add
	if o.MaxSize == 0 {
		o.MaxSize = 1 << 20
	}
	o.Keep = max(o.Keep, 1)
	s, err := OpenStore(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, said
}

// say puts numbered lines, as a worker would write them.
func say(s *Store, from, n int) {
	for i := from; i < from+n; i++ {
		s.begin()
		s.put([]byte(`","s":"out","g":1,"w":0,"pid":1,"l":"`), []byte("line "+strconv.Itoa(i)), false)
		s.finish()
	}
}

// settled waits until all that was put is in the files.
func settled(t *testing.T, s *Store) {
	t.Helper()
	if err := s.do(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func anything(dir string) Query {
	return Query{Sources: func() ([]Source, error) { return []Source{{"web", dir}}, nil }, Lines: -1, Worker: -1}
}

// texts is what a store holds, in order.
func texts(t *testing.T, q Query) (all []string) {
	t.Helper()
	err := Read(t.Context(), q, func(r *Record) error {
		all = append(all, string(r.Text))
		return nil
	}, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func size(t *testing.T, dir string) (total int64, names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
		names = append(names, e.Name())
	}
	return total, names
}

func TestAStoreNeverTakesMoreThanItMay(t *testing.T) {
	leaks(t)
	dir := filepath.Join(t.TempDir(), "a", "web")
	s, said := openStore(t, StoreOptions{Directory: dir, MaxSize: 64 << 10, Keep: 3})
	for i := range 50 {
		say(s, i*1000, 1000)
		settled(t, s)
		if total, names := size(t, dir); total > 3*64<<10 || len(names) > 3 {
			t.Fatalf("%d bytes in %v", total, names)
		}
	}
	total, names := size(t, dir)
	if len(names) != 3 || total < 2*60<<10 {
		t.Errorf("%d bytes in %v: too little is kept", total, names)
	}
	all := texts(t, anything(dir))
	first, _ := strconv.Atoi(strings.TrimPrefix(all[0], "line "))
	for i, text := range all {
		if want := fmt.Sprint("line ", first+i); text != want {
			t.Fatalf("%q, want %q", text, want)
		}
	}
	if first+len(all) != 50_000 {
		t.Errorf("the last is %s", all[len(all)-1])
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(dir, current)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if all := said.list(); len(all) > 0 {
		t.Error(all)
	}
	s.Close()
}

func TestLinesThatAreTooOldGo(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir, Keep: 4, MaxAge: time.Hour})
	say(s, 0, 1)
	err := s.do(func() error {
		s.first = time.Now().Add(-16 * time.Minute)
		s.tend(time.Now())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	files, err := list(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("a quarter of the age has passed: %v, %v", files, err)
	}
	say(s, 1, 1)
	settled(t, s)
	if got := texts(t, anything(dir)); len(got) != 2 {
		t.Errorf("%q", got)
	}
	if err := s.do(func() error { s.prune(time.Now().Add(time.Hour)); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, anything(dir)); len(got) != 1 || got[0] != "line 1" {
		t.Errorf("%q is kept", got)
	}
	s.Close()
}

func TestRotatedFilesAreCompressed(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, said := openStore(t, StoreOptions{Directory: dir, MaxSize: 64 << 10, Keep: 5, Compress: true})
	for i := range 3 {
		say(s, i*1000, 1000)
		settled(t, s)
	}
	before := texts(t, anything(dir))
	if err := s.do(func() error { s.packAt = time.Now(); s.tend(time.Now()); return nil }); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool {
		files, err := list(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !f.gz {
				return false
			}
		}
		return !s.packing.Load()
	}, "all to be compressed")
	if got := texts(t, anything(dir)); strings.Join(got, "\n") != strings.Join(before, "\n") {
		t.Errorf("%d lines, %d before", len(got), len(before))
	}
	if _, names := size(t, dir); len(names) > 5 || strings.Contains(strings.Join(names, " "), unfinished) {
		t.Errorf("%v", names)
	}
	if all := said.list(); len(all) > 0 {
		t.Error(all)
	}
	s.Close()
}

// What moves or empties the file, as logrotate does it or a hand.
func TestSomebodyElseRotates(t *testing.T) {
	leaks(t)
	for name, rotate := range map[string]func(t *testing.T, s *Store, path string){
		"moved and told": func(t *testing.T, s *Store, path string) {
			if err := errors.Join(os.Rename(path, path+".1"), s.Reopen()); err != nil {
				t.Fatal(err)
			}
		},
		"moved, made and told": func(t *testing.T, s *Store, path string) {
			if err := errors.Join(os.Rename(path, path+".1"), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			s.ReopenSoon()
			testkit.Wait(t, func() bool { return !s.again.Load() }, "it to be opened again")
			settled(t, s)
		},
		"copied and emptied": func(t *testing.T, _ *Store, path string) {
			text, err := os.ReadFile(path)
			if err := errors.Join(err, os.WriteFile(path+".1", text, 0o600), os.Truncate(path, 0)); err != nil {
				t.Fatal(err)
			}
		},
		"removed": func(t *testing.T, _ *Store, path string) {
			text, err := os.ReadFile(path)
			if err := errors.Join(err, os.WriteFile(path+".1", text, 0o600), os.Remove(path)); err != nil {
				t.Fatal(err)
			}
		},
		"the folder is gone": func(t *testing.T, _ *Store, path string) {
			text, err := os.ReadFile(path)
			if err := errors.Join(err, os.RemoveAll(filepath.Dir(path)), os.Mkdir(filepath.Dir(path), 0o700),
				os.WriteFile(path+".1", text, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "web")
			path := filepath.Join(dir, current)
			s, said := openStore(t, StoreOptions{Directory: dir})
			shown := follow(t, anything(dir))
			say(s, 0, 3)
			settled(t, s)
			shown.await(t, 3)
			rotate(t, s, path)
			say(s, 3, 2)
			settled(t, s)
			if got := texts(t, anything(dir)); strings.Join(got, ",") != "line 3,line 4" {
				t.Errorf("the file holds %q", got)
			}
			old, err := os.ReadFile(path + ".1")
			if err != nil || bytes.Count(old, []byte{'\n'}) != 3 {
				t.Errorf("the other holds %q, %v", old, err)
			}
			shown.await(t, 5)
			if got := strings.Join(shown.list(), ","); got != "line 0,line 1,line 2,line 3,line 4" {
				t.Errorf("followed: %s", got)
			}
			if all := said.list(); len(all) > 0 {
				t.Error(all)
			}
			s.Close()
		})
	}
}

func TestFlushEmpties(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir, MaxSize: 64 << 10, Keep: 5})
	shown := follow(t, anything(dir))
	say(s, 0, 2000)
	shown.await(t, 2000)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if total, names := size(t, dir); total != 0 || len(names) != 1 {
		t.Errorf("%d bytes in %v", total, names)
	}
	say(s, 2000, 10)
	shown.await(t, 2010)
	if got := texts(t, anything(dir)); len(got) != 10 || got[0] != "line 2000" {
		t.Errorf("%q", got)
	}
	if got := shown.list(); got[2009] != "line 2009" || len(got) != 2010 {
		t.Errorf("%d lines, the last %s", len(got), got[len(got)-1])
	}
	s.Close()
}

// A launcher that was killed in the middle of a write leaves half a record.
func TestHalfARecordIsCountedAndGone(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir})
	say(s, 0, 3)
	s.Close()
	path := filepath.Join(dir, current)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"t":"2026-11-29T14:00:00.123456789Z","s":"out","l":"ha`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got := texts(t, anything(dir)); len(got) != 3 {
		t.Errorf("%q", got)
	}
	s, _ = openStore(t, StoreOptions{Directory: dir})
	say(s, 3, 1)
	s.Close()
	got := texts(t, anything(dir))
	if len(got) != 5 || got[3] != "1 line dropped: "+errTorn.Error() || got[4] != "line 3" {
		t.Errorf("%q", got)
	}
	e := func() end {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		e, err := ending(f)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}()
	if e.number != 6 || e.torn || e.first.IsZero() {
		t.Errorf("%+v", e)
	}
}

// Who writes to a disk that takes nothing waits for a while, and then lines are dropped,
// counted, and said in their place.
func TestADiskThatTakesNothingHoldsUpNobodyForLong(t *testing.T) {
	leaks(t)
	s, _ := openStore(t, StoreOptions{Directory: t.TempDir(), MaxSize: 1 << 30})
	r, w, err := os.Pipe() // nobody reads from it at first
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.do(func() error { s.shut(); s.f = w; return nil }); err != nil {
		t.Fatal(err)
	}
	const lines = 60_000 // more than both buffers hold
	began := time.Now()
	say(s, 0, lines)
	took := time.Since(began)
	if took < stallTime || took > stallTime+30*time.Second {
		t.Errorf("it took %v", took)
	}
	var written bytes.Buffer
	done := make(chan struct{})
	go func() { // ends with the write end
		defer close(done)
		_, _ = written.ReadFrom(r)
	}()
	settled(t, s)
	say(s, lines, 1)
	s.Close()
	<-done
	next, dropped := 0, int64(0)
	for line := range bytes.Lines(written.Bytes()) {
		var r Record
		if !r.parse(bytes.TrimSuffix(line, []byte{'\n'})) {
			t.Fatalf("%q", line)
		}
		if r.Dropped > 0 {
			if want := errSlow.Error(); !strings.Contains(string(r.Text), want) {
				t.Errorf("%q does not say %q", r.Text, want)
			}
			dropped += r.Dropped
			next += int(r.Dropped)
			continue
		}
		if want := "line " + strconv.Itoa(next); string(r.Text) != want {
			t.Fatalf("%q, want %q", r.Text, want)
		}
		next++
	}
	if next != lines+1 || dropped == 0 {
		t.Errorf("%d lines, %d of them dropped", next, dropped)
	}
}

// tiny mounts a file system of so many bytes.
func tiny(t *testing.T, size int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAFullDiskCostsLinesThatAreCounted(t *testing.T) {
	leaks(t)
	dir := tiny(t, 256<<10)
	s, said := openStore(t, StoreOptions{Directory: filepath.Join(dir, "web"), MaxSize: 64 << 20, Keep: 2})
	const before = 10_000
	say(s, 0, before)
	settled(t, s)
	if all := said.list(); len(all) != 1 || !strings.Contains(all[0], "no space left on device") {
		t.Errorf("said: %q", all)
	}
	path := filepath.Join(dir, "web", current)
	text, err := os.ReadFile(path)
	if err != nil || text[len(text)-1] != '\n' {
		t.Fatalf("the file ends with %q, %v", text[max(0, len(text)-20):], err)
	}
	kept := bytes.Count(text, []byte{'\n'})
	if kept == 0 || kept > before-1000 {
		t.Fatalf("%d lines are kept", kept)
	}
	if err := os.Truncate(path, 0); err != nil { // as logrotate's copytruncate makes room
		t.Fatal(err)
	}
	// Nobody has to say something for it to be told.
	testkit.Wait(t, func() bool { return len(texts(t, anything(filepath.Join(dir, "web")))) > 0 }, "what was dropped to be said")
	say(s, before, 10)
	s.Close()
	got := texts(t, anything(filepath.Join(dir, "web")))
	if want := fmt.Sprintf("%d lines dropped: write %s: no space left on device", before-kept, path); len(got) != 11 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got[1] != "line 10000" || got[10] != "line 10009" {
		t.Errorf("%q", got)
	}
}

func TestAFolderThatCannotBeUsedIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(fifo, current), 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		filepath.Join(file, "web"): "not a directory",
		fifo:                       "is no regular file",
	} {
		_, err := OpenStore(StoreOptions{Directory: dir, MaxSize: 1 << 20, Keep: 1})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Dir(dir)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// shown is what a follower has shown so far.
type shown struct {
	mu  sync.Mutex
	all []string
}

func (s *shown) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.all...)
}

func (s *shown) await(t *testing.T, n int) {
	t.Helper()
	testkit.Wait(t, func() bool { return len(s.list()) >= n }, fmt.Sprintf("%d lines to be shown", n))
}

// follow follows until the test ends.
func follow(t *testing.T, q Query) *shown {
	t.Helper()
	s := &shown{}
	q.Follow = true
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	begun := make(chan struct{})
	var once sync.Once
	go func() { // ends with the test
		done <- Read(ctx, q, func(r *Record) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.all = append(s.all, string(r.Text))
			return nil
		}, func() error { once.Do(func() { close(begun) }); return nil })
	}()
	<-begun
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

package logs

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"baton/internal/testkit"
)

// written is a store whose lines are these, "stream generation worker text", a second
// apart, from begun on; "--" rotates, "-z" rotates and compresses.
func written(t *testing.T, dir string, begun time.Time, lines ...string) Source {
	t.Helper()
	s, _ := openStore(t, StoreOptions{Directory: dir, MaxSize: 1 << 30, Keep: 100, Compress: true})
	at := begun
	for _, l := range lines {
		if l == "--" || l == "-z" {
			err := s.do(func() error {
				err := s.rotate()
				if err == nil && l == "-z" {
					s.pack()
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			testkit.Wait(t, func() bool { return !s.packing.Load() }, "it to be compressed")
			continue
		}
		f := strings.SplitN(l, " ", 4)
		s.mu.Lock()
		s.stamp = stamp(at)
		if f[0] == Baton {
			s.buf = appendOwn(s.buf, s.stamp, 0, 1, strings.Trim(f[1], "-"), f[3], 0)
		} else {
			s.put([]byte(`","s":"`+f[0]+`","g":`+f[1]+`,"w":`+f[2]+`,"pid":9,"l":"`), []byte(f[3]), false)
		}
		s.finish()
		settled(t, s)
		at = at.Add(time.Second)
	}
	s.Close()
	return Source{filepath.Base(dir), dir}
}

func TestReadingGivesWhatIsAskedFor(t *testing.T) {
	leaks(t)
	begun := time.Date(2026, 11, 29, 14, 0, 0, 0, time.UTC)
	web := written(t, filepath.Join(t.TempDir(), "web"), begun,
		"out 1 0 a", "err 1 1 b", "-z", "baton warn - c", "out 1 0 d", "--", "out 2 0 e", "baton - - f", "err 2 1 g")
	for name, c := range map[string]struct {
		change func(*Query)
		want   string
	}{
		"all":                   {func(*Query) {}, "a b c d e f g"},
		"the last ones":         {func(q *Query) { q.Lines = 2 }, "f g"},
		"across a file":         {func(q *Query) { q.Lines = 4 }, "d e f g"},
		"across a compressed":   {func(q *Query) { q.Lines = 6 }, "b c d e f g"},
		"more than there are":   {func(q *Query) { q.Lines = 60 }, "a b c d e f g"},
		"none":                  {func(q *Query) { q.Lines = 0 }, ""},
		"since":                 {func(q *Query) { q.Since = begun.Add(3 * time.Second) }, "d e f g"},
		"the last since":        {func(q *Query) { q.Since, q.Lines = begun.Add(4*time.Second), 5 }, "e f g"},
		"since later":           {func(q *Query) { q.Since = begun.Add(time.Hour) }, ""},
		"errors":                {func(q *Query) { q.Err = true }, "b c g"},
		"the last error":        {func(q *Query) { q.Err, q.Lines = true, 2 }, "c g"},
		"a worker":              {func(q *Query) { q.Worker = 0 }, "a d e"},
		"a generation":          {func(q *Query) { q.Generation = 1 }, "a b d"},
		"a generation's worker": {func(q *Query) { q.Generation, q.Worker, q.Lines = 1, 1, 1 }, "b"},
		"a pattern":             {func(q *Query) { q.Grep = regexp.MustCompile("^[a-c]$") }, "a b c"},
		"the last of a pattern": {func(q *Query) { q.Grep, q.Lines = regexp.MustCompile("^[a-c]$"), 2 }, "b c"},
		"a pattern of nothing":  {func(q *Query) { q.Grep, q.Lines = regexp.MustCompile("x"), 3 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			q := anything(web.Directory)
			c.change(&q)
			if got := strings.Join(texts(t, q), " "); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestSeveralStoresAreReadInTheOrderOfTime(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	begun := time.Date(2026, 11, 29, 14, 0, 0, 0, time.UTC)
	written(t, filepath.Join(dir, "web"), begun, "out 1 0 w0", "-z", "out 1 0 w1", "out 1 0 w2", "--", "out 1 0 w3")
	written(t, filepath.Join(dir, "api"), begun.Add(500*time.Millisecond), "out 1 0 a0", "out 1 0 a1", "--", "out 1 0 a2")
	written(t, filepath.Join(dir, "empty"), begun)
	q := anything("")
	q.Sources = func() ([]Source, error) { return Sources(dir) }
	if got := strings.Join(texts(t, q), " "); got != "w0 a0 w1 a1 w2 a2 w3" {
		t.Error(got)
	}
	for n, want := range map[int]string{1: "w3", 3: "w2 a2 w3", 20: "w0 a0 w1 a1 w2 a2 w3"} {
		q.Lines = n
		if got := strings.Join(texts(t, q), " "); got != want {
			t.Errorf("the last %d: %s, want %s", n, got, want)
		}
	}
}

// A store that does not exist yet is followed once it does.
func TestNewStoresAreFollowed(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	q := anything("")
	q.Sources = func() ([]Source, error) { return Sources(dir) }
	q.Lines = 0
	got := follow(t, q)
	var all []*Store
	for _, name := range []string{"web", "api"} {
		s, _ := openStore(t, StoreOptions{Directory: filepath.Join(dir, name)})
		all = append(all, s)
		say(s, len(all)*10, 2)
		got.await(t, 2*len(all))
	}
	for i := range 20 { // each in the other's turn
		say(all[i%2], 100+i, 1)
	}
	got.await(t, 24)
	list := got.list()[4:]
	if !slices.IsSortedFunc(list, strings.Compare) {
		t.Errorf("%q", list)
	}
	for _, s := range all {
		s.Close()
	}
}

// A gap that the numbers show is said, and how large it is.
func TestWhatWasRemovedUnreadIsCounted(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir, MaxSize: 1 << 20, Keep: 10})
	f, got := poller(t, dir)
	rotate := func() {
		t.Helper()
		if err := s.do(s.rotate); err != nil {
			t.Fatal(err)
		}
	}
	say(s, 0, 3)
	settled(t, s)
	f.read(t)
	say(s, 3, 1)
	rotate()
	say(s, 4, 2)
	s.mu.Lock()
	s.missed = 10
	s.mu.Unlock()
	say(s, 16, 3)
	rotate()
	say(s, 19, 2)
	settled(t, s)
	files, err := list(dir)
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	if err := os.Remove(filepath.Join(dir, files[1].file())); err != nil {
		t.Fatal(err)
	}
	f.read(t)
	s.mu.Lock()
	s.missed = 20
	s.mu.Unlock()
	say(s, 41, 1)
	rotate()
	say(s, 42, 1)
	settled(t, s)
	f.read(t)
	// What was dropped has its numbers too: nothing is missing besides.
	want := "line 0,line 1,line 2,line 3,15 lines were removed before they could be read,line 19,line 20," +
		"20 lines dropped: " + errSlow.Error() + ",line 41,line 42"
	if strings.Join(*got, ",") != want {
		t.Errorf("%q, want %q", *got, want)
	}
	s.Close()
}

// Whoever compresses, a follower that comes late reads each line once.
func TestAFollowerFindsItsFileAmongTheCompressed(t *testing.T) {
	leaks(t)
	for _, after := range []int{0, 2, 5} {
		dir := t.TempDir()
		s, _ := openStore(t, StoreOptions{Directory: dir, MaxSize: 1 << 20, Keep: 10, Compress: true})
		f := &follower{src: Source{"web", dir}, query: &Query{Worker: -1}, parts: []*part{newPart(nil)}}
		var got []string
		read := func(n int) {
			t.Helper()
			for f.all = false; !f.all && n > 0; n-- {
				if err := f.poll(1, func(r *Record) error { got = append(got, string(r.Text)); return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
		say(s, 0, 5)
		settled(t, s)
		read(after)
		for i := range 2 {
			if err := s.do(func() error { err := s.rotate(); s.pack(); return err }); err != nil {
				t.Fatal(err)
			}
			testkit.Wait(t, func() bool { return !s.packing.Load() }, "it to be compressed")
			say(s, 5+i*5, 5)
			settled(t, s)
		}
		read(100)
		for i, text := range got {
			if text != "line "+strconv.Itoa(i) {
				t.Fatalf("after %d lines: %q", after, got)
			}
		}
		if len(got) != 15 {
			t.Errorf("after %d lines: %q", after, got)
		}
		f.close()
		s.Close()
	}
}

// Half a record, and its being taken back, are not seen.
func TestAFollowerSeesWholeRecordsOnly(t *testing.T) {
	leaks(t)
	path := filepath.Join(t.TempDir(), current)
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f, got := poller(t, filepath.Dir(path))
	whole := putOne([]byte("whole"), false)
	put := func(at int64, b []byte) {
		t.Helper()
		if _, err := w.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	put(0, whole)
	f.read(t)
	put(int64(len(whole)), whole[:len(whole)-5])
	f.read(t)
	if err := w.Truncate(int64(len(whole))); err != nil {
		t.Fatal(err)
	}
	put(int64(len(whole)), putOne([]byte("other"), false))
	f.read(t)
	if strings.Join(*got, ",") != "whole,other" {
		t.Errorf("%q", *got)
	}
}

// polled is a follower that is asked by the test.
type polled struct {
	follower
	got []string
}

func poller(t *testing.T, dir string) (*polled, *[]string) {
	f := &polled{follower: follower{src: Source{"web", dir}, query: &Query{Worker: -1}, parts: []*part{newPart(nil)}}}
	t.Cleanup(f.close)
	return f, &f.got
}

func (f *polled) read(t *testing.T) {
	t.Helper()
	for done := false; !done; done = f.all {
		if err := f.poll(1000, func(r *Record) error { f.got = append(f.got, string(r.Text)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that is emptied and written to between two looks is read from its beginning,
// also when it was empty at the look before.
func TestAFollowerSeesThatAFileWasEmptied(t *testing.T) {
	leaks(t)
	for _, looked := range []bool{false, true} {
		dir := t.TempDir()
		s, _ := openStore(t, StoreOptions{Directory: dir})
		f, got := poller(t, dir)
		f.read(t)
		say(s, 0, 3)
		settled(t, s)
		f.read(t)
		if looked {
			f.read(t)
		}
		if err := os.Truncate(filepath.Join(dir, current), 0); err != nil {
			t.Fatal(err)
		}
		say(s, 3, 2)
		settled(t, s)
		f.read(t)
		say(s, 5, 20) // more than there was
		settled(t, s)
		f.read(t)
		if len(*got) != 25 || (*got)[3] != "line 3" || (*got)[24] != "line 24" {
			t.Errorf("%q", *got)
		}
		s.Close()
	}
}

// What was written between a follower's last look and the rotation is read first.
func TestAFollowerReadsAFileToItsEnd(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir, Keep: 10})
	f, got := poller(t, dir)
	say(s, 0, 2)
	settled(t, s)
	f.read(t)
	say(s, 2, 2)
	if err := s.do(s.rotate); err != nil {
		t.Fatal(err)
	}
	say(s, 4, 2)
	settled(t, s)
	// As if it had come to the end just before the two lines were written.
	if more, err := f.turn(f.parts[0]); !more || err != nil {
		t.Errorf("%v, %v", more, err)
	}
	f.read(t)
	if strings.Join(*got, ",") != "line 0,line 1,line 2,line 3,line 4,line 5" {
		t.Errorf("%q", *got)
	}
	s.Close()
}

// Following goes on where what was shown ends.
func TestFollowingRepeatsNothing(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir, Keep: 10})
	say(s, 0, 5)
	if err := s.do(s.rotate); err != nil {
		t.Fatal(err)
	}
	say(s, 5, 5)
	settled(t, s)
	had := 10
	for _, lines := range []int{-1, 7, 0} {
		q := anything(dir)
		q.Lines = lines
		got := follow(t, q)
		say(s, had, 1)
		had++
		settled(t, s)
		want := texts(t, anything(dir))
		if lines >= 0 {
			want = want[had-1-lines:]
		}
		got.await(t, len(want))
		if all := got.list(); strings.Join(all, ",") != strings.Join(want, ",") {
			t.Errorf("%d lines: %q, want %q", lines, all, want)
		}
	}
	s.Close()
}

// A damaged file costs what is damaged, and is said.
func TestADamagedFileIsSaid(t *testing.T) {
	leaks(t)
	dir := filepath.Join(t.TempDir(), "web")
	written(t, dir, time.Now(), "out 1 0 a", "-z", "out 1 0 b")
	files, err := list(dir)
	if err != nil || len(files) != 1 || !files[0].gz {
		t.Fatal(files, err)
	}
	path := filepath.Join(dir, files[0].file())
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-9], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, lines := range []int{-1, 10} {
		q := anything(dir)
		q.Lines = lines
		got := strings.Join(texts(t, q), "|")
		if !strings.Contains(got, "not all can be read of "+path+": unexpected EOF") || !strings.HasSuffix(got, "|b") {
			t.Errorf("%d lines: %q", lines, got)
		}
	}
}

// The last lines of a large store are found without reading all of it.
func TestTheLastLinesAreFoundFromTheEnd(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir, MaxSize: 1 << 30})
	long := bytes.Repeat([]byte("x"), maxLine)
	for i := range 20 {
		s.begin()
		s.put([]byte(`","s":"out","l":"`), append(strconv.AppendInt(nil, int64(i), 10), long[:maxLine-10]...), false)
		s.finish()
	}
	say(s, 0, 5000)
	s.Close()
	q := anything(dir)
	for _, n := range []int{1, 15, 4999, 5000, 5001, 5010, 5020, 6000} {
		q.Lines = n
		got := texts(t, q)
		if len(got) != min(n, 5020) || got[len(got)-1] != "line 4999" {
			t.Errorf("the last %d: %d lines", n, len(got))
		}
		if n > 5000 && !strings.HasPrefix(got[0], strconv.Itoa(5020-len(got))+"x") {
			t.Errorf("the last %d begin with %.10s", n, got[0])
		}
	}
}

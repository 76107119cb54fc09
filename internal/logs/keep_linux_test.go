package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"baton/internal/keep"
	"baton/internal/testkit"
)

// handed is what the next launcher gets of an Output: its state by way of JSON, and
// duplicates of its descriptors.
func handed(t *testing.T, o *Output) (s OutputState, f *keep.Files) {
	t.Helper()
	var old keep.Files
	text, err := json.Marshal(o.Keep("w1", &old))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if f, err = old.Dup(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return s, f
}

func pause(t *testing.T, p interface{ Pause() error }) {
	t.Helper()
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
}

func TestAPassthroughGoesOnUnderTheNextLauncher(t *testing.T) {
	leaks(t)
	var out, errs sink
	p := NewPassthrough(&out, &errs)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	w := dup(t, o.Stdout())
	defer w.Close()
	e := dup(t, o.Stderr())
	defer e.Close()
	o.Started(4711)
	put(t, int(e.Fd()), "error\n")
	testkit.Wait(t, func() bool { return errs.String() == "error\n" }, "the error")
	put(t, int(w.Fd()), "first\nhalf a")
	testkit.Wait(t, func() bool { return out.String() == "first\nhalf a" }, "what was written")
	pause(t, p)
	put(t, int(w.Fd()), " line\nlast\n") // lies in the pipe
	s, f := handed(t, o)
	p.pipes.drop()
	if out.String() != "first\nhalf a" {
		t.Fatalf("the old one read on: %q", out.String())
	}

	var now, nowErrs sink
	next := NewPassthrough(&now, &nowErrs)
	again, err := next.Resume(s, "w1", f)
	if err != nil {
		t.Fatal(err)
	}
	if f.Len() != 0 || again.pid.Load() != 4711 {
		t.Errorf("%d descriptors left, pid %d", f.Len(), again.pid.Load())
	}
	testkit.Wait(t, func() bool { return now.String() == " line\nlast\n" }, "the rest")
	put(t, int(e.Fd()), "no end")
	testkit.Wait(t, func() bool { return nowErrs.String() == "no end" }, "more")
	if tail := strings.Join(again.Tail(), "|"); tail != "error|first|half a line|last|no end" {
		t.Errorf("the tail is %q", tail)
	}
	next.Close()
}

// A failed exec leaves all as it was.
func TestUnpauseGoesOn(t *testing.T) {
	leaks(t)
	var out sink
	p := NewPassthrough(&out, &out)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		pause(t, p)
		put(t, o.Stdout(), fmt.Sprint(i))
		if n := o.out.unread(); n != 1 {
			t.Errorf("%d bytes in the pipe while it is paused", n)
		}
		p.Unpause()
		testkit.Wait(t, func() bool { return strings.HasSuffix(out.String(), fmt.Sprint(i)) }, "what was written")
	}
	// Close ends also what stands still.
	pause(t, p)
	put(t, o.Stdout(), "end")
	o.Started(0)
	p.Close()
	if out.String() != "01234end" {
		t.Errorf("got %q", out.String())
	}
}

// counter writes numbered lines, as many as a shell manages in the time of a test.
func counter(t *testing.T, o *Output, lines int) (end func()) {
	t.Helper()
	out := dup(t, o.Stdout())
	cmd := exec.Command("seq", fmt.Sprint(lines))
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = out.Close() // the command has its own
	o.Started(cmd.Process.Pid)
	return func() {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func numbered(lines int) string {
	var b strings.Builder
	for i := range lines {
		fmt.Fprintln(&b, i+1)
	}
	return b.String()
}

// One who writes on while launchers follow each other loses no byte, and finds none
// twice, also when the launcher's own reader is slow.
func TestNoByteIsLostOrDoubledByLaunchersThatFollowEachOther(t *testing.T) {
	leaks(t)
	const lines = 300_000 // 2 MB
	for _, kind := range []string{"pipe", "socket"} {
		t.Run(kind, func(t *testing.T) {
			r, w := ends(t, kind)
			p := NewPassthrough(w, w)
			o, err := p.Open()
			if err != nil {
				t.Fatal(err)
			}
			wait := counter(t, o, lines)
			var got strings.Builder
			stuck, piece := 0, make([]byte, 50_000)
			for range 25 {
				n, err := io.ReadAtLeast(r, piece, 1)
				if err != nil {
					t.Fatal(err)
				}
				got.Write(piece[:n])
				pause(t, p)
				s, f := handed(t, o)
				stuck += len(s.Out.Rest)
				p.pipes.drop()
				p.stdout.close()
				p.stderr.close()
				p = NewPassthrough(w, w)
				if o, err = p.Resume(s, "w1", f); err != nil {
					t.Fatal(err)
				}
			}
			if stuck == 0 {
				t.Error("no launcher ended in the midst of a write: the test shows too little")
			}
			whole := make(chan struct{})
			go func() { // ends when all writers have closed their end
				defer close(whole)
				_, _ = io.Copy(&got, r) // what is missing is seen
			}()
			wait()
			p.Close()
			_ = w.Close() // what was written is the kernel's
			<-whole
			if got.String() != numbered(lines) {
				t.Errorf("%d bytes came through, want %d", got.Len(), len(numbered(lines)))
			}
		})
	}
}

// ends is where a launcher writes to, and its reader.
func ends(t *testing.T, kind string) (r, w *os.File) {
	t.Helper()
	if kind == "pipe" {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		return r, w
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

func TestAReaderWhoTakesNothingDoesNotHoldUpAPause(t *testing.T) {
	leaks(t)
	r, w := ends(t, "pipe")
	p := NewPassthrough(w, w)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	wait := counter(t, o, 30_000) // more than two pipes hold
	testkit.Wait(t, func() bool { return full(t, w) }, "the pipe to be full")
	// What is taken next has nowhere to go; it may not have been taken yet.
	testkit.Wait(t, func() bool {
		begun := time.Now()
		pause(t, p)
		defer p.Unpause()
		if took := time.Since(begun); took > pauseLimit/2 {
			t.Errorf("the pause took %v", took)
		}
		s, _ := handed(t, o)
		return len(s.Out.Rest) > 0
	}, "something to be under way")
	whole := make(chan string)
	go func() { // ends when all writers have closed their end
		b, _ := io.ReadAll(r) // what is missing is seen
		whole <- string(b)
	}()
	wait()
	p.Close()
	_ = w.Close() // likewise
	if <-whole != numbered(30_000) {
		t.Error("something else came through")
	}
}

func full(t *testing.T, w *os.File) bool {
	t.Helper()
	c, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := c.Control(func(fd uintptr) { n, err = unread(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	return n >= 60<<10
}

// What is no file cannot be stopped in a write: then Pause says so in time.
func TestAPauseEnds(t *testing.T) {
	leaks(t)
	out := &gate{open: make(chan struct{})}
	p := NewPassthrough(out, out)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	put(t, o.Stdout(), "stuck\n")
	testkit.Wait(t, func() bool { return o.out.unread() == 0 }, "it to be read")
	if err := p.Pause(); err == nil || !strings.Contains(err.Error(), "1 of 2 streams are stuck") {
		t.Errorf("paused: %v", err)
	}
	p.Unpause()
	close(out.open)
	o.Started(0)
	p.Close()
	if out.String() != "stuck\n" {
		t.Errorf("got %q", out.String())
	}
}

// The flags of the launcher's own output belong to others as well.
func TestTheLaunchersOutputStaysBlocking(t *testing.T) {
	for _, kind := range []string{"pipe", "socket"} {
		_, w := ends(t, kind)
		fd := int(w.Fd()) // which makes it blocking
		p := NewPassthrough(w, w)
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("%s: flags %#o, %v", kind, flags, err)
		}
		p.Close()
	}
}

func TestACaptureGoesOnUnderTheNextLauncher(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	const lines = 10_000
	store, _ := openStore(t, StoreOptions{Directory: dir, MaxSize: 64 << 20})
	c := NewCapture(store)
	o, err := c.Open(7, 2)
	if err != nil {
		t.Fatal(err)
	}
	w := dup(t, o.Stdout())
	o.Started(4711)
	partial, piece := 0, 997 // which ends no line but by chance
	for text := numbered(lines); len(text) > 0; text = text[min(piece, len(text)):] {
		put(t, int(w.Fd()), text[:min(piece, len(text))/2])
		testkit.Wait(t, func() bool { return o.out.unread() == 0 }, "it to be read")
		pause(t, c)
		put(t, int(w.Fd()), text[min(piece, len(text))/2:min(piece, len(text))])
		if err := store.Sync(); err != nil {
			t.Fatal(err)
		}
		s, f := handed(t, o)
		partial += len(s.Out.Rest)
		c.pipes.drop()
		// The store is not closed: its launcher is gone.
		store, _ = openStore(t, StoreOptions{Directory: dir, MaxSize: 64 << 20})
		c = NewCapture(store)
		if o, err = c.Resume(s, "w1", f, 7, 2); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close() // what was written is in the pipe
	c.Close()
	store.Close()
	if partial == 0 {
		t.Error("no launcher ended in the midst of a line: the test shows too little")
	}
	all := records(t, anything(dir))
	if len(all) != lines {
		t.Fatalf("%d records, want %d", len(all), lines)
	}
	for i, r := range all {
		if string(r.Text) != fmt.Sprint(i+1) || r.More || r.Generation != 7 || r.Worker != 2 || r.PID == 0 {
			t.Fatalf("record %d is %s", i, r.JSON)
		}
	}
}

// A line whose end does not come is kept as it is also by the next launcher.
func TestTheAgeOfALineIsKept(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	store, _ := openStore(t, StoreOptions{Directory: dir})
	c := NewCapture(store)
	o, err := c.Open(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := dup(t, o.Stdout())
	defer w.Close()
	o.Started(1)
	put(t, int(w.Fd()), "prompt> ")
	testkit.Wait(t, func() bool { return o.out.unread() == 0 }, "it to be read")
	pause(t, c)
	s, f := handed(t, o)
	c.pipes.drop()
	if string(s.Out.Rest) != "prompt> " || time.Since(s.Out.Since) > time.Minute {
		t.Errorf("kept %+v", s.Out)
	}
	next := NewCapture(store)
	if _, err := next.Resume(s, "w1", f, 1, 0); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool {
		all := records(t, anything(dir))
		return len(all) == 1 && brief(all[0]) == "out:prompt> +"
	}, "the line without an end")
	next.Close()
}

// A state that was taken at any moment has nothing of what is under way.
func TestAStateOfARunningOutputHasNoHalfLines(t *testing.T) {
	leaks(t)
	store, _ := openStore(t, StoreOptions{Directory: t.TempDir()})
	c := NewCapture(store)
	o, err := c.Open(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	pause(t, c) // its worker has not been started
	c.Unpause()
	put(t, o.Stdout(), "half")
	hold := dup(t, o.Stdout())
	o.Started(1)
	testkit.Wait(t, func() bool { return o.out.unread() == 0 }, "it to be read")
	if s, _ := handed(t, o); s.Out.Rest != nil || s.Out.Ended {
		t.Errorf("kept %+v", s.Out)
	}
	_ = hold.Close() // nothing was written by it
	c.Close()
	if s, f := handed(t, o); !s.Out.Ended || !s.Err.Ended || f.Len() > 0 {
		t.Errorf("kept %+v with %d descriptors", s, f.Len())
	}
}

func TestAnOutputThatEndedIsResumedAsThat(t *testing.T) {
	leaks(t)
	var out sink
	p := NewPassthrough(&out, &out)
	o, err := p.Resume(OutputState{
		Out: StreamState{Ended: true, Rest: []byte("the last\n")}, Err: StreamState{Ended: true}, Tail: [][]byte{[]byte("words")},
	}, "w1", &keep.Files{})
	if err != nil {
		t.Fatal(err)
	}
	p.pipes.wg.Wait()
	if tail := o.Tail(); out.String() != "the last\n" || len(tail) != 1 || tail[0] != "words" {
		t.Errorf("%q and %q", out.String(), tail)
	}
}

func TestStatesOfOutputsThatCannotBeTakenUp(t *testing.T) {
	leaks(t)
	var out sink
	p := NewPassthrough(&out, &out)
	o, err := p.Resume(OutputState{}, "w1", &keep.Files{})
	if !errors.Is(err, keep.ErrMissing) || !strings.Contains(err.Error(), `"w1.out"`) || !strings.Contains(err.Error(), `"w1.err"`) {
		t.Errorf("of nothing: %v", err)
	}
	if o == nil {
		t.Fatal("there is none, although only its pipes are missing")
	}
	o.Tail()
	r, _ := ends(t, "socket")
	_, wrong := ends(t, "pipe")
	for name, file := range map[string]*os.File{"a socket": r, "a write end": wrong} {
		var f keep.Files
		f.Put("w1.out", int(dup(t, int(file.Fd())).Fd()))
		if o, err := p.Resume(OutputState{Err: StreamState{Ended: true}}, "w1", &f); o != nil || err == nil || !strings.Contains(err.Error(), "no pipe that can be read") {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.Close()
}

func FuzzResumeOutput(f *testing.F) {
	f.Add(`{"pid":-1,"out":{"rest":"YQ=="},"tail":["YQ==",null],"partial":"YQ=="}`)
	f.Add(`{"out":{"ended":true,"rest":"YQ==","since":"2006-01-02T15:04:05Z"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var s OutputState
		if json.Unmarshal([]byte(text), &s) != nil {
			return
		}
		var out sink
		p := NewPassthrough(&out, &out)
		if o, err := p.Resume(s, "w1", &keep.Files{}); err == nil || o != nil {
			o.tail.lines()
		}
		p.Close()
	})
}

func TestSyncWritesEverythingOut(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir})
	busy := make(chan struct{})
	go func() { _ = s.do(func() error { <-busy; return nil }) }() // a slow disk
	say(s, 0, 1000)
	synced := make(chan error, 1)
	go func() { synced <- s.Sync() }()
	select {
	case err := <-synced:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond): // the disk takes its time
	}
	close(busy)
	if err := <-synced; err != nil {
		t.Error(err)
	}
	if n := len(records(t, anything(dir))); n != 1000 {
		t.Errorf("%d records are there, want 1000", n)
	}
	var out sink
	q := NewQueue(slog.NewTextHandler(&out, nil))
	for i := range 500 {
		slog.New(q).Info("line", "n", i)
	}
	if !q.Sync() || strings.Count(out.String(), "\n") != 500 {
		t.Errorf("%d lines of the log are there", strings.Count(out.String(), "\n"))
	}
	q.Close()
	if !q.Sync() {
		t.Error("a log that is closed is not written")
	}
	s.Close()
	if err := s.Sync(); err != nil {
		t.Error(err)
	}
}

func BenchmarkKeepOutput(b *testing.B) {
	p := NewPassthrough(io.Discard, io.Discard)
	o, err := p.Open()
	if err != nil {
		b.Fatal(err)
	}
	for i := range 40 {
		o.tail.write(fmt.Appendf(nil, "%d %s\n", i, strings.Repeat("x", 100)))
	}
	for b.Loop() {
		var f keep.Files
		o.Keep("w1", &f)
	}
	o.Started(0)
	p.Close()
}

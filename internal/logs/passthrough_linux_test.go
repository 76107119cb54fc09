package logs

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func put(t *testing.T, fd int, text string) {
	t.Helper()
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestBytesPassThroughUnchanged(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out, errs sink
	p := NewPassthrough(&out, &errs)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	binary := "\x00\x1b[31mred\xff\r\nno end"
	put(t, o.Stdout(), binary)
	put(t, o.Stderr(), "warn\n")
	p.Close() // passes on what is there
	if out.String() != binary || errs.String() != "warn\n" {
		t.Errorf("got %q and %q", out.String(), errs.String())
	}
	o.Started(0)
}

func TestTheTailIsTheLastLinesOfBothStreams(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out, errs sink
	p := NewPassthrough(&out, &errs)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		put(t, o.Stdout(), fmt.Sprintf("line %d\r\n", i))
	}
	o.Tail()
	put(t, o.Stderr(), "\x1b[2Jpanic: \xff"+strings.Repeat("x", 3*tailWidth))
	got := o.Tail()
	if len(got) != tailLines {
		t.Fatalf("%d lines, want %d: %q", len(got), tailLines, got)
	}
	if got[0] != "line 11" || got[18] != "line 29" {
		t.Errorf("the last lines are %q", got[:19])
	}
	if last := got[19]; !strings.HasPrefix(last, "[2Jpanic: \uFFFD") || len(last) > tailWidth+2 {
		t.Errorf("the line without an end is %.40q, %d bytes", last, len(last))
	}
	o.Started(0)
	p.Close()
}

// The words of a process that has ended have all arrived, although another
// process still holds the pipe.
func TestTheTailIsCompleteWhileAGrandchildHoldsThePipe(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out, errs sink
	p := NewPassthrough(&out, &errs)
	for range 20 {
		o, err := p.Open()
		if err != nil {
			t.Fatal(err)
		}
		hold, err := unix.Dup(o.Stderr()) // as a grandchild would
		if err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("exec 2>/proc/%d/fd/%d; i=0; while [ $i -lt 200 ]; do echo word $i >&2; i=$((i+1)); done; echo last >&2", unix.Getpid(), o.Stderr())
		cmd := exec.Command("sh", "-c", script)
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		tail := o.Tail()
		if len(tail) != tailLines || tail[tailLines-1] != "last" {
			t.Errorf("the tail ends in %q", tail)
		}
		o.Started(0)
		if err := unix.Close(hold); err != nil {
			t.Error(err)
		}
	}
	p.Close()
}

// The worker's end blocks when nobody reads, as a pipe does: it never sees EAGAIN.
func TestTheWorkersEndIsBlocking(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out sink
	p := NewPassthrough(&out, &out)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{o.Stdout(), o.Stderr()} {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("flags %#o, %v", flags, err)
		}
	}
	text := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB, far more than the pipe holds
	put(t, o.Stdout(), text)
	p.Close()
	if out.String() != text {
		t.Errorf("%d bytes came through, want %d", len(out.String()), len(text))
	}
	o.Started(0)
}

// A slow reader misses nothing of what ended workers left behind.
func TestCloseWaitsForASlowReader(t *testing.T) {
	defer goleak.VerifyNone(t)
	out := &gate{open: make(chan struct{})}
	p := NewPassthrough(out, out)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789abcdef", 4<<10) // as much as a pipe holds; the copy holds the rest
	put(t, o.Stdout(), text)
	put(t, o.Stdout(), text[:16<<10])
	o.Started(0)
	closed := make(chan struct{})
	go func() {
		p.Close()
		close(closed)
	}()
	select {
	case <-closed:
		t.Fatal("Close did not wait")
	case <-time.After(50 * time.Millisecond): // the reader takes its time
	}
	close(out.open)
	<-closed
	if want := text + text[:16<<10]; out.String() != want {
		t.Errorf("%d bytes came through, want %d", len(out.String()), len(want))
	}
}

// One who writes on and on does not keep Close from ending, and neither does a
// reader who takes nothing.
func TestCloseEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	out := &gate{open: make(chan struct{})}
	p := NewPassthrough(out, out)
	o, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	put(t, o.Stdout(), "stuck\n")
	from := time.Now()
	p.Close()
	if took := time.Since(from); took < closeTime {
		t.Errorf("Close gave up after %v", took)
	}
	close(out.open)
	p.pipes.wg.Wait()
	o.Started(0)

	back := &echo{}
	p = NewPassthrough(back, back)
	if o, err = p.Open(); err != nil {
		t.Fatal(err)
	}
	back.fd.Store(int64(o.Stdout()))
	put(t, o.Stdout(), "again\n")
	p.Close()
	o.Started(0)
}

// echo writes what it is given back into the pipe, which is never empty then.
type echo struct{ fd atomic.Int64 }

func (e *echo) Write(p []byte) (int, error) { return unix.Write(int(e.fd.Load()), p) }

// flood writes until nobody reads; what it returns is closed then.
func flood(t *testing.T, fd int) <-chan struct{} {
	t.Helper()
	fd, err := unix.Dup(fd) // as a grandchild would
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f := os.NewFile(uintptr(fd), "pipe")
		defer f.Close()
		for {
			if _, err := f.WriteString(strings.Repeat("and on\n", 100)); err != nil {
				return
			}
		}
	}()
	return ended
}

// The engine asks for the tail: neither a reader who takes nothing nor one who
// writes on and on keeps it waiting.
func TestTheTailComesAtOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, why := range []string{"nobody reads", "somebody writes on"} {
		t.Run(why, func(t *testing.T) {
			out := &gate{open: make(chan struct{})}
			p := NewPassthrough(out, out)
			o, err := p.Open()
			if err != nil {
				t.Fatal(err)
			}
			put(t, o.Stderr(), "words\n")
			if tail := o.Tail(); len(tail) != 1 || tail[0] != "words" {
				t.Errorf("the tail is %q", tail)
			}
			writer := make(<-chan struct{})
			if why == "somebody writes on" {
				close(out.open)
				writer = flood(t, o.Stdout())
			} else {
				put(t, o.Stderr(), "more\n") // stays in the pipe
			}
			best := time.Hour
			for range 5 { // the best of them, because the machine may be busy
				from := time.Now()
				o.Tail()
				best = min(best, time.Since(from))
			}
			if best > 100*time.Millisecond {
				t.Errorf("the tail took %v", best)
			}
			if why == "nobody reads" {
				close(out.open)
			}
			p.Close()
			if why == "somebody writes on" {
				<-writer
			}
			o.Started(0)
		})
	}
}

// However lines come in chunks, the last ones are remembered.
func TestTheTailDoesNotDependOnTheChunks(t *testing.T) {
	for _, n := range []int{5, tailLines - 1, tailLines, tailLines + 1, 3 * tailLines} {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprint("line ", i))
		}
		tail := newTail()
		tail.write([]byte("the first of ")) // its rest is in the chunk
		tail.write([]byte(strings.Join(all, "\n") + "\n"))
		all[0] = "the first of " + all[0]
		if got, want := tail.lines(), all[max(0, n-tailLines):]; strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("of %d: %q, want %q", n, got, want)
		}
		tail.write([]byte("no end"))
		all = append(all, "no end")
		if got, want := tail.lines(), all[max(0, len(all)-tailLines):]; strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("of %d: %q, want %q", n, got, want)
		}
	}
}

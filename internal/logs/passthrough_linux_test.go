package logs

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// sink is a writer that can be read while it is written.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

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
	o.Tail()
	if out.String() != binary || errs.String() != "warn\n" {
		t.Errorf("got %q and %q", out.String(), errs.String())
	}
	o.Started()
	p.Close()
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
	o.Started()
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
		o.Started()
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
	o.Tail()
	if out.String() != text {
		t.Errorf("%d bytes came through, want %d", len(out.String()), len(text))
	}
	o.Started()
	p.Close()
}

package logs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"baton/internal/testkit"

	"golang.org/x/sys/unix"
)

// captured runs a shell's script with its output captured, and returns the records.
func captured(t *testing.T, script string) []Record {
	t.Helper()
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir, MaxSize: 64 << 20})
	c := NewCapture(s)
	o, err := c.Open(7, 2)
	if err != nil {
		t.Fatal(err)
	}
	pid := begin(t, o, "sh", "-c", script)
	c.Close()
	s.Close()
	all := records(t, anything(dir))
	for _, r := range all {
		if r.Generation != 7 || r.Worker != 2 || r.PID != pid || time.Since(r.Time()) > time.Minute {
			t.Errorf("%s is not of pid %d", r.JSON, pid)
		}
	}
	return all
}

// begin runs a command to its end.
func begin(t *testing.T, o *Output, name string, args ...string) (pid int) {
	t.Helper()
	out, errs := dup(t, o.Stdout()), dup(t, o.Stderr())
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Close(), errs.Close() // the command has its own
	o.Started(cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func dup(t *testing.T, fd int) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "pipe")
}

func records(t *testing.T, q Query) (all []Record) {
	t.Helper()
	err := Read(t.Context(), q, func(r *Record) error {
		all = append(all, r.clone())
		return nil
	}, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// brief is a record in short.
func brief(r Record) string {
	s := r.Stream + ":" + string(r.Text)
	if r.More {
		s += "+"
	}
	if r.Binary {
		s += " binary"
	}
	return s
}

func TestLinesOfAProcessAreCaptured(t *testing.T) {
	leaks(t)
	var got []string
	for _, r := range captured(t, `echo one; echo 'tw"o\' >&2; printf '\n'; printf 'caf\303\251\r\n'; printf '\377\376\n' >&2; printf 'a\000b\n'; printf 'no end'`) {
		got = append(got, brief(r))
	}
	// The two streams are two pipes: only within one there is an order.
	outs := filter(got, "out:")
	errs := filter(got, "err:")
	if want := "out:one|out:|out:café\r|out:a\x00b binary|out:no end"; strings.Join(outs, "|") != want {
		t.Errorf("%q, want %q", outs, want)
	}
	if want := "err:tw\"o\\|err:\xff\xfe binary"; strings.Join(errs, "|") != want {
		t.Errorf("%q, want %q", errs, want)
	}
}

func filter(all []string, prefix string) (some []string) {
	for _, s := range all {
		if strings.HasPrefix(s, prefix) {
			some = append(some, s)
		}
	}
	return some
}

// Every way in which lines may be cut into writes gives the same lines.
func TestLinesDoNotDependOnTheWrites(t *testing.T) {
	var lines []string
	for i := range 400 {
		lines = append(lines, strings.Repeat("é", i%50)+fmt.Sprint(i))
	}
	text := []byte(strings.Join(lines, "\n") + "\n")
	for _, step := range []int{1, 2, 3, 7, 100, 4096, len(text)} {
		s := &Store{}
		src := &source{store: s, head: []byte(`","s":"out","l":"`)}
		s.tick()
		for rest := text; len(rest) > 0; rest = rest[min(step, len(rest)):] {
			src.split(rest[:min(step, len(rest))])
		}
		got := parsed(t, s.buf)
		if len(got) != len(lines) {
			t.Fatalf("steps of %d: %d lines", step, len(got))
		}
		for i, r := range got {
			if string(r.Text) != lines[i] || r.More {
				t.Fatalf("steps of %d: %s, want %s", step, r.JSON, lines[i])
			}
		}
	}
}

func parsed(t *testing.T, b []byte) (all []Record) {
	t.Helper()
	for line := range bytes.Lines(b) {
		var r Record
		if !r.parse(bytes.TrimSuffix(line, []byte{'\n'})) {
			t.Fatalf("%q", line)
		}
		all = append(all, r)
	}
	return all
}

func TestAVeryLongLineGoesOnInTheNextRecord(t *testing.T) {
	for _, size := range []int{maxLine - 1, maxLine, maxLine + 1, 2 * maxLine, 5*maxLine + 17} {
		text := []byte(strings.Repeat("x€", size/4+1)[:size-size%4] + strings.Repeat("y", size%4))
		for _, step := range []int{1000, 4096, maxLine, maxLine + 1, len(text) + 1} {
			s := &Store{}
			src := &source{store: s, head: []byte(`","s":"out","l":"`)}
			s.tick()
			for rest := append(bytes.Clone(text), "\nnext\n"...); len(rest) > 0; rest = rest[min(step, len(rest)):] {
				src.split(rest[:min(step, len(rest))])
			}
			all := parsed(t, s.buf)
			var joined []byte
			for i, r := range all[:len(all)-1] {
				joined = append(joined, r.Text...)
				if last := i == len(all)-2; r.More == last || r.Binary || len(r.Text) > maxLine {
					t.Fatalf("%d bytes in steps of %d: record %d of %d has %d bytes, more %v, binary %v",
						size, step, i, len(all)-1, len(r.Text), r.More, r.Binary)
				}
			}
			if !bytes.Equal(joined, text) || string(all[len(all)-1].Text) != "next" || len(all) > size/maxLine+3 {
				t.Fatalf("%d bytes in steps of %d: %d bytes came back in %d records", size, step, len(joined), len(all)-1)
			}
		}
	}
}

// A prompt, or half a line of a program that thinks, is there after a second.
func TestALineWithoutAnEndIsKeptSoon(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir})
	c := NewCapture(s)
	o, err := c.Open(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := dup(t, o.Stdout())
	defer w.Close()
	o.Started(1)
	put := func(text string) {
		t.Helper()
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	put("whole\nhalf")
	testkit.Wait(t, func() bool { return len(records(t, anything(dir))) == 2 }, "half a line")
	if took := time.Since(began); took < partialTime {
		t.Errorf("half a line was kept after %v", took)
	}
	put(" and the rest\n")
	testkit.Wait(t, func() bool { return len(records(t, anything(dir))) == 3 }, "the other half")
	put("and on\n")
	put("again")
	testkit.Wait(t, func() bool { return len(records(t, anything(dir))) == 5 }, "half a line again")
	w.Close()
	c.Close()
	s.Close()
	var got []string
	for _, r := range records(t, anything(dir)) {
		got = append(got, brief(r))
	}
	if want := "out:whole|out:half+|out: and the rest|out:and on|out:again+"; strings.Join(got, "|") != want {
		t.Errorf("%q, want %s", got, want)
	}
}

// What comes before baton knows the pid waits for it.
func TestRecordsWaitForThePid(t *testing.T) {
	leaks(t)
	dir := t.TempDir()
	s, _ := openStore(t, StoreOptions{Directory: dir})
	c := NewCapture(s)
	o, err := c.Open(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	put(t, o.Stdout(), "early\n")
	settled(t, s)
	if got := records(t, anything(dir)); len(got) != 0 {
		t.Errorf("%s came before the pid", got[0].JSON)
	}
	if tail := o.Tail(); len(tail) > 1 {
		t.Errorf("%q", tail)
	}
	o.Started(42)
	testkit.Wait(t, func() bool { return len(records(t, anything(dir))) == 1 }, "the line")
	if r := records(t, anything(dir))[0]; r.PID != 42 {
		t.Errorf("%s", r.JSON)
	}
	if tail := o.Tail(); len(tail) != 1 || tail[0] != "early" {
		t.Errorf("%q", tail)
	}
	c.Close()
	s.Close()
}

// Someone who holds the pipe and writes on and on keeps neither Close nor the tail.
func TestCaptureEnds(t *testing.T) {
	leaks(t)
	s, _ := openStore(t, StoreOptions{Directory: t.TempDir(), MaxSize: 8 << 20, Keep: 2})
	c := NewCapture(s)
	o, err := c.Open(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := flood(t, o.Stdout())
	o.Started(1)
	testkit.Wait(t, func() bool { return len(o.Tail()) == tailLines }, "a tail")
	began := time.Now()
	c.Close()
	if took := time.Since(began); took > closeTime+10*time.Second {
		t.Errorf("Close took %v", took)
	}
	s.Close()
	<-ended
}

func TestTheTailIsThatOfAPassthrough(t *testing.T) {
	leaks(t)
	s, _ := openStore(t, StoreOptions{Directory: t.TempDir()})
	c := NewCapture(s)
	o, err := c.Open(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	begin(t, o, "sh", "-c", "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done")
	testkit.Wait(t, func() bool { // the machine may be busy for longer than settleTime
		tail := o.Tail()
		return len(tail) == tailLines && tail[0] == "line 480" && tail[tailLines-1] == "line 499"
	}, "the tail")
	c.Close()
	s.Close()
}

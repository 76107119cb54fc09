package logs

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"
)

// envLong asks for ten million lines instead of one.
const envLong = "BATON_LONG"

// numbers holds a follower to its promise: lines 1, 2, 3 and so on come in order, each
// once, and where some are missing a record says how many.
type numbers struct {
	next           int64
	shown, missing int64
	gaps           int
	wrong          string
}

func (n *numbers) show(r *Record) error {
	if r.Dropped > 0 {
		n.next += r.Dropped
		n.missing += r.Dropped
		n.gaps++
		return nil
	}
	v, err := strconv.ParseInt(string(r.Text), 10, 64)
	if (err != nil || v != n.next) && n.wrong == "" {
		n.wrong = "line " + string(r.Text) + " came where line " + strconv.FormatInt(n.next, 10) + " was due"
	}
	n.next++
	n.shown++
	return nil
}

// A process prints a million lines while they are followed, rotated and flushed.
func TestAMillionLinesAreThereOnceOrCounted(t *testing.T) {
	leaks(t)
	lines := int64(1_000_000)
	switch {
	case os.Getenv(envLong) != "":
		lines = 10_000_000
	case testing.Short():
		lines = 100_000
	}
	dir := t.TempDir()
	s, said := openStore(t, StoreOptions{Directory: dir, MaxSize: 8 << 20, Keep: 8, Compress: true})
	c := NewCapture(s)
	o, err := c.Open(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	type result struct {
		numbers
		err error
	}
	followed := make(chan result, 2)
	for _, slow := range []bool{false, true} {
		go func() { // ends with the last line
			r := result{numbers: numbers{next: 1}}
			q := anything(dir)
			q.Follow = true
			own, end := context.WithCancel(ctx)
			defer end()
			r.err = Read(own, q, func(rec *Record) error {
				if slow && r.shown%50_000 == 49_999 {
					<-time.After(50 * time.Millisecond) // a reader who takes his time
				}
				err := r.show(rec)
				if r.next > lines {
					end()
				}
				return err
			}, func() error { return nil })
			followed <- r
		}()
	}
	flushing := make(chan int64)
	stop := make(chan struct{})
	go func() { // ends with stop
		n := int64(0)
		defer func() { flushing <- n }()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				came := int64(0)
				if err := s.do(func() error { came = s.number; return nil }); err != nil {
					t.Error(err)
				}
				if came > (n+1)*lines/6 {
					n++
					if err := s.Flush(); err != nil {
						t.Error(err)
					}
				}
			case <-stop:
				return
			}
		}
	}()
	// The last line comes after the last flush: who was outrun learns it with the next line.
	hold := dup(t, o.Stdout())
	begin(t, o, "seq", strconv.FormatInt(lines-1, 10))
	took := time.Since(began)
	close(stop)
	t.Logf("%d lines in %v, %d times flushed", lines, took.Round(time.Millisecond), <-flushing)
	if _, err := hold.WriteString(strconv.FormatInt(lines, 10) + "\n"); err != nil {
		t.Fatal(err)
	}
	hold.Close()
	for range 2 {
		r := <-followed
		if r.err != nil || r.wrong != "" || r.next != lines+1 {
			t.Errorf("%v; %s; the next would be %d", r.err, r.wrong, r.next)
		}
		t.Logf("followed: %d shown, %d counted as missing in %d places", r.shown, r.missing, r.gaps)
	}
	c.Close()
	s.Close()
	n := numbers{}
	q := anything(dir)
	if err := Read(t.Context(), q, func(r *Record) error {
		if n.next == 0 {
			n.next, _ = strconv.ParseInt(string(r.Text), 10, 64)
		}
		return n.show(r)
	}, func() error { return nil }); err != nil || n.wrong != "" || n.next != lines+1 && n.next != 0 {
		t.Errorf("what is left: %v; %s; the next would be %d", err, n.wrong, n.next)
	}
	if all := said.list(); len(all) > 0 {
		t.Error(all)
	}
}

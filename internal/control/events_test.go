package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/testkit"
)

// numbered is the event with a number, by which it is known again.
func numbered(n int) event.Event { return event.Event{Kind: event.Ready, PID: n} }

// follow collects the pids of a stream until it ends.
func (s *served) follow(replay int, follow bool) (got chan int, ended chan error) {
	got, ended = make(chan int, 3*keptEvents), make(chan error, 1)
	go func() { // ends with the stream
		for e, err := range s.Client.Events(s.t.Context(), replay, follow) {
			if err != nil {
				ended <- err
				return
			}
			got <- e.PID
		}
		ended <- nil
	}()
	return got, ended
}

func TestEventsComeAsTheyHappen(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	for i := range 5 {
		s.feed.Add(numbered(1 + i))
	}
	got, ended := s.follow(2, true)
	for _, want := range []int{4, 5} {
		if n := <-got; n != want {
			t.Errorf("replayed: %d, want %d", n, want)
		}
	}
	for i := range 100 {
		s.feed.Add(numbered(6 + i))
		if n := <-got; n != 6+i {
			t.Errorf("got %d, want %d", n, 6+i)
		}
	}
	s.feed.Add(numbered(1000)) // the last one is not lost in the end
	s.engine.End()
	if err := <-ended; err != nil || <-got != 1000 {
		t.Errorf("ended with %v", err)
	}
}

func TestEventsAreReplayedWithoutWaiting(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	for i := range keptEvents + 44 {
		s.feed.Add(numbered(1 + i))
	}
	for replay, first := range map[int]int{0: 0, 1: 300, 20: 281, keptEvents: 45} {
		got, ended := s.follow(replay, false)
		if err := <-ended; err != nil || len(got) != replay {
			t.Fatalf("%d of %d, %v", len(got), replay, err)
		}
		if replay > 0 {
			if n := <-got; n != first {
				t.Errorf("the first of %d is %d, want %d", replay, n, first)
			}
		}
	}
	// Also when the engine has ended: its last words are why one asks.
	s.engine.End()
	for _, follow := range []bool{false, true} {
		got, ended := s.follow(10, follow)
		if err := <-ended; err != nil || len(got) != 10 {
			t.Errorf("after the end: %d, %v", len(got), err)
		}
	}
}

// One who does not read holds up nobody, and learns what he missed.
func TestASlowReaderIsToldWhatHeMissed(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	c := s.connect()
	if _, err := io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	defer c.Close() // first: the body's Close reads on to the end
	const many = 20000
	long := strings.Repeat("x", 1000) // more than any buffer of a socket, in all
	begin := time.Now()
	for i := range many {
		e := numbered(1 + i)
		e.Message = long
		s.feed.Add(e)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("adding them took %v", took)
	}
	lines, next, missed := json.NewDecoder(response.Body), 1, 0
	for next <= many {
		var e event.Event
		if err := lines.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == event.Missed {
			if e.Count < 1 || e.Message != fmt.Sprintf("%d events were not read in time", e.Count) || e.Time.IsZero() {
				t.Errorf("missed: %+v", e)
			}
			missed += e.Count
			next += e.Count
			continue
		}
		if e.PID != next {
			t.Fatalf("got %d, want %d", e.PID, next)
		}
		next++
	}
	if missed == 0 {
		t.Error("he missed none: nothing was shown")
	}
	// He is in time again.
	s.feed.Add(numbered(many + 1))
	var e event.Event
	if err := lines.Decode(&e); err != nil || e.PID != many+1 {
		t.Errorf("then: %+v, %v", e, err)
	}
}

func TestOneWhoDoesNotReadDoesNotHoldUpTheEnd(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	c := s.connect()
	if _, err := io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { return len(s.readers) == 1 }, "the stream")
	for range 2 * keptEvents {
		s.feed.Add(event.Event{Message: strings.Repeat("x", 10000)})
	}
	s.engine.End()
	begin := time.Now()
	s.Leave()
	if took := time.Since(begin); took >= leaveTime {
		t.Errorf("leaving took %v", took)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	for range maxReaders {
		c := s.connect()
		if _, err := io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Wait(t, func() bool { return len(s.readers) == maxReaders }, "the streams")
	if status, body := s.ask("GET /v1/events"); status != 503 || !strings.Contains(body, "12 streams of events are read already") {
		t.Errorf("%d %s", status, body)
	}
	// They have taken places of those who wait, not all of them.
	if len(s.waits) != maxReaders || maxReaders >= maxWaits {
		t.Errorf("%d wait", len(s.waits))
	}
	if _, err := s.Client.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAReaderMayLeave(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	s.feed.Add(numbered(1))
	for range s.Client.Events(t.Context(), 1, true) {
		break
	}
	testkit.Wait(t, func() bool { return s.open() == 0 && len(s.readers) == 0 && len(s.waits) == 0 }, "his place to be free")
}

func TestLogsAreReopenedAndFlushed(t *testing.T) {
	s := serve(t)
	if err := s.Client.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "no log is kept") {
		t.Errorf("without logs: %v", err)
	}
	var done []string
	full := errors.New("no space left on device")
	s.o.Reopen = func() error { done = append(done, "reopen"); return nil }
	s.o.Flush = func() error { done = append(done, "flush"); return full }
	if err := s.Client.Reopen(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Client.Flush(t.Context()); err == nil || err.Error() != full.Error() {
		t.Errorf("flush: %v", err)
	}
	if !slices.Equal(done, []string{"reopen", "flush"}) {
		t.Errorf("done: %v", done)
	}
}

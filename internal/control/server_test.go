package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
	"baton/internal/testkit"
)

func TestWhatIsAskedReachesTheEngine(t *testing.T) {
	for _, c := range []struct {
		request string
		status  int
		body    string
		calls   string
	}{
		{"GET /v1/status", 200, `"listeners":[],"generations":[]`, ""},
		{"GET /v1/status?usage=1", 200, `"listeners":[],"generations":[]`, ""},
		{"GET /v1/status?usage=0", 200, `"verdict":"glanced"`, ""},
		{"GET /v1/status?usage=no", 400, `usage is 0 or 1`, ""},
		{"POST /v1/reload", 200, `{"outcome":"swapped","generation":2}`, "reload:0"},
		{"POST /v1/reload?if-generation=7", 200, `{"outcome":"swapped","generation":2}`, "reload:7"},
		{"POST /v1/reload?wait=0", 202, `{"accepted":true}`, "reload:0"},
		{"POST /v1/reload?wait=1&if-generation=1", 200, `"swapped"`, "reload:1"},
		{"POST /v1/rollback", 200, `{"outcome":"swapped","generation":2}`, "rollback"},
		{"POST /v1/rollback?wait=0", 202, `{"accepted":true}`, "rollback"},
		{"POST /v1/promote", 200, `{"accepted":true}`, "promote:false"},
		{"POST /v1/promote?step=1", 200, `{"accepted":true}`, "promote:true"},
		{"POST /v1/abort", 200, `{"accepted":true}`, "abort"},
		{"POST /v1/scale?workers=4", 200, `{"workers":3}`, "scale:4:false"},
		{"POST /v1/scale?workers=+1", 200, `{"workers":3}`, "scale:1:true"},
		{"POST /v1/scale?workers=%2B1", 200, `{"workers":3}`, "scale:1:true"},
		{"POST /v1/scale?workers=-2", 200, `{"workers":3}`, "scale:-2:true"},
		{"POST /v1/stop?wait=0", 202, `{"accepted":true}`, "stop"},
		{"POST /v1/stop?wait=0&now=1", 202, `{"accepted":true}`, "end"},
		{"GET /v1/events?follow=0", 200, ``, ""},

		{"GET /v1/events?replay=-1", 400, `replay is a number from 0 to 256, not \"-1\"`, ""},
		{"GET /v1/events?replay=257", 400, `replay is a number`, ""},
		{"GET /v1/events?replay=x&follow=0", 400, `replay is a number`, ""},
		{"GET /v1/events?follow=2", 400, `follow is 0 or 1`, ""},
		{"POST /v1/reopen", 409, `no log is kept`, ""},
		{"POST /v1/flush", 409, `no log is kept`, ""},
		{"GET /", 404, `"error":"no such path: /; there are /v1/abort, `, ""},
		{"POST /v1/status/", 404, `"error":"no such path`, ""},
		{"GET /v1/reload", 405, `{"error":"/v1/reload takes POST, not GET"}`, ""},
		{"DELETE /v1/stop", 405, `takes POST, not DELETE`, ""},
		{"POST /v1/status", 405, `takes GET, not POST`, ""},
		{"POST /v1/reload?generation=7", 400, `parameter \"generation\" is not known`, ""},
		{"POST /v1/reload?wait=0&wait=1", 400, `parameter \"wait\" is there twice`, ""},
		{"POST /v1/reload?wait=no", 400, `wait is 0 or 1, not \"no\"`, ""},
		{"POST /v1/reload?if-generation=0", 400, `if-generation is the number`, ""},
		{"POST /v1/reload?if-generation=x", 400, `if-generation is the number`, ""},
		{"POST /v1/promote?step=2", 400, `step is 0 or 1`, ""},
		{"POST /v1/stop?now=yes", 400, `now is 0 or 1`, ""},
		{"POST /v1/stop?wait=x", 400, `wait is 0 or 1`, ""},
		{"POST /v1/scale", 400, `workers: a number from 1 to 1024`, ""},
		{"POST /v1/scale?workers=0", 400, `workers: a number`, ""},
		{"POST /v1/scale?workers=1025", 400, `workers: a number`, ""},
		{"POST /v1/scale?workers=--1", 400, `workers: a number`, ""},
		{"POST /v1/scale?workers=1e3", 400, `workers: a number`, ""},
		{"GET /v1/status?%zz", 400, `invalid URL escape`, ""},
	} {
		t.Run(c.request, func(t *testing.T) {
			s := serve(t)
			s.engine.at = &event.Verdict{Outcome: Swapped, Generation: 2}
			status, body := s.ask(c.request)
			if status != c.status || !strings.Contains(body, c.body) {
				t.Errorf("%d %s, want %d with %s", status, body, c.status, c.body)
			}
			if got := s.engine.log(); got != c.calls {
				t.Errorf("the engine was asked %q, want %q", got, c.calls)
			}
		})
	}
}

func TestEachOutcomeHasAStatus(t *testing.T) {
	for outcome, want := range map[string]int{Swapped: 200, RolledBack: 424, Refused: 422, Superseded: 409, Stopped: 410, "other": 409} {
		s := serve(t)
		s.engine.at = &event.Verdict{Outcome: outcome, Reason: "<b>", Tail: []string{"last words"}}
		status, body := s.ask("POST /v1/reload")
		if status != want || !strings.Contains(body, `"reason":"<b>","tail":["last words"]`) {
			t.Errorf("%s: %d %s, want %d", outcome, status, body, want)
		}
		v, err := s.Client.Reload(t.Context(), 0)
		if err != nil || v.Outcome != outcome || v.Tail[0] != "last words" {
			t.Errorf("%s: the client has %+v, %v", outcome, v, err)
		}
	}
}

func TestWhatTheEngineDoesNotDoIsAConflict(t *testing.T) {
	s := serve(t)
	s.engine.fails = errNone
	for _, path := range []string{"promote", "abort", "scale?workers=1"} {
		if status, body := s.ask("POST /v1/" + path); status != 409 || body != `{"error":"there is no canary"}` {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	var answered *Error
	if err := s.Client.Abort(t.Context()); !errors.As(err, &answered) || err.Error() != errNone.Error() || answered.Busy() {
		t.Errorf("the client has %v", err)
	}
}

func TestABodyIsNotRead(t *testing.T) {
	s := serve(t)
	c := s.connect()
	_, _ = io.WriteString(c, "POST /v1/scale HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\nworkers=4")
	if status, body := response(t, c); status != 400 || !strings.Contains(body, "parameters go into the query") {
		t.Errorf("%d %s", status, body)
	}
	if got := s.engine.log(); got != "" {
		t.Errorf("the engine was asked %s", got)
	}
}

func TestAReloadWaitsForItsVerdict(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	got := make(chan event.Verdict, 1)
	go func() { // ends with the verdict
		v, err := s.Client.Reload(t.Context(), 0)
		if err != nil {
			t.Error(err)
		}
		got <- v
	}()
	testkit.Wait(t, func() bool { return s.engine.waiters() == 1 }, "the reload")
	select {
	case v := <-got:
		t.Fatalf("answered before the verdict: %+v", v)
	default:
	}
	s.engine.give(event.Verdict{Outcome: RolledBack, Reason: "exit status 7"})
	if v := <-got; v.Reason != "exit status 7" {
		t.Errorf("verdict %+v", v)
	}
}

// What limits the reading of a request does not limit the wait for its answer.
func TestAReloadMayTakeLongerThanItsRequest(t *testing.T) {
	testkit.Leaks(t)
	const limit = 20 * time.Millisecond
	s := serve(t, func(s *Server) { s.http.ReadTimeout = limit })
	c := s.connect()
	if _, err := io.WriteString(c, "POST /v1/reload HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * limit)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("the wait ended with %d bytes, %v", n, err)
	}
	if len(s.waits) != 1 {
		t.Error("nobody waits any more")
	}
	s.engine.give(event.Verdict{Outcome: Swapped})
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if status, _ := response(t, c); status != 200 {
		t.Errorf("answered with %d", status)
	}
}

func TestAReloadGoesOnWithoutWhoAskedForIt(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { // ends with cancel
		_, err := s.Client.Reload(ctx, 0)
		gone <- err
	}()
	testkit.Wait(t, func() bool { return s.engine.waiters() == 1 }, "the reload")
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the client has %v", err)
	}
	testkit.Wait(t, func() bool { return s.open() == 0 && len(s.waits) == 0 }, "its place to be free")
	s.engine.give(event.Verdict{Outcome: Swapped}) // to nobody, and without waiting
}

// open is how many connections there are.
func (s *served) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.guests)
}

func TestOneWhoClosesHisHalfIsNotToldOfASuccess(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	c := s.connect()
	if _, err := io.WriteString(c, "POST /v1/reload HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if status, body := response(t, c); status != 400 || !strings.Contains(body, "goes on") {
		t.Errorf("%d %s", status, body)
	}
	s.asked("reload:0")
}

func TestTheEndAnswersThoseWhoWait(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	got := make(chan event.Verdict, 3)
	for range 3 {
		go func() { // ends with the engine
			v, err := s.Client.Rollback(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- v
		}()
	}
	testkit.Wait(t, func() bool { return s.engine.waiters() == 3 }, "the rollbacks")
	s.engine.End()
	s.Leave()
	for range 3 {
		if v := <-got; v.Outcome != Stopped {
			t.Errorf("verdict %+v", v)
		}
	}
}

func TestAnEndedEngineIsGone(t *testing.T) {
	s := serve(t)
	s.engine.End()
	if status, body := s.ask("GET /v1/status"); status != 410 || body != `{"error":"the launcher has ended"}` {
		t.Errorf("%d %s", status, body)
	}
}

// Stop's response ends with the process, or what Close does here: not when the engine
// ends, nor with Leave.
func TestAStopIsAnsweredAtOnceAndEndsWithTheProcess(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	c := s.connect()
	if _, err := io.WriteString(c, "POST /v1/stop HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	buf := make([]byte, 512)
	for !strings.HasSuffix(text.String(), "{\"accepted\":true}\n") {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(buf[:n])
	}
	s.asked("stop")
	done := make(chan error, 1)
	go func() { done <- s.Client.Stop(t.Context(), true) }() // ends with Close
	s.asked("stop end")
	testkit.Wait(t, func() bool { return len(s.waits) == 2 }, "both to wait")
	begin := time.Now()
	s.Leave()
	if took := time.Since(begin); took >= leaveTime {
		t.Errorf("leaving took %v: it waited for those who wait for what follows it", took)
	}
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); !isTimeout(err) {
		t.Fatalf("the response went on with %q, or ended with %v", buf[:n], err)
	}
	select {
	case err := <-done:
		t.Fatalf("the client has %v before the end", err)
	default:
	}
	s.Server.Close()
	if err := <-done; err != nil {
		t.Errorf("the client has %v", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute)) // it was set above
	if n, err := c.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the response ended with %q, %v", buf[:n], err)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestAnEngineThatHangsDoesNotHoldUpWhoAsks(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as an engine may take")
	}
	s := serve(t)
	s.engine.hang = make(chan struct{})
	begin := time.Now()
	if status, body := s.ask("GET /v1/status"); status != 504 || !strings.Contains(body, "no answer within") {
		t.Errorf("%d %s", status, body)
	}
	if took := time.Since(begin); took < engineTime || took > engineTime+10*time.Second {
		t.Errorf("answered after %v", took)
	}
	close(s.engine.hang)
	testkit.Wait(t, func() bool { return len(s.calls) == 0 }, "the call to end")
}

// What waits leaves room for what does not.
func TestThoseWhoWaitAreBounded(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	for range maxWaits {
		c := s.connect()
		if _, err := io.WriteString(c, "POST /v1/reload HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Wait(t, func() bool { return s.engine.waiters() == maxWaits }, "all to wait")
	if status, body := s.ask("POST /v1/reload"); status != 503 || body != fmt.Sprintf(`{"error":"%d requests wait already"}`, maxWaits) {
		t.Errorf("%d %s", status, body)
	}
	var answered *Error
	if err := s.Client.Stop(t.Context(), false); !errors.As(err, &answered) || !answered.Busy() {
		t.Errorf("the client has %v", err)
	}
	if s.engine.waiters() != maxWaits {
		t.Error("the one too many was asked for all the same")
	}
	if _, err := s.Client.Status(t.Context()); err != nil {
		t.Error(err)
	}
	s.engine.give(event.Verdict{Outcome: Swapped})
}

// Of connections that say nothing the oldest makes way; one whose request is being
// answered does not.
func TestSilentConnectionsMakeWay(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	waits := s.connect()
	if _, err := io.WriteString(waits, "POST /v1/reload HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, func() bool { return s.engine.waiters() == 1 }, "the reload")
	first := s.connect()
	for range 3 * maxConns {
		s.connect()
	}
	if _, err := s.Client.Status(t.Context()); err != nil {
		t.Error(err)
	}
	if n, err := first.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
		t.Errorf("the oldest has %d bytes, %v", n, err)
	}
	if n := s.open(); n > maxConns {
		t.Errorf("%d connections are open, of at most %d", n, maxConns)
	}
	s.engine.give(event.Verdict{Outcome: Swapped})
	if status, _ := response(t, waits); status != 200 {
		t.Errorf("the reload was answered with %d", status)
	}
}

func TestEveryConnectionBusyIsSaid(t *testing.T) {
	testkit.Leaks(t)
	s := serve(t)
	s.engine.hang = make(chan struct{})
	for range maxConns {
		c := s.connect()
		if _, err := io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Wait(t, func() bool { return len(s.calls) == maxConns }, "all to be answered")
	if status, body := response(t, s.connect()); status != 503 || body != `{"error":"too many connections"}` {
		t.Errorf("%d %s", status, body)
	}
	close(s.engine.hang)
}

func TestParseScale(t *testing.T) {
	for text, want := range map[string]string{
		"1": "1 false", "1024": "1024 false", "+2": "2 true", "-3": "-3 true",
	} {
		n, relative, err := ParseScale(text)
		if got := fmt.Sprint(n, relative); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "+", "-", "+0", "-0", "++1", "+-1", "-+1", "1025", "-1025", "1.5", " 1", "1 ", "x", "99999999999999999999"} {
		if n, _, err := ParseScale(text); err == nil {
			t.Errorf("%q is taken for %d", text, n)
		}
	}
}

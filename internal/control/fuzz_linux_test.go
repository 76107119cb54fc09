package control

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"baton/internal/event"
)

// What a query is read as is known, there once, and the same when it is written anew.
func FuzzParameters(f *testing.F) {
	for _, q := range []string{"", "wait=0", "workers=+1", "workers=%2B1&wait=1", "wait=0&wait=1", "a", "=", "%zz", "wait=0;now=1", "&&", "wait", "now=\x00"} {
		f.Add(q)
	}
	known := []string{"wait", "workers", "now"}
	f.Fuzz(func(t *testing.T, query string) {
		q, err := parameters(query, known)
		if err != nil {
			return
		}
		for name, values := range q {
			if len(values) != 1 || name != "wait" && name != "workers" && name != "now" {
				t.Errorf("%q: %q is %q", query, name, values)
			}
		}
		written := strings.ReplaceAll(q.Encode(), "+", "%20") // Encode's "+" is a blank
		again, err := parameters(written, known)
		if err != nil || again.Encode() != q.Encode() {
			t.Errorf("%q: %v is read as %v, %v", query, q, again, err)
		}
		if _, ok := q["workers"]; ok {
			if n, _, err := ParseScale(q.Get("workers")); err == nil && (n == 0 || n > MaxWorkers || n < -MaxWorkers) {
				t.Errorf("%q: %d workers", query, n)
			}
		}
	})
}

// Whatever bytes come, each connection ends, what is answered is HTTP, and the next one
// who asks is answered.
func FuzzRequest(f *testing.F) {
	for _, a := range []string{
		"GET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n",
		"GET /v1/events?replay=1&follow=0 HTTP/1.1\r\nHost: b\r\n\r\nGET /v1/status HTTP/1.0\r\n\r\n",
		"POST /v1/scale?workers=+1 HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc",
		"POST /v1/reload HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST http://x/v1/stop?now=1 HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET", "\x16\x03\x01", "",
	} {
		f.Add([]byte(a))
	}
	dir := filepath.Join(short(f), "run")
	c, err := Take(dir, "web")
	if err != nil {
		f.Fatal(err)
	}
	l, err := c.Listen()
	if err != nil {
		f.Fatal(err)
	}
	e := newEngine()
	e.at = &event.Verdict{Outcome: Swapped}
	s := New(anew{e}, Options{Log: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }() // ends with Close
	f.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			f.Error(err)
		}
		if err := c.Close(); err != nil {
			f.Error(err)
		}
	})
	path := filepath.Join(dir, "web.sock")
	f.Fuzz(func(t *testing.T, request []byte) {
		c, err := dial(path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // a connection has it always
		_, _ = c.Write(request)                             // it may be given up before its end
		_ = c.CloseWrite()
		answer, err := io.ReadAll(c)
		if os.IsTimeout(err) {
			t.Fatalf("still open: %q", answer)
		}
		if len(answer) > 0 && err == nil {
			r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
			if err != nil {
				t.Fatalf("%v: %q", err, answer)
			}
			_ = r.Body.Close() // all of it is here
		}
		if r, err := In(dir, "web").Status(t.Context()); err != nil || r.Name != "web" {
			t.Errorf("then: %+v, %v", r, err)
		}
	})
}

// anew is an engine that stop and end do not end.
type anew struct{ *engine }

func (anew) Stop() {}
func (anew) End()  {}

package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"baton/internal/testkit"
)

// draining is a server whose drain has begun, with connections from before it.
func draining(t *testing.T, n int, h http.HandlerFunc) (*app, []*client) {
	t.Helper()
	begun := make(chan (<-chan struct{}), n)
	mux := http.NewServeMux()
	mux.HandleFunc("/", h)
	mux.HandleFunc("/before", func(w http.ResponseWriter, r *http.Request) {
		begun <- Draining(r.Context())
		fmt.Fprint(w, r.URL.Path)
	})
	a := serve(t, &Server{HTTP: &http.Server{Handler: mux}, Idle: time.Minute}, listen(t))
	var clients []*client
	for range n {
		c := a.dial()
		c.expect("/before", false)
		clients = append(clients, c)
	}
	a.stop()
	<-<-begun
	return a, clients
}

// ask sends a request with header lines, and returns the answer's head.
func (c *client) ask(lines ...string) *http.Response {
	c.t.Helper()
	request := "GET / HTTP/1.1\r\nHost: baton.test\r\n" + strings.Join(append(lines, "", ""), "\r\n")
	if _, err := io.WriteString(c, request); err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.r, nil)
	for err == nil && resp.StatusCode == http.StatusEarlyHints {
		if resp.Close {
			c.t.Error("a hint says Connection: close")
		}
		resp.Body.Close()
		resp, err = http.ReadResponse(c.r, nil)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

// lastly wants a whole answer after which the connection is closed.
func (c *client) lastly(lines ...string) {
	c.t.Helper()
	resp := c.ask(lines...)
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		c.t.Fatal(err)
	}
	if !resp.Close {
		c.t.Fatalf("%s %q does not end the connection", resp.Status, resp.Header)
	}
	c.end()
}

// Java's client offers h2c with every request on plain HTTP, until one is answered.
func TestAnOfferToUpgradeThatIsNotTakenEndsTheConnectionInADrain(t *testing.T) {
	testkit.Leaks(t)
	offers := [][]string{
		{"Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA", "Upgrade: h2c"},
		{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
		{"Connection: keep-alive, upgrade", "Upgrade: h2c, websocket"},
		{"Upgrade: websocket"},
	}
	a, clients := draining(t, len(offers), func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "no") })
	for i, c := range clients {
		c.lastly(offers[i]...)
	}
	a.wait()
}

func TestHoweverAHandlerAnswersInADrainTheConnectionEnds(t *testing.T) {
	testkit.Leaks(t)
	for name, h := range map[string]http.HandlerFunc{
		"with nothing":  func(http.ResponseWriter, *http.Request) {},
		"with bytes":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) },
		"with a string": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") },
		"with a stream": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("x"))
		},
		"with a status":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUpgradeRequired) },
		"with a flush":    func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() },
		"with a response": func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() },
		"with a hint": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNoContent)
		},
		"and wants it kept": func(w http.ResponseWriter, _ *http.Request) { // as many handlers of event streams do
			w.Header().Set("Connection", "keep-alive")
			_, _ = w.Write([]byte("x"))
		},
		"and refuses with the name of the protocol": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			http.Error(w, "no", http.StatusUpgradeRequired)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, clients := draining(t, 2, h)
			clients[0].lastly()
			clients[1].lastly("Connection: Upgrade", "Upgrade: websocket")
			a.wait()
		})
	}
}

// What net/http's own writer can do, a handler can do in a drain too.
func TestAHandlerFindsInADrainWhatItsWriterCouldBefore(t *testing.T) {
	testkit.Leaks(t)
	a, clients := draining(t, 1, func(w http.ResponseWriter, r *http.Request) {
		if c, ok := w.(interface{ CloseNotify() <-chan bool }); !ok || c.CloseNotify() == nil {
			t.Error("no CloseNotify")
		}
		for name, does := range map[string]func(*http.ResponseController) error{
			"read deadline":  func(c *http.ResponseController) error { return c.SetReadDeadline(time.Time{}) },
			"write deadline": func(c *http.ResponseController) error { return c.SetWriteDeadline(time.Time{}) },
			"full duplex":    func(c *http.ResponseController) error { return c.EnableFullDuplex() },
		} {
			if err := does(http.NewResponseController(w)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		http.ServeContent(w, r, "name.txt", time.Time{}, strings.NewReader("content"))
	})
	clients[0].lastly()
	a.wait()
}

// echoes takes the connection over, in the way that begin does, and repeats a line.
func echoes(t *testing.T, begin func(http.ResponseWriter) *bufio.ReadWriter) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		rw := begin(w)
		if rw == nil {
			t.Error("the connection cannot be taken over")
			return
		}
		line, err := rw.ReadString('\n')
		if err == nil {
			_, err = rw.WriteString(line)
		}
		if err == nil {
			err = rw.Flush()
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func hijack(w http.ResponseWriter) *bufio.ReadWriter {
	h, ok := w.(http.Hijacker)
	if !ok {
		return nil
	}
	_, rw, err := h.Hijack() // the client closes it
	if err != nil {
		return nil
	}
	return rw
}

func TestAnUpgradeThatIsTakenInADrainIsLeftAsTheHandlerHasIt(t *testing.T) {
	testkit.Leaks(t)
	raw := echoes(t, func(w http.ResponseWriter) *bufio.ReadWriter {
		rw := hijack(w)
		if _, err := w.Write(nil); !errors.Is(err, http.ErrHijacked) || len(w.Header()) > 0 {
			t.Errorf("a writer whose connection is taken: %v, %v", err, w.Header())
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n") // the client sees it
		rw.Flush()
		return rw
	})
	status := echoes(t, func(w http.ResponseWriter) *bufio.ReadWriter {
		w.Header().Add("Connection", "Upgrade")
		w.Header().Add("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		w.(http.Flusher).Flush()
		if got := w.Header().Get("Connection"); got != "Upgrade" {
			t.Errorf("the header of a 101 became Connection: %s", got)
		}
		return hijack(w)
	})
	behind := httptest.NewServer(raw)
	defer behind.Close()
	target, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
	}
	for name, h := range map[string]http.HandlerFunc{"by hand": raw, "by its status": status, "by a proxy": proxy.ServeHTTP} {
		t.Run(name, func(t *testing.T) {
			a, clients := draining(t, 1, h)
			c := clients[0]
			resp := c.ask("Connection: Upgrade", "Upgrade: echo")
			defer resp.Body.Close()
			if got := fmt.Sprint(resp.StatusCode, resp.Header["Connection"], resp.Header["Upgrade"]); got != "101 [Upgrade] [echo]" {
				t.Errorf("the answer is %s", got)
			}
			if _, err := io.WriteString(c, "hello\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := c.r.ReadString('\n'); line != "hello\n" {
				t.Errorf("after it: %q %v", line, err)
			}
			c.Close()
			a.wait()
		})
	}
}

// Each of them is being waited on by net/http while its last answer is prepared.
func TestEveryOneOfManyConnectionsIsClosedBehindItsLastAnswer(t *testing.T) {
	testkit.Leaks(t)
	a, clients := draining(t, 500, func(http.ResponseWriter, *http.Request) {})
	ended := make(chan error, len(clients))
	for _, c := range clients {
		go func() { // ends within its deadline
			err := c.SetDeadline(time.Now().Add(20 * time.Second))
			if err == nil {
				_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: baton.test\r\n\r\n")
			}
			if err == nil {
				_, err = io.Copy(io.Discard, c.r)
			}
			ended <- err
		}()
	}
	open := 0
	for range clients {
		if err := <-ended; err != nil {
			t.Log(err)
			open++
		}
	}
	if open > 0 {
		t.Fatalf("%d of %d connections are still open", open, len(clients))
	}
	a.wait()
}

package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serve is a server and the target that it is.
func serve(t *testing.T, h http.HandlerFunc) Target {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return to("tcp", s.Listener.Addr().String())
}

func saying(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// once tries p and holds the error to want, "" for a pass.
func once(t *testing.T, p Probe, target Target, want string) {
	t.Helper()
	if p.Timeout == 0 {
		p.Timeout = deadline
	}
	must(t, p.Validate())
	got := ""
	if err := p.Once(t.Context(), target); err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("got  %q,\nwant %q", got, want)
	}
}

func TestAnAnswerPassesByItsStatus(t *testing.T) {
	for _, c := range []struct {
		answer int
		status string
		want   string
	}{
		{200, "", ""}, {204, "", ""}, {399, "", ""},
		{404, "", "http GET /healthz: 404 Not Found"},
		{503, "", "http GET /healthz: 503 Service Unavailable"},
		{418, "418", ""}, {418, "200, 400-499", ""},
		{200, "204,300-399", "http GET /healthz: 200 OK"},
		{599, "200", "http GET /healthz: 599"},
	} {
		p := Probe{Kind: KindHTTP, Path: "/healthz"}
		if c.status != "" {
			var err error
			p.Status, err = ParseStatus(c.status)
			must(t, err)
		}
		once(t, p, serve(t, saying(c.answer, "")), c.want)
	}
}

func TestARedirectIsAStatusAndIsNotFollowed(t *testing.T) {
	var asked atomic.Int32
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "/login", http.StatusFound)
	})
	once(t, Probe{Kind: KindHTTP}, target, "")
	once(t, Probe{Kind: KindHTTP, Status: []Range{{200, 299}}}, target, "http GET /: 302 Found")
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestTheRequestIsWhatWasConfigured(t *testing.T) {
	seen := make(chan *http.Request, 1)
	target := serve(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
	once(t, Probe{Kind: KindHTTP, Method: "OPTIONS", Path: "/a%20b?deep=1&x=#y", Host: "shop.example:81",
		Header: map[string]string{"authorization": "Bearer x", "X-Probe": "1"}}, target, "")
	r := <-seen
	if got := r.Method + " " + r.RequestURI + " " + r.Proto + " of " + r.Host; got != "OPTIONS /a%20b?deep=1&x=#y HTTP/1.1 of shop.example:81" {
		t.Error(got)
	}
	want := map[string][]string{"Authorization": {"Bearer x"}, "X-Probe": {"1"}, "User-Agent": {"baton-probe"},
		"Accept": {"*/*"}, "Connection": {"close"}}
	if !maps.EqualFunc(want, r.Header, slices.Equal) {
		t.Errorf("%v", r.Header)
	}
	once(t, Probe{Kind: KindHTTP, Header: map[string]string{"User-Agent": "me"}}, target, "")
	if r := <-seen; r.Method+r.RequestURI != "GET/" || r.UserAgent() != "me" || r.Host != target.Address {
		t.Errorf("%s %s of %s by %s", r.Method, r.RequestURI, r.Host, r.UserAgent())
	}
}

func TestTheHostOfARequestThatNamesNone(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:8080", "example.org:80": "example.org:80", "[::1]:443": "[::1]:443",
		":8080": "localhost:8080", "0.0.0.0:80": "localhost:80", "[::]:80": "localhost:80",
		"/run/x.sock": "localhost", "": "localhost",
	} {
		if got := (Probe{Kind: KindHTTP}).host(Target{Address: address}); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}

func TestAProbeOverAUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "b") // short enough for a sockaddr_un
	must(t, err)
	defer os.RemoveAll(dir)
	s := httptest.NewUnstartedServer(saying(200, "ok"))
	s.Listener.Close()
	s.Listener, err = net.Listen("unix", filepath.Join(dir, "s"))
	must(t, err)
	s.Start()
	defer s.Close()
	once(t, Probe{Kind: KindHTTP, Body: "ok"}, to("unix", s.Listener.Addr().String()), "")
}

func TestHTTPSVerifiesNoCertificateAndNamesTheHost(t *testing.T) {
	named := make(chan string, 1)
	s := httptest.NewUnstartedServer(saying(200, "secret"))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it is asked without TLS too
	s.TLS = &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		named <- h.ServerName
		return nil, nil
	}}
	s.StartTLS()
	defer s.Close()
	target := to("tcp", s.Listener.Addr().String())
	for host, want := range map[string]string{"shop.example": "shop.example", "shop.example:443": "shop.example", "": ""} {
		once(t, Probe{Kind: KindHTTPS, Host: host, Body: "secret"}, target, "")
		if got := <-named; got != want {
			t.Errorf("host %q: %q was asked for", host, got)
		}
	}
	once(t, Probe{Kind: KindHTTP}, target, "http GET /: 400 Bad Request")
	once(t, Probe{Kind: KindHTTPS}, serve(t, saying(200, "")), "https GET /: tls: first record does not look like a TLS handshake")
}

func TestTheBodyMustContainWhatWasAskedFor(t *testing.T) {
	endless := func(what string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, what)
			for line := []byte(strings.Repeat("x", 4096)); ; {
				if _, err := w.Write(line); err != nil {
					return
				}
			}
		}
	}
	early := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "all w")
		w.(http.Flusher).Flush()
		io.WriteString(w, "ell")
		w.(http.Flusher).Flush()
		<-r.Context().Done() // the rest never comes
	}
	without := `http GET /: 200 OK without "all well" in its body`
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"whole":             {saying(200, "all well"), ""},
		"within":            {saying(200, "<p>all well</p>"), ""},
		"absent":            {saying(200, "all wel"), without},
		"empty":             {saying(200, ""), without},
		"wrong status":      {saying(500, "all well"), "http GET /: 500 Internal Server Error"},
		"at the limit":      {saying(200, strings.Repeat("x", maxBody-8)+"all well"), ""},
		"beyond the limit":  {saying(200, strings.Repeat("x", maxBody-7)+"all well"), without},
		"endless":           {endless(""), without},
		"endless, in front": {endless("all well"), ""},
		"in two parts":      {early, ""},
	} {
		t.Run(name, func(t *testing.T) {
			once(t, Probe{Kind: KindHTTP, Body: "all well"}, serve(t, c.h), c.want)
		})
	}
	once(t, Probe{Kind: KindHTTP}, serve(t, endless("")), "") // nobody reads it
}

func answering(answer string) func(c *net.TCPConn) {
	return func(c *net.TCPConn) {
		heard(c)
		io.WriteString(c, answer)
		c.Close()
	}
}

func TestWhatAServerMayDoInsteadOfAnAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(c *net.TCPConn)
		want string
	}{
		"closes":        {func(c *net.TCPConn) { heard(c); c.Close() }, "http GET /: the connection ended too soon: unexpected EOF"},
		"half closes":   {func(c *net.TCPConn) { heard(c); c.CloseWrite(); io.ReadAll(c); c.Close() }, "http GET /: the connection ended too soon: unexpected EOF"},
		"resets":        {func(c *net.TCPConn) { heard(c); c.SetLinger(0); c.Close() }, "http GET /: read: connection reset by peer"},
		"talks SSH":     {answering("SSH-2.0-OpenSSH_9.9\r\n"), `http GET /: malformed HTTP response "SSH-2.0-OpenSSH_9.9"`},
		"talks rubbish": {answering(strings.Repeat("\x00\xff", 5000) + "\r\n"), "http GET /: " + `malformed HTTP response "` + strings.Repeat(`\x00\xff`, 21) + `\x00\xf...`},
		"breaks off":    {answering("HTTP/1.1 200 OK\r\nX: y\r\n"), "http GET /: the connection ended too soon: unexpected EOF"},
		"has no body":   {answering("HTTP/1.1 204 No Content\r\n\r\n"), ""},
		"is of 1996":    {answering("HTTP/1.0 200 Fine\r\n\r\n"), ""},
		"hints first":   {answering("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\n"), "http GET /: 500 Internal Server Error"},
		"switches":      {answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "http GET /: 101 Switching Protocols"},
	} {
		t.Run(name, func(t *testing.T) { once(t, Probe{Kind: KindHTTP}, conduct(t, c.do), c.want) })
	}
	broken := answering("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	once(t, Probe{Kind: KindHTTP, Body: "whole"}, conduct(t, broken), "http GET /: the connection ended too soon: unexpected EOF")
	once(t, Probe{Kind: KindHTTP}, conduct(t, broken), "") // its status was good
}

func TestAServerThatNeverEndsItsHeader(t *testing.T) {
	target := conduct(t, func(c *net.TCPConn) {
		defer c.Close()
		heard(c)
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for err == nil {
			_, err = io.WriteString(c, "X-More: "+strings.Repeat("x", 4096)+"\r\n")
		}
	})
	once(t, Probe{Kind: KindHTTP}, target, "http GET /: no end of its header in 1048576 bytes")
}

// trickle says text a byte at a time until the other end has had enough.
func trickle(c net.Conn, text string) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		<-tick.C
		if _, err := c.Write([]byte{text[i%len(text)]}); err != nil {
			return
		}
	}
}

func TestATryEndsWithItsTimeout(t *testing.T) {
	silent := func(c *net.TCPConn) { io.ReadAll(c); c.Close() }
	trickling := func(before, text string) func(*net.TCPConn) {
		return func(c *net.TCPConn) {
			defer c.Close()
			heard(c)
			io.WriteString(c, before)
			trickle(c, text)
		}
	}
	for name, c := range map[string]struct {
		kind Kind
		do   func(c *net.TCPConn)
		want string
	}{
		"silent":           {KindHTTP, silent, "http GET /: no answer within 2s"},
		"silent, TLS":      {KindHTTPS, silent, "https GET /: no TLS handshake within 2s"},
		"trickling header": {KindHTTP, trickling("HTTP/1.1 200 OK\r\n", "X: x\r\n"), "http GET /: no answer within 2s"},
		"trickling hints":  {KindHTTP, trickling("", "HTTP/1.1 103 x\r\n\r\n"), "http GET /: no answer within 2s"},
		"trickling body":   {KindHTTP, trickling("HTTP/1.1 200 OK\r\n\r\n", "x"), `http GET /: no "ok" in its body within 2s`},
	} {
		t.Run(name, func(t *testing.T) {
			once(t, Probe{Kind: c.kind, Body: "ok", Timeout: 2 * time.Second}, conduct(t, c.do), c.want)
		})
	}
}

func TestATryEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	target := conduct(t, func(c *net.TCPConn) {
		heard(c)
		cancel()
		io.ReadAll(c)
		c.Close()
	})
	err := Probe{Kind: KindHTTP, Timeout: deadline}.Once(ctx, target)
	if !errors.Is(err, context.Canceled) || err.Error() != "http GET /: no answer: context canceled" {
		t.Error(err)
	}
}

func TestNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	target := to("tcp", ln.Addr().String())
	must(t, ln.Close())
	for _, kind := range []Kind{KindTCP, KindHTTP, KindHTTPS} {
		p := Probe{Kind: kind}
		once(t, p, target, fmt.Sprintf("%s: connect: connection refused", p))
	}
}

func TestThereIsNothingToAsk(t *testing.T) {
	for _, kind := range []Kind{KindTCP, KindHTTP} {
		p := Probe{Kind: kind}
		once(t, p, Target{}, fmt.Sprintf("%s: no listener that could be asked", p))
	}
}

func TestADialThatHangsEndsWithTheTimeout(t *testing.T) {
	target := Target{Dial: func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }}
	for _, kind := range []Kind{KindTCP, KindHTTP} {
		p := Probe{Kind: kind, Timeout: 20 * time.Millisecond}
		once(t, p, target, fmt.Sprintf("%s: no connection within 20ms", p))
	}
	target.Prove = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	once(t, Probe{Kind: KindTCP, Timeout: 20 * time.Millisecond}, target, "tcp: no acceptance within 20ms")
}

func TestATCPProbeIsContentWithAConnectionWhereNoProofIsGiven(t *testing.T) {
	ended := make(chan error, 1)
	target := conduct(t, func(c *net.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		ended <- err
		c.Close()
	})
	once(t, Probe{Kind: KindTCP}, target, "")
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the worker read %v", err)
	}
	target.Prove = func(context.Context) error { return errors.New("it sleeps") }
	once(t, Probe{Kind: KindTCP}, target, "tcp: it sleeps")
}

// Also where the server would keep it.
func TestTheConnectionEndsWithTheTry(t *testing.T) {
	for _, status := range []int{200, 500} {
		ended := make(chan error, 1)
		target := conduct(t, func(c *net.TCPConn) {
			heard(c)
			fmt.Fprintf(c, "HTTP/1.1 %d x\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", status)
			_, err := io.ReadAll(c)
			ended <- err
			c.Close()
		})
		_ = Probe{Kind: KindHTTP}.Once(t.Context(), target)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

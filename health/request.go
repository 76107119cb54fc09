package health

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

const (
	maxBody   = 64 << 10 // as far as Body is looked for
	maxAnswer = 1 << 20  // the header of an answer, with what is read of its body
	userAgent = "baton-probe"
)

// validateRequest is for the keys of a request.
func (p Probe) validateRequest() error {
	if !token(p.method()) {
		return fmt.Errorf("method %q: not a method", p.Method)
	}
	if _, err := p.url(""); err != nil {
		return err
	}
	if !visible(p.Host, ` /\@?#`) {
		return fmt.Errorf("host %q: not a host name, with or without a port", p.Host)
	}
	for name, value := range p.Header {
		switch {
		case !token(name):
			return fmt.Errorf("header %q: not the name of a header", name)
		case http.CanonicalHeaderKey(name) == "Host":
			return fmt.Errorf("header %q: is set by the key host", name)
		case !visible(strings.ReplaceAll(value, "\t", " "), ""):
			return fmt.Errorf("header %q: its value %q has control characters", name, value)
		}
	}
	for _, r := range p.Status {
		if r.Min < 100 || r.Max > 599 || r.Min > r.Max {
			return fmt.Errorf("status %s: not statuses from 100 to 599", r)
		}
	}
	if len(p.Body) > maxBody {
		return fmt.Errorf("body: %d bytes, and only %d are looked at", len(p.Body), maxBody)
	}
	return nil
}

// token tells whether s is a token of RFC 9110, section 5.6.2.
func token(s string) bool {
	return s != "" && visible(s, ` "(),/:;<=>?@[\]{}`) && !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f })
}

// url is what is asked for, of host.
func (p Probe) url(host string) (*url.URL, error) {
	u, err := url.ParseRequestURI(p.path())
	if err != nil || !strings.HasPrefix(p.path(), "/") || !visible(p.path(), " ") {
		return nil, fmt.Errorf("path %q: not a path, as in /healthz", p.Path)
	}
	u.Scheme, u.Host = string(p.Kind), host
	return u, nil
}

// host is for the Host header and the name asked for in TLS.
func (p Probe) host(t Target) string {
	if p.Host != "" {
		return p.Host
	}
	host, port, err := net.SplitHostPort(t.Address)
	if err != nil {
		return "localhost" // a path
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// request asks once, on a connection of its own. It is written and read here, not
// by an http.Transport, which would leave goroutines that outlast the try.
func (p Probe) request(ctx context.Context, t Target) (waited string, err error) {
	host := p.host(t)
	u, err := p.url(host)
	if err != nil {
		return "", err
	}
	r := &http.Request{Method: p.method(), URL: u, Host: host, Header: make(http.Header), Close: true,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("Accept", "*/*")
	for name, value := range p.Header {
		r.Header.Set(name, value)
	}
	own, err := t.Dial(ctx)
	if err != nil {
		return "connection", plain(err)
	}
	defer own.Close() // what the worker still has to say does not matter
	// Nothing more can be read or written then; an error, that it broke before.
	stop := whenEnds(ctx, func() { _ = own.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c := own
	if p.Kind == KindHTTPS {
		//nolint:gosec // as Kubernetes: the socket is known to be the worker's own, its certificate may be anybody's
		secure := tls.Client(own, &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()})
		if err := secure.HandshakeContext(ctx); err != nil {
			return "TLS handshake", plain(err)
		}
		c = secure
	}
	if err := r.Write(c); err != nil {
		return "reading of the request", plain(err)
	}
	return p.answer(c, r)
}

// answer reads the answer as far as it takes to judge it.
func (p Probe) answer(c io.Reader, r *http.Request) (waited string, err error) {
	limited := &io.LimitedReader{R: c, N: maxAnswer}
	reader := bufio.NewReader(limited)
	a, err := http.ReadResponse(reader, r) //nolint:bodyclose // see below
	for err == nil && a.StatusCode < 200 && a.StatusCode != http.StatusSwitchingProtocols {
		a, err = http.ReadResponse(reader, r) //nolint:bodyclose // that one only announced it
	}
	switch {
	case err != nil && limited.N == 0:
		return "answer", fmt.Errorf("no end of its header in %d bytes", maxAnswer)
	case err != nil:
		return "answer", plain(err)
	}
	// The body is not closed, which would read all of it: it ends with the connection.
	if !p.passes(a.StatusCode) {
		return "", errors.New(inWords(a.StatusCode))
	}
	return p.contains(a)
}

// contains reads the body until Body was in it.
func (p Probe) contains(a *http.Response) (waited string, err error) {
	var body []byte
	chunk := make([]byte, 4<<10)
	for read := io.LimitReader(a.Body, maxBody); !bytes.Contains(body, []byte(p.Body)); {
		n, err := read.Read(chunk)
		body = append(body, chunk[:n]...)
		switch {
		case n > 0 || err == nil:
		case errors.Is(err, io.EOF):
			return "", fmt.Errorf("%s without %q in its body", inWords(a.StatusCode), p.Body)
		default:
			return fmt.Sprintf("%q in its body", p.Body), plain(err)
		}
	}
	return "", nil
}

// inWords is the status as "503 Service Unavailable".
func inWords(status int) string {
	return strings.TrimSpace(fmt.Sprint(status, " ", http.StatusText(status)))
}

// whenEnds calls do when ctx ends, unless the returned function was called before;
// once that has returned, do is not running.
func whenEnds(ctx context.Context, do func()) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() { // ends with do
		defer close(done)
		do()
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// maxWords is as much of an error as a line may hold: some quote what they got.
const maxWords = 200

// plain is err without what the reader knows or cannot use: addresses, ports, and
// all that a server says which speaks something else.
func plain(err error) error {
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &op) && op.Err != nil:
		return op.Err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the connection ended too soon: %w", err)
	case len(err.Error()) > maxWords:
		return errors.New(strings.ToValidUTF8(err.Error()[:maxWords], "") + "...")
	}
	return err
}

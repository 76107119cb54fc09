package worker

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// answer is a response of HTTP/1 in a drain: the last one of its connection, unless
// it gives the connection to another protocol. Only the response tells. A request
// merely offers an upgrade, and some clients do with every one (Java's h2c, on plain
// HTTP); the server may answer it as any other (RFC 9110 section 7.8). And what a
// handler has set itself, such as keep-alive for a stream of events, would keep the
// connection open past the drain, so it is overruled when the header is written.
//
// It has what net/http's own writer for HTTP/1 has, since handlers ask for it by type.
type answer struct {
	http.ResponseWriter
	decided bool // the header is written, or the connection is the handler's
}

// last has the header say so, before net/http writes it.
func (a *answer) last() {
	if !a.decided {
		a.decided = true
		a.Header().Set("Connection", "close")
	}
}

func (a *answer) WriteHeader(code int) {
	switch {
	case code == http.StatusSwitchingProtocols:
		a.decided = true
	case code >= http.StatusOK:
		a.last() // a code below announces only: the header is yet to come
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(p []byte) (int, error) {
	a.last()
	return a.ResponseWriter.Write(p)
}

func (a *answer) WriteString(s string) (int, error) {
	a.last()
	return io.WriteString(a.ResponseWriter, s)
}

// ReadFrom keeps sendfile(2) in use.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	a.last()
	return io.Copy(a.ResponseWriter, r)
}

// Flush drops the error, as the interface has none: the handler's next write has it.
func (a *answer) Flush() { _ = a.FlushError() }

func (a *answer) FlushError() error {
	a.last()
	return http.NewResponseController(a.ResponseWriter).Flush()
}

func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil {
		a.decided = true
	}
	return c, rw, err
}

// CloseNotify is there for old handlers, which assert it without looking.
func (a *answer) CloseNotify() <-chan bool {
	if c, ok := a.ResponseWriter.(interface{ CloseNotify() <-chan bool }); ok {
		return c.CloseNotify()
	}
	return nil
}

// Unwrap is for http.ResponseController: deadlines and full duplex.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

package worker

import (
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// A close with received bytes unread resets the connection (RFC 2525 section 2.17),
// and the reset may destroy the answer on its way: a client that pipelines would lose
// what was processed. So the last answer of a connection is followed by an end of
// file, and what still comes is thrown away until the client has closed too (RFC 9112
// section 9.6).

// patience is how long a client may take for that.
const patience = 5 * time.Second

// hold makes net/http's close leave the socket open, by a second descriptor for it.
// Without one (no descriptor left, no such system) the close is a plain one.
//
// It stays a file until that close: net.FileConn calls its Fd, which takes O_NONBLOCK
// off the description that both descriptors share, for a moment. net/http reads beside
// a handler, and a read(2) in that moment waits in the kernel, where no deadline and no
// close wakes it: the connection would never end.
func (t *conn) hold() {
	raw := t.Conn
	if c, ok := raw.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		raw = c.NetConn()
	}
	c, ok := raw.(interface{ File() (*os.File, error) })
	if !ok || t.tail != nil {
		return
	}
	if f, err := c.File(); err == nil {
		t.tail = f
	}
}

// gone follows net/http's own close, or a handler's Hijack.
func (t *conn) gone(state http.ConnState) {
	if t.tail != nil && state == http.StateClosed {
		go t.linger() // ends after patience
		return
	}
	if t.tail != nil {
		t.tail.Close()
	}
	t.drain.conns.Delete(t.Conn)
}

// linger ends the connection from this side, and waits for the other.
func (t *conn) linger() {
	defer t.drain.conns.Delete(t.Conn)
	defer t.tail.Close()
	c, err := net.FileConn(t.tail) // net/http has waited for its own read, and closed
	if err != nil {
		return // no descriptor left: the plain close
	}
	defer c.Close()
	if w, ok := c.(interface{ CloseWrite() error }); !ok || w.CloseWrite() != nil {
		return // the client has reset it
	}
	if c.SetReadDeadline(time.Now().Add(patience)) == nil {
		_, _ = io.Copy(io.Discard, c) // its errors are its ends
	}
}

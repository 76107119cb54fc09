package examples

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"

	"baton/internal/load"
)

// Record types, the role, and the one request id of a connection that serves one
// request (FastCGI Specification 1.0, section 8).
const (
	fcgiVersion      = 1
	fcgiBeginRequest = 1
	fcgiEndRequest   = 3
	fcgiParams       = 4
	fcgiStdin        = 5
	fcgiStdout       = 6
	fcgiResponder    = 1
	fcgiRequestID    = 1
)

// fcgiHeader is what every record begins with.
type fcgiHeader struct {
	Version, Type uint8
	ID, Length    uint16
	Padding, _    uint8
}

// fastCGI opens connections on which a GET request of HTTP/1.1 goes out as one
// FastCGI request for script, and its answer comes back as HTTP/1.1 again: what a
// web server before a FastCGI server does. The answer has its end only when the
// server has ended the request rightly; whatever else ends the connection is the
// client's to see, as it came.
func fastCGI(script string) load.Dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &fcgiConn{Conn: c, script: script, records: bufio.NewReader(c)}, nil
	}
}

// fcgiConn is a connection of fastCGI, for one request.
type fcgiConn struct {
	net.Conn
	script  string
	records *bufio.Reader

	head  []byte       // of the answer, as far as it has come
	begun bool         // the head is complete
	ready bytes.Buffer // HTTP that has not been read yet
	ended bool         // the server has ended the request rightly
}

// Close resets the connection, for the reason load's own connections are reset:
// neither end is left in TIME_WAIT.
func (c *fcgiConn) Close() error {
	_ = c.Conn.(*net.TCPConn).SetLinger(0) // only makes the close an orderly one
	return c.Conn.Close()
}

// Write takes the whole head of a request, which load writes at once.
func (c *fcgiConn) Write(p []byte) (int, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(p)))
	if err != nil {
		return 0, err
	}
	var params, out bytes.Buffer
	for _, kv := range [][2]string{
		{"GATEWAY_INTERFACE", "CGI/1.1"}, {"SERVER_PROTOCOL", r.Proto}, {"REQUEST_METHOD", r.Method},
		{"SCRIPT_FILENAME", c.script}, {"SCRIPT_NAME", r.URL.Path}, {"REQUEST_URI", r.RequestURI},
		{"QUERY_STRING", r.URL.RawQuery}, {"HTTP_HOST", r.Host},
	} {
		for _, s := range kv {
			params.Write(fcgiLength(len(s)))
		}
		params.WriteString(kv[0] + kv[1])
	}
	const keepOpen = 0
	record(&out, fcgiBeginRequest, []byte{0, fcgiResponder, keepOpen, 0, 0, 0, 0, 0})
	record(&out, fcgiParams, params.Bytes())
	record(&out, fcgiParams, nil)
	record(&out, fcgiStdin, nil)
	if _, err := c.Conn.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// fcgiLength is that of a name or a value (section 3.4).
func fcgiLength(n int) []byte {
	if n < 128 {
		return []byte{byte(n)}
	}
	return binary.BigEndian.AppendUint32(nil, uint32(n)|1<<31)
}

func record(out *bytes.Buffer, kind uint8, content []byte) {
	// A buffer takes every write.
	_ = binary.Write(out, binary.BigEndian, fcgiHeader{fcgiVersion, kind, fcgiRequestID, uint16(len(content)), 0, 0})
	out.Write(content)
}

// Read gives the answer as HTTP/1.1 in chunks, a record each.
func (c *fcgiConn) Read(p []byte) (int, error) {
	for c.ready.Len() == 0 {
		if c.ended {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	return c.ready.Read(p)
}

// next takes one record.
func (c *fcgiConn) next() error {
	var h fcgiHeader
	if err := binary.Read(c.records, binary.BigEndian, &h); err != nil {
		return err
	}
	content := make([]byte, int(h.Length)+int(h.Padding))
	if _, err := io.ReadFull(c.records, content); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	content = content[:h.Length]
	switch {
	case h.Version != fcgiVersion || h.ID != fcgiRequestID:
		return fmt.Errorf("record of version %d for request %d", h.Version, h.ID)
	case h.Type == fcgiStdout:
		return c.output(content)
	case h.Type == fcgiEndRequest:
		return c.end(content)
	}
	return fmt.Errorf("record of type %d: %q", h.Type, content)
}

// output takes what the script wrote: headers as of CGI, then the body.
func (c *fcgiConn) output(content []byte) error {
	if !c.begun {
		c.head = append(c.head, content...)
		head, body, whole := bytes.Cut(c.head, []byte("\r\n\r\n"))
		if !whole {
			return nil
		}
		c.begun = true
		if err := c.begin(head); err != nil {
			return err
		}
		content = body
	}
	if len(content) > 0 {
		fmt.Fprintf(&c.ready, "%x\r\n%s\r\n", len(content), content)
	}
	return nil
}

// begin writes the head of the answer. Its status is a header (RFC 3875, 6.3.3).
func (c *fcgiConn) begin(head []byte) error {
	fields, err := textproto.NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(head), strings.NewReader("\r\n\r\n")))).ReadMIMEHeader()
	if err != nil {
		return err
	}
	status := fields.Get("Status")
	fields.Del("Status")
	if status == "" {
		status = "200 OK"
	}
	fmt.Fprintf(&c.ready, "HTTP/1.1 %s\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n", status)
	if err := http.Header(fields).Write(&c.ready); err != nil {
		return err
	}
	c.ready.WriteString("\r\n")
	return nil
}

// end takes the record that ends the request: both of its codes must be 0, the
// script's own and FCGI_REQUEST_COMPLETE.
func (c *fcgiConn) end(content []byte) error {
	if len(content) != 8 || !bytes.Equal(content[:5], make([]byte, 5)) {
		return fmt.Errorf("the request ended with %v", content)
	}
	if !c.begun {
		return fmt.Errorf("the request ended after %d bytes of head", len(c.head))
	}
	c.ended = true
	c.ready.WriteString("0\r\n\r\n")
	return nil
}

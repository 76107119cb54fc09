package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// answer is what the server said of itself in a right response.
type answer struct {
	pid, generation string
	last            bool // the server will not take another request here
}

// answerError is a response that came whole, but is not the right one.
type answerError struct {
	reason Reason
	err    error
}

func (e *answerError) Error() string { return e.err.Error() }
func (e *answerError) Unwrap() error { return e.err }

// converse writes request number n and reads its answer.
func (o *Options) converse(ctx context.Context, conn *connection, n int) (*answer, error) {
	var digest string
	var sent error
	if o.Kind == Upload {
		digest, sent = o.upload(ctx, conn, n)
	} else {
		_, sent = io.WriteString(conn.Conn, o.head("GET", ""))
	}
	// After a failed write the answer may still have come, an early refusal.
	a, err := o.receive(conn, digest)
	if err != nil && sent != nil && conn.got == 0 {
		return nil, sent
	}
	return a, err
}

func (o *Options) head(method, more string) string {
	if o.Kind != KeepAlive {
		more += "Connection: close\r\n"
	}
	return method + " " + o.Path + " HTTP/1.1\r\nHost: " + o.Host + "\r\n" + more + "\r\n"
}

// upload sends a body in ten parts over UploadTime, by turns with a length and
// chunked, and returns its digest.
func (o *Options) upload(ctx context.Context, conn *connection, n int) (string, error) {
	const parts = 10
	body := Pattern(n*31, o.UploadSize)
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	chunked := n%2 == 0
	framing := "Content-Length: " + strconv.Itoa(len(body)) + "\r\n"
	if chunked {
		framing = "Transfer-Encoding: chunked\r\n"
	}
	if _, err := io.WriteString(conn.Conn, o.head("POST", framing)); err != nil {
		return digest, err
	}
	tick := time.NewTicker(max(o.UploadTime/parts, 1))
	defer tick.Stop()
	for i := range parts {
		part := body[len(body)*i/parts : len(body)*(i+1)/parts]
		if chunked && len(part) > 0 {
			part = fmt.Appendf(nil, "%x\r\n%s\r\n", len(part), part)
		}
		if _, err := conn.Write(part); err != nil {
			return digest, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return digest, ctx.Err()
		}
	}
	if chunked {
		if _, err := io.WriteString(conn.Conn, "0\r\n\r\n"); err != nil {
			return digest, err
		}
	}
	return digest, nil
}

// receive reads one response to its end and checks it. With a digest, the body
// must be just that.
func (o *Options) receive(conn *connection, digest string) (*answer, error) {
	response, err := http.ReadResponse(conn.reader, nil)
	switch {
	case err != nil && conn.end != nil: // the parser may name what it missed instead
		return nil, conn.end
	case err != nil:
		return nil, &answerError{Malformed, err}
	}
	defer response.Body.Close() // read to its end below, or the connection is dropped
	framed := response.ContentLength >= 0 || len(response.TransferEncoding) > 0
	checked, err := o.check(response, digest)
	if errors.Is(err, errShort) && !framed {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if !framed && !checked {
		return nil, &answerError{Malformed, errors.New("the end of the response cannot be told from a " +
			"truncation: neither length nor chunks, and its content is not known")}
	}
	return &answer{
		pid:        response.Header.Get(HeaderPID),
		generation: response.Header.Get(HeaderGeneration),
		last:       response.Close,
	}, nil
}

// check reads the body and holds it against what is known of it; known tells
// whether its content was.
func (o *Options) check(response *http.Response, digest string) (known bool, err error) {
	if response.StatusCode != http.StatusOK {
		detail, _ := io.ReadAll(io.LimitReader(response.Body, 200)) // only to say more
		return false, &answerError{Status, fmt.Errorf("%s: %.200q", response.Status, detail)}
	}
	announced := response.Header.Get(HeaderPattern)
	switch {
	case digest != "":
		known, err = true, match(response.Body, len(digest), func(i int) byte { return digest[i] })
	case o.Expect != nil:
		known, err = true, match(response.Body, len(o.Expect), func(i int) byte { return o.Expect[i] })
	case announced != "":
		n, bad := strconv.Atoi(announced)
		if bad != nil {
			return false, &answerError{Malformed, fmt.Errorf("%s: %w", HeaderPattern, bad)}
		}
		known, err = true, match(response.Body, n, func(i int) byte { return patterned()[i%period] })
	default:
		_, err = io.Copy(io.Discard, response.Body)
	}
	if errors.Is(err, errContent) {
		return known, &answerError{Content, err}
	}
	return known, err
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &t) && t.Timeout()
}

// isRefused includes the ways in which connect(2) on a unix path says that
// nobody is there; EAGAIN is its full queue (unix(7)).
func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, syscall.EAGAIN)
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func isNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

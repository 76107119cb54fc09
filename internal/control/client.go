package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"baton/internal/event"
)

// Client asks one launcher. Each call has a connection of its own, so that a Client
// may be kept as long as one likes, and used by several goroutines.
type Client struct {
	// Name of the application.
	Name string
	dir  string
}

// In is a Client of the application with that name in a directory, which is Home's
// most often. It finds out with each call whether that runs.
func In(dir, name string) *Client { return &Client{Name: name, dir: dir} }

// ErrNotRunning is wrapped by the error of every call when the launcher is not there,
// or ended before it had answered.
var ErrNotRunning = errors.New("not running")

// ErrReplaced is wrapped by the error of a call that was under way when the launcher was
// upgraded: what was asked for goes on, and nobody tells what came of it.
var ErrReplaced = errors.New("the launcher was upgraded before it had answered")

// Error is what a launcher answered that could not do what was asked for.
type Error struct {
	Status  int // of HTTP
	Message string
}

func (e *Error) Error() string { return e.Message }

// Busy reports whether the same may be asked again later.
func (e *Error) Busy() bool { return e.Status == http.StatusServiceUnavailable }

// Nothing reports whether there is nothing that it could be done to: a canary, a log.
func (e *Error) Nothing() bool { return e.Status == http.StatusConflict }

// Status is the present state.
func (c *Client) Status(ctx context.Context) (*event.Report, error) {
	var report event.Report
	if err := c.call(ctx, http.MethodGet, "status", nil, &report); err != nil {
		return nil, err
	}
	return &report, nil
}

// Glance is Status without what workers use, which costs the launcher most of it: who
// asks many looks himself.
func (c *Client) Glance(ctx context.Context) (*event.Report, error) {
	var report event.Report
	if err := c.call(ctx, http.MethodGet, "status", url.Values{"usage": {"0"}}, &report); err != nil {
		return nil, err
	}
	return &report, nil
}

// Reload asks for a swap and waits for the verdict. With ifGeneration other than 0 it
// is superseded unless that generation serves.
func (c *Client) Reload(ctx context.Context, ifGeneration int) (event.Verdict, error) {
	var v event.Verdict
	err := c.call(ctx, http.MethodPost, "reload", generation(ifGeneration), &v)
	return v, err
}

// BeginReload is Reload without the wait.
func (c *Client) BeginReload(ctx context.Context, ifGeneration int) error {
	q := generation(ifGeneration)
	q.Set("wait", "0")
	return c.call(ctx, http.MethodPost, "reload", q, nil)
}

func generation(n int) url.Values {
	q := url.Values{}
	if n != 0 {
		q.Set("if-generation", strconv.Itoa(n))
	}
	return q
}

// Rollback goes back to what served before, and waits for the verdict.
func (c *Client) Rollback(ctx context.Context) (event.Verdict, error) {
	var v event.Verdict
	err := c.call(ctx, http.MethodPost, "rollback", nil, &v)
	return v, err
}

// Promote ends a canary or a bake now, for the newcomer, or with step goes on to the
// canary's next step.
func (c *Client) Promote(ctx context.Context, step bool) error {
	q := url.Values{}
	if step {
		q.Set("step", "1")
	}
	return c.call(ctx, http.MethodPost, "promote", q, nil)
}

// Abort ends a canary or a bake now, for who served before.
func (c *Client) Abort(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "abort", nil, nil)
}

// Scale sets the number of workers ("4") or changes it ("+1", "-1"), and returns what
// it is then.
func (c *Client) Scale(ctx context.Context, workers string) (int, error) {
	var s scaled
	err := c.call(ctx, http.MethodPost, "scale", url.Values{"workers": {workers}}, &s)
	return s.Workers, err
}

// Stop ends the launcher, gracefully or now, and returns when its process has ended.
func (c *Client) Stop(ctx context.Context, now bool) error {
	q := url.Values{}
	if now {
		q.Set("now", "1")
	}
	return c.exchange(ctx, http.MethodPost, "stop", q, func(r *http.Response) error {
		if r.StatusCode != http.StatusAccepted {
			return failure(r)
		}
		// The end of the response is that of the process.
		_, err := io.Copy(io.Discard, r.Body)
		if ctx.Err() == nil && broken(err) {
			return nil
		}
		return err
	})
}

// Upgrade has the launcher replaced by the program that lies where it came from, and
// returns the state that the new one tells of. An *Error says why the old one goes on.
func (c *Client) Upgrade(ctx context.Context) (*event.Report, error) {
	before, err := c.Glance(ctx)
	if err != nil {
		return nil, err
	}
	err = c.call(ctx, http.MethodPost, "upgrade", nil, nil)
	if !errors.Is(err, ErrNotRunning) && !errors.Is(err, ErrReplaced) {
		return nil, err
	}
	for { // it went away, as it does when it is replaced
		after, err := c.Glance(ctx)
		switch {
		case err == nil && after.PID == before.PID && after.Resumed > before.Resumed:
			return after, nil
		case err == nil && after.PID != before.PID:
			return nil, fmt.Errorf("%s: the launcher was pid %d, and is pid %d now", c.Name, before.PID, after.PID)
		case errors.Is(err, ErrNotRunning):
			return nil, err // its socket stays open over an upgrade
		case err != nil && ctx.Err() != nil:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: no answer: %w", c.Name, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Reopen has the launcher open the files again to which it writes its workers' output.
func (c *Client) Reopen(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "reopen", nil, nil)
}

// Flush empties what is kept of the workers' output.
func (c *Client) Flush(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "flush", nil, nil)
}

// call decodes the answer into what, if that is not nil.
func (c *Client) call(ctx context.Context, method, name string, q url.Values, what any) error {
	return c.exchange(ctx, method, name, q, func(r *http.Response) error {
		v, judged := what.(*event.Verdict)
		if r.StatusCode >= 300 && !judged {
			return failure(r)
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
		if err != nil {
			return err
		}
		if what == nil {
			return nil
		}
		if judged && r.StatusCode >= 300 {
			if err := json.Unmarshal(body, v); err != nil || v.Outcome == "" {
				return problemIn(r.StatusCode, body)
			}
			return nil
		}
		if err := json.Unmarshal(body, what); err != nil {
			return fmt.Errorf("%s: what answered is no launcher: %w", c.Name, err)
		}
		return nil
	})
}

// maxAnswer is far more than any report.
const maxAnswer = 64 << 20

func failure(r *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return err
	}
	return problemIn(r.StatusCode, body)
}

func problemIn(status int, body []byte) error {
	var p problem
	if json.Unmarshal(body, &p) != nil || p.Error == "" {
		p.Error = fmt.Sprintf("the launcher answered %d %s", status, http.StatusText(status))
	}
	return &Error{Status: status, Message: p.Error}
}

// exchange sends one request and hands the response to read. A question that was under
// way when the launcher was upgraded is asked again.
func (c *Client) exchange(ctx context.Context, method, name string, q url.Values, read func(*http.Response) error) error {
	err := c.once(ctx, method, name, q, read)
	if !errors.Is(err, ErrNotRunning) || !broken(err) {
		return err
	}
	if !c.replaced(ctx) {
		return err
	}
	if method == http.MethodGet {
		return c.once(ctx, method, name, q, read)
	}
	return fmt.Errorf("%s: %w", c.Name, ErrReplaced)
}

// replaced says of a launcher that has broken its connections whether it was upgraded: one
// that was killed answers nobody.
func (c *Client) replaced(ctx context.Context) bool {
	return c.once(ctx, http.MethodGet, "status", url.Values{"usage": {"0"}}, func(*http.Response) error { return nil }) == nil
}

func (c *Client) once(ctx context.Context, method, name string, q url.Values, read func(*http.Response) error) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()                                                               // what was to be read has been
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a connection has it always
	defer stop()
	err = func() error {
		r, err := http.NewRequestWithContext(ctx, method, "http://baton/v1/"+name+"?"+q.Encode(), nil)
		if err != nil {
			return err
		}
		if err := r.Write(conn); err != nil && !broken(err) { // it may have answered before it read
			return err
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		defer conn.Close() // first: the body's Close reads on to its end, which may be far
		return read(response)
	}()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no answer: %w", c.Name, context.Cause(ctx))
	case broken(err):
		return &brokenError{fmt.Errorf("%s: %w: the launcher ended before it had answered", c.Name, ErrNotRunning), err}
	}
	return err
}

// brokenError is the error of a connection that was ended from the other side.
type brokenError struct{ words, cause error }

func (e *brokenError) Error() string   { return e.words.Error() }
func (e *brokenError) Unwrap() []error { return []error{e.words, e.cause} }

// dial connects, and waits where too many do.
func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	if !Fits(c.Name) {
		return nil, fmt.Errorf("%q is no name of an application", c.Name)
	}
	for {
		conn, err := dial(filepath.Join(c.dir, c.Name+socketSuffix))
		switch {
		case err == nil:
			return conn, nil
		case absent(err):
			return nil, fmt.Errorf("%s is %w", c.Name, ErrNotRunning)
		case !errors.Is(err, syscall.EAGAIN): // the queue of those who connect is full
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: no answer: %w", c.Name, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// broken reports whether a connection was ended from the other side.
func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"baton/internal/event"
)

// endpoint is one thing that can be asked.
type endpoint struct {
	method string
	takes  []string // parameters, in the query
	do     func(*Server, http.ResponseWriter, *http.Request, url.Values)
}

var endpoints = map[string]endpoint{
	"/v1/status":   {http.MethodGet, []string{"usage"}, (*Server).status},
	"/v1/reload":   {http.MethodPost, []string{"if-generation", "wait"}, (*Server).reload},
	"/v1/rollback": {http.MethodPost, []string{"wait"}, (*Server).rollback},
	"/v1/promote":  {http.MethodPost, []string{"step"}, (*Server).promote},
	"/v1/abort":    {http.MethodPost, nil, (*Server).abort},
	"/v1/scale":    {http.MethodPost, []string{"workers"}, (*Server).scale},
	"/v1/stop":     {http.MethodPost, []string{"now", "wait"}, (*Server).stop},
	"/v1/events":   {http.MethodGet, []string{"replay", "follow"}, (*Server).events},
	"/v1/reopen":   {http.MethodPost, nil, (*Server).reopenLogs},
	"/v1/flush":    {http.MethodPost, nil, (*Server).flushLogs},
	"/v1/upgrade":  {http.MethodPost, nil, (*Server).upgrade},
}

// problem is the JSON of every error.
type problem struct {
	Error string `json:"error"`
}

// accepted is the JSON of what was begun and is not waited for.
type accepted struct {
	Accepted bool `json:"accepted"`
}

// scaled is the JSON of a scale.
type scaled struct {
	Workers int `json:"workers"`
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	g := r.Context().Value(guestKey{}).(*guest)
	g.setBusy(true)
	defer g.setBusy(false)
	paid := s.owe()
	defer paid()

	e, ok := endpoints[r.URL.Path]
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "no such path: %s; there are %s", r.URL.Path, strings.Join(slices.Sorted(maps.Keys(endpoints)), ", "))
		return
	case r.Method != e.method:
		w.Header().Set("Allow", e.method)
		fail(w, http.StatusMethodNotAllowed, "%s takes %s, not %s", r.URL.Path, e.method, r.Method)
		return
	case r.ContentLength != 0:
		w.Header().Set("Connection", "close") // the body is not read
		fail(w, http.StatusBadRequest, "a body is not read: parameters go into the query")
		return
	}
	q, err := parameters(r.URL.RawQuery, e.takes)
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	e.do(s, w, r.WithContext(context.WithValue(r.Context(), paidKey{}, paid)), q)
}

type paidKey struct{}

// parameters reads a query strictly: one that is not known, or that is there twice,
// would not do what was meant.
func parameters(query string, known []string) (url.Values, error) {
	// '+' is a blank in a query, and a sign in workers=+1.
	q, err := url.ParseQuery(strings.ReplaceAll(query, "+", "%2B"))
	if err != nil {
		return nil, err
	}
	for name, values := range q {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("parameter %q is not known", name)
		}
		if len(values) > 1 {
			return nil, fmt.Errorf("parameter %q is there twice", name)
		}
	}
	return q, nil
}

// yes reads a parameter that is 1 or 0, or not there.
func yes(q url.Values, name string, otherwise bool) (bool, error) {
	switch v, ok := q[name]; {
	case !ok:
		return otherwise, nil
	case v[0] == "1":
		return true, nil
	case v[0] == "0":
		return false, nil
	default:
		return false, fmt.Errorf("%s is 0 or 1, not %q", name, v[0])
	}
}

func answer(w http.ResponseWriter, code int, body any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		code = http.StatusInternalServerError
		b.Reset()
		fmt.Fprintf(&b, "{\"error\":%q}\n", err)
	}
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTime)) // a connection has it always
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes()) // who does not read it has gone
	_ = rc.Flush()            // likewise; the process may end next
}

func fail(w http.ResponseWriter, code int, format string, args ...any) {
	answer(w, code, problem{fmt.Sprintf(format, args...)})
}

var (
	errEnded = errors.New("the launcher has ended")
	errSlow  = fmt.Errorf("the engine gave no answer within %v", engineTime)
)

// ask calls the engine from a goroutine, which ends with the engine's answer, and
// waits for it, but not for ever.
func ask[T any](s *Server, r *http.Request, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	select {
	case s.calls <- struct{}{}:
	default:
		return none, errSlow // to all of these, and so to this one
	}
	c := make(chan result, 1)
	go func() {
		defer func() { <-s.calls }()
		v, err := f()
		c <- result{v, err}
	}()
	limit := time.NewTimer(engineTime)
	defer limit.Stop()
	select {
	case got := <-c:
		return got.value, got.err
	case <-r.Context().Done():
		return none, r.Context().Err()
	case <-limit.C:
		return none, errSlow
	}
}

// failed answers with what ask returned.
func failed(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errEnded):
		fail(w, http.StatusGone, "%v", err)
	case errors.Is(err, context.Canceled): // gone, or one who closed his half, to whom silence would be a 200
		fail(w, http.StatusBadRequest, "the connection was closed before the answer; what was asked for goes on")
	case errors.Is(err, errSlow):
		fail(w, http.StatusGatewayTimeout, "%v", err)
	default:
		fail(w, http.StatusConflict, "%v", err)
	}
}

func (s *Server) status(w http.ResponseWriter, r *http.Request, q url.Values) {
	usage, err := yes(q, "usage", true)
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	look := s.engine.Report
	if !usage {
		look = s.engine.Glance
	}
	report, err := ask(s, r, func() (*event.Report, error) {
		report := look()
		if report == nil {
			return nil, errEnded
		}
		return whole(report), nil
	})
	if err != nil {
		failed(w, err)
		return
	}
	answer(w, http.StatusOK, report)
}

// whole has lists where there is nothing to list: a script that goes through them
// does not want to know that they may be null.
func whole(r *event.Report) *event.Report {
	if r.Listeners == nil {
		r.Listeners = []event.Listener{}
	}
	if r.Generations == nil {
		r.Generations = []event.Generation{}
	}
	for i := range r.Generations {
		if r.Generations[i].Workers == nil {
			r.Generations[i].Workers = []event.Worker{}
		}
	}
	return r
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request, q url.Values) {
	only := 0
	if given, ok := q["if-generation"]; ok {
		var err error
		if only, err = strconv.Atoi(given[0]); err != nil || only < 1 {
			fail(w, http.StatusBadRequest, "if-generation is the number of a generation, not %q", given[0])
			return
		}
	}
	s.verdict(w, r, q, func(done func(event.Verdict)) { s.engine.Reload(only, done) })
}

func (s *Server) rollback(w http.ResponseWriter, r *http.Request, q url.Values) {
	s.verdict(w, r, q, s.engine.Rollback)
}

// verdict asks for what has a verdict and, if that is wanted, waits for it.
func (s *Server) verdict(w http.ResponseWriter, r *http.Request, q url.Values, request func(func(event.Verdict))) {
	wait, err := yes(q, "wait", true)
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	if wait {
		leave, ok := s.wait(w)
		if !ok {
			return
		}
		defer leave()
	}
	got := make(chan event.Verdict, 1)
	if _, err := ask(s, r, func() (struct{}, error) {
		request(func(v event.Verdict) { got <- v })
		return struct{}{}, nil
	}); err != nil {
		failed(w, err)
		return
	}
	if !wait {
		answer(w, http.StatusAccepted, accepted{true})
		return
	}
	select {
	case v := <-got:
		judged(w, v)
	case <-r.Context().Done():
		failed(w, context.Canceled)
	case <-s.engine.Ended():
		select {
		case v := <-got:
			judged(w, v)
		default:
			judged(w, event.Verdict{Outcome: Stopped, Reason: errEnded.Error()})
		}
	}
}

// ErrUpgrading is what Options.Upgrade says while another upgrade is under way.
var ErrUpgrading = errors.New("another upgrade is under way")

// upgrade answers only when the launcher is not replaced: else the connection ends with
// it, and who connects next reaches the one that took its place.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, _ url.Values) {
	if s.o.Upgrade == nil {
		fail(w, http.StatusConflict, "this launcher cannot be replaced while it runs: restart it")
		return
	}
	leave, ok := s.wait(w)
	if !ok {
		return
	}
	defer leave()
	got := make(chan error, 1)
	s.o.Upgrade(func(err error) { got <- err })
	select {
	case err := <-got:
		status := http.StatusUnprocessableEntity
		if errors.Is(err, ErrUpgrading) {
			status = http.StatusServiceUnavailable
		}
		fail(w, status, "%v", err)
	case <-r.Context().Done():
		failed(w, context.Canceled)
	case <-s.engine.Ended():
		failed(w, errEnded)
	}
}

// wait takes one of the places of those who wait.
func (s *Server) wait(w http.ResponseWriter) (leave func(), ok bool) {
	select {
	case s.waits <- struct{}{}:
		return func() { <-s.waits }, true
	default:
		fail(w, http.StatusServiceUnavailable, "%d requests wait already", maxWaits)
		return nil, false
	}
}

func judged(w http.ResponseWriter, v event.Verdict) { answer(w, verdictStatus(v.Outcome), v) }

// verdictStatus lets a client without JSON tell a success, and most failures apart.
func verdictStatus(outcome string) int {
	switch outcome {
	case Swapped:
		return http.StatusOK
	case RolledBack:
		return http.StatusFailedDependency
	case Refused:
		return http.StatusUnprocessableEntity
	case Stopped:
		return http.StatusGone
	default:
		return http.StatusConflict // superseded
	}
}

func (s *Server) promote(w http.ResponseWriter, r *http.Request, q url.Values) {
	step, err := yes(q, "step", false)
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	s.do(w, r, func() error { return s.engine.Promote(step) })
}

func (s *Server) abort(w http.ResponseWriter, r *http.Request, _ url.Values) {
	s.do(w, r, s.engine.Abort)
}

func (s *Server) reopenLogs(w http.ResponseWriter, r *http.Request, _ url.Values) {
	s.logs(w, r, s.o.Reopen)
}

func (s *Server) flushLogs(w http.ResponseWriter, r *http.Request, _ url.Values) {
	s.logs(w, r, s.o.Flush)
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request, f func() error) {
	if f == nil {
		fail(w, http.StatusConflict, "no log is kept: what the workers write passes through")
		return
	}
	s.do(w, r, f)
}

func (s *Server) do(w http.ResponseWriter, r *http.Request, f func() error) {
	if _, err := ask(s, r, func() (struct{}, error) { return struct{}{}, f() }); err != nil {
		failed(w, err)
		return
	}
	answer(w, http.StatusOK, accepted{true})
}

func (s *Server) scale(w http.ResponseWriter, r *http.Request, q url.Values) {
	n, relative, err := ParseScale(q.Get("workers"))
	if err != nil {
		fail(w, http.StatusBadRequest, "workers: %v", err)
		return
	}
	workers, err := ask(s, r, func() (int, error) { return s.engine.Scale(n, relative) })
	if err != nil {
		failed(w, err)
		return
	}
	answer(w, http.StatusOK, scaled{workers})
}

// MaxWorkers is more than any machine has use for, and far less than what would
// harm one by a slip of the hand.
const MaxWorkers = 1024

// ParseScale reads a number of workers, or a change of it: "4", "+1", "-2".
func ParseScale(text string) (n int, relative bool, err error) {
	digits := text
	if strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-") {
		relative, digits = true, text[1:]
	}
	n, err = strconv.Atoi(digits)
	if err != nil || strings.HasPrefix(digits, "+") || strings.HasPrefix(digits, "-") || n == 0 || n > MaxWorkers {
		return 0, false, fmt.Errorf("a number from 1 to %d, or +N or -N, and not %q", MaxWorkers, text)
	}
	if text[0] == '-' {
		n = -n
	}
	return n, relative, nil
}

// stop answers at once that the end has begun. Unless that is all that is wanted, the
// response goes on, with nothing more in it, until the launcher has ended.
func (s *Server) stop(w http.ResponseWriter, r *http.Request, q url.Values) {
	now, err := yes(q, "now", false)
	wait := false
	if err == nil {
		wait, err = yes(q, "wait", true)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	if wait {
		leave, ok := s.wait(w)
		if !ok {
			return
		}
		defer leave()
	}
	if _, err := ask(s, r, func() (struct{}, error) {
		if now {
			s.engine.End()
		} else {
			s.engine.Stop()
		}
		return struct{}{}, nil
	}); err != nil {
		failed(w, err)
		return
	}
	if !wait {
		answer(w, http.StatusAccepted, accepted{true})
		return
	}
	s.untilEnd(r.Context(), w)
}

// untilEnd begins a response whose end is that of its connection, and waits for that.
func (s *Server) untilEnd(gone context.Context, w http.ResponseWriter) {
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTime)) // a connection has it always
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Transfer-Encoding", "identity") // net/http: neither a length nor chunks
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write([]byte("{\"accepted\":true}\n")) // who does not read it is noticed below
	_ = rc.Flush()
	gone.Value(paidKey{}).(func())() // Leave does not wait for this one
	<-gone.Done()
}

package load

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Reason is the class of a lost request.
type Reason string

const (
	Refused   Reason = "refused"   // connect(2) was refused; for unix also: nothing at the path
	Connect   Reason = "connect"   // connect(2) ended otherwise
	Reset     Reason = "reset"     // reset before a byte of the answer
	EOF       Reason = "eof"       // closed before a byte of the answer
	Truncated Reason = "truncated" // closed or reset within the answer
	Timeout   Reason = "timeout"   // no whole answer within Options.Timeout
	Status    Reason = "status"    // an answer other than 200
	Content   Reason = "content"   // a whole answer that is not the right one
	Malformed Reason = "malformed" // bytes that are not HTTP/1.1, or an answer whose end cannot be told
)

// Loss is one lost request.
type Loss struct {
	At     time.Time     // when it was found lost
	After  time.Duration // since the run began
	Took   time.Duration // since the request began
	Target Target
	Local  string // the client's own address, when it had one
	Reason Reason
	Detail string
	During bool // it overlapped a swap
}

func (l Loss) String() string {
	when := "steady"
	if l.During {
		when = "during a swap"
	}
	return fmt.Sprintf("%s (+%v, %s) %s from %s: %s after %v: %s", l.At.Format("15:04:05.000000"),
		l.After.Round(time.Microsecond), when, l.Target.Address, l.Local, l.Reason,
		l.Took.Round(time.Microsecond), l.Detail)
}

// examples is how many losses a Result describes.
const examples = 20

// Interval is what happened within one TimelineStep of a run, by the time at
// which requests ended.
type Interval struct {
	From   time.Duration `json:"from"` // since the run began
	Ended  int           `json:"ended"`
	Lost   int           `json:"lost"`
	Worst  time.Duration `json:"worst"` // the longest answered request
	During bool          `json:"during"`
}

// TimelineStep is the length of an Interval.
const TimelineStep = 100 * time.Millisecond

// Result is what a run counted.
type Result struct {
	Requests int // answered or lost
	Lost     int
	Reasons  map[Reason]int // Lost, by class
	Examples []Loss         // the first losses, in the order of time

	// IdleClosed is how many kept-alive connections the server closed between
	// two requests: found closed before the next request was written (IdleClean),
	// or while it was on its way, so that it got no byte of an answer (IdleRaced).
	// HTTP lets a server do so (RFC 9112 section 9.6), so neither is lost, and
	// neither is among Requests.
	IdleClosed, IdleClean, IdleRaced int
	// Abandoned requests were under way when the run's context ended.
	Abandoned int
	// Connections is how many were opened.
	Connections int

	// Latency of answered requests from dialling (or writing, on a connection
	// that was reused) to the last byte, apart for those that overlapped a swap.
	Steady, During Histogram
	// Swaps is how often Mark was called.
	Swaps int

	ByPID, ByGeneration map[string]int // answered requests, as the server says
	Timeline            []Interval
	Elapsed             time.Duration
}

func newResult() Result {
	return Result{Reasons: map[Reason]int{}, ByPID: map[string]int{}, ByGeneration: map[string]int{}}
}

// Answered is how many requests got their whole, right answer.
func (r Result) Answered() int { return r.Requests - r.Lost }

// All is the latency of all answered requests.
func (r Result) All() Histogram {
	var h Histogram
	h.Add(&r.Steady)
	h.Add(&r.During)
	return h
}

// String is a line for logs and test failures, with an example per line after it.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests, %d lost", r.Requests, r.Lost)
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		fmt.Fprintf(&b, ", %d %s", r.Reasons[reason], reason)
	}
	fmt.Fprintf(&b, "; %d closed while idle (%d raced), %d abandoned, %d swaps, %d servers in %v",
		r.IdleClosed, r.IdleRaced, r.Abandoned, r.Swaps, len(r.ByPID), r.Elapsed.Round(time.Millisecond))
	for _, l := range r.Examples {
		fmt.Fprintf(&b, "\n  %v", l)
	}
	return b.String()
}

// interval returns the one that t lies in.
func (r *Result) interval(t time.Duration) *Interval {
	i := int(t / TimelineStep)
	for len(r.Timeline) <= i {
		r.Timeline = append(r.Timeline, Interval{From: time.Duration(len(r.Timeline)) * TimelineStep})
	}
	return &r.Timeline[i]
}

func (r *Result) answered(a *answer, end, took time.Duration, during bool) {
	r.Requests++
	if a.pid != "" {
		r.ByPID[a.pid]++
	}
	if a.generation != "" {
		r.ByGeneration[a.generation]++
	}
	if during {
		r.During.Record(took)
	} else {
		r.Steady.Record(took)
	}
	at := r.interval(end)
	at.Ended++
	at.Worst = max(at.Worst, took)
	at.During = at.During || during
}

func (r *Result) lost(l Loss) {
	r.Requests++
	r.Lost++
	r.Reasons[l.Reason]++
	at := r.interval(l.After)
	at.Ended++
	at.Lost++
	at.During = at.During || l.During
	if len(r.Examples) < examples {
		r.Examples = append(r.Examples, l)
	}
}

// add sums another client's count into r; finish must follow the last.
func (r *Result) add(o *Result) {
	r.Requests += o.Requests
	r.Lost += o.Lost
	r.IdleClean += o.IdleClean
	r.IdleRaced += o.IdleRaced
	r.Abandoned += o.Abandoned
	r.Connections += o.Connections
	r.Steady.Add(&o.Steady)
	r.During.Add(&o.During)
	r.Examples = append(r.Examples, o.Examples...)
	sum(r.Reasons, o.Reasons)
	sum(r.ByPID, o.ByPID)
	sum(r.ByGeneration, o.ByGeneration)
	for i := range o.Timeline {
		from, to := &o.Timeline[i], r.interval(o.Timeline[i].From)
		to.Ended += from.Ended
		to.Lost += from.Lost
		to.Worst = max(to.Worst, from.Worst)
		to.During = to.During || from.During
	}
}

func (r *Result) finish() {
	r.IdleClosed = r.IdleClean + r.IdleRaced
	slices.SortFunc(r.Examples, func(a, b Loss) int { return int(a.After - b.After) })
	r.Examples = slices.Clip(r.Examples[:min(len(r.Examples), examples)])
}

func sum[K comparable](into, from map[K]int) {
	for k, n := range from {
		into[k] += n
	}
}

package config

import (
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// signalByName accepts TERM and SIGTERM, in any case. Signals that no process
// can catch are not found: they would end a worker without a drain.
func signalByName(name string) (syscall.Signal, bool) {
	sig := unix.SignalNum("SIG" + plainSignal(name))
	return sig, sig != 0 && sig != unix.SIGKILL && sig != unix.SIGSTOP
}

// plainSignal is the spelling that a Config has.
func plainSignal(name string) string {
	return strings.TrimPrefix(strings.ToUpper(name), "SIG")
}

// Rung is one signal of a drain, and how long after the first it is sent to a worker
// that is still there.
type Rung struct {
	Signal syscall.Signal
	After  time.Duration
}

// DrainLadder returns what Handoff.DrainSignals names, in order; SIGTERM at once
// when it names nothing that can be sent (Parse refuses that).
func (h Handoff) DrainLadder() []Rung {
	var rungs []Rung
	for _, s := range h.DrainSignals {
		if sig, ok := signalByName(s.Signal); ok {
			rungs = append(rungs, Rung{Signal: sig, After: s.After})
		}
	}
	if len(rungs) == 0 {
		return []Rung{{Signal: syscall.SIGTERM}}
	}
	return rungs
}

// DrainSignal returns the first signal of the ladder.
func (h Handoff) DrainSignal() syscall.Signal { return h.DrainLadder()[0].Signal }

// Quiesce returns the signal that Handoff.QuiesceSignal names; 0 for none.
func (h Handoff) Quiesce() syscall.Signal {
	if sig, ok := signalByName(h.QuiesceSignal); ok {
		return sig
	}
	return 0
}

// drainSignals reads a list of a name, or of tables.
func (d *decoder) drainSignals(n *node, into *[]DrainSignal) {
	if !n.isList {
		hint := `write it as in ["TERM"]`
		if s, ok := n.scalar.(string); ok {
			hint = fmt.Sprintf("write [%q]", s)
		}
		d.wrong(n, "a list", hint)
		return
	}
	known := tagged(reflect.TypeFor[DrainSignal]())
	result := make([]DrainSignal, len(n.list))
	for i, item := range n.list {
		_, isString := item.scalar.(string)
		switch {
		case item.table != nil:
			d.table(item, reflect.ValueOf(&result[i]).Elem(), known)
		case isString:
			result[i].Signal, _ = d.string(item)
		default:
			d.wrong(item, "a name or a table", `write it as in "TERM", or { signal = "TERM", after = "10s" }`)
		}
	}
	*into = result
}

func (r *rules) checkDrainSignals(n *node) {
	if n == nil || !n.isList {
		return
	}
	if len(n.list) == 0 {
		r.fail(n, "is empty", `write one signal, as in ["TERM"]; KILL follows by itself at drain_timeout`)
		return
	}
	alone := len(n.list) == 1
	for i := range n.list {
		item, s := n.list[i], &r.c.Handoff.DrainSignals[i]
		if r.faulty(item) {
			continue
		}
		at := item
		if item.table == nil && !alone {
			r.fail(item, fmt.Sprintf("%q does not say when, as each of several must", s.Signal),
				fmt.Sprintf(`write { signal = %q, after = "0s" }; KILL follows by itself at drain_timeout`, s.Signal))
			alone = true // once is enough
		}
		if item.table != nil {
			if at = item.find("signal"); at == nil {
				r.missing(item, item.key+".signal", `give its name, as in signal = "TERM"`)
			}
			r.checkAfter(item.near("after"), i)
		}
		if at != nil && !r.faulty(at) {
			r.signal(at, &s.Signal)
		}
	}
}

// checkAfter holds the time of one signal to that of the one before it, if that says
// any, and the last to drain_timeout.
func (r *rules) checkAfter(at *node, i int) {
	h := r.c.Handoff
	after := h.DrainSignals[i].After
	switch {
	case r.faulty(at):
	case i == 0 && after != 0:
		r.fail(at, "the first signal is sent at once", `write after = "0s"; to wait before it set drain_delay or drain_idle`)
	case i > 0 && after <= h.DrainSignals[i-1].After:
		r.fail(at, fmt.Sprintf("after %s is not above the %s before it", shortDuration(after), shortDuration(h.DrainSignals[i-1].After)),
			"the times count from the first signal")
	case i == len(h.DrainSignals)-1 && after > 0 && after >= h.DrainTimeout && h.DrainTimeout > 0:
		r.fail(at, fmt.Sprintf("after %s is not below drain_timeout %s", shortDuration(after), shortDuration(h.DrainTimeout)),
			"raise drain_timeout: KILL would come first")
	}
}

// signal checks a name and gives it the one spelling.
func (r *rules) signal(at *node, name *string) {
	if _, ok := signalByName(*name); !ok {
		r.fail(at, fmt.Sprintf("%q is not a signal that a program can act on", *name), `write it as in "TERM", "QUIT", "INT", "USR1"`)
		return
	}
	*name = plainSignal(*name)
}

func (r *rules) checkQuiesceSignal(n *node) {
	h := &r.c.Handoff
	if n == nil || h.QuiesceSignal == "" {
		return
	}
	r.signal(n, &h.QuiesceSignal)
	for _, s := range h.DrainSignals {
		if s.Signal == h.QuiesceSignal {
			r.fail(n, fmt.Sprintf("%s is one of drain_signals", s.Signal),
				"name another: the program would take it for its end, while connections are still queued for it")
		}
	}
}

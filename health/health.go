// Package health answers whether a worker is up. It holds the rule by which a
// worker counts as ready, and the probes that ask it.
//
// The invariants: readiness is never only a timer, unless the user asked for a
// timer; and when a try of a probe is over, passed or not, nothing of it is left:
// no goroutine, no connection, no listening socket.
//
// The package chooses no address and starts no process: how the one worker is
// reached, and how a command is run, is given to it.
package health

import (
	"fmt"
	"slices"
)

// Mode names what makes a worker ready.
type Mode string

// The modes.
const (
	Auto    Mode = "auto"    // the message where one is sure to come, else the proof of acceptance
	Notify  Mode = "notify"  // the worker's message, and nothing else
	Accept  Mode = "accept"  // the proof that it accepts connections
	HTTP    Mode = "http"    // a probe by HTTP passes, with TLS or without
	Exec    Mode = "exec"    // a probe that is a command passes
	Newline Mode = "newline" // the worker's message, which is a newline on a descriptor
	Delay   Mode = "delay"   // a time for which it has run
)

// Modes are all modes, in the order of documentation.
var Modes = []Mode{Auto, Notify, Accept, HTTP, Exec, Newline, Delay}

// ParseMode returns the mode of that name.
func ParseMode(s string) (Mode, error) {
	if m := Mode(s); slices.Contains(Modes, m) {
		return m, nil
	}
	return "", fmt.Errorf("ready %q: not one of %q", s, Modes)
}

// ByMessage says whether the worker's own message is all that makes it ready.
func (m Mode) ByMessage() bool { return m == Notify || m == Newline }

// ByProbe says whether a probe that passes is all that makes it ready.
func (m Mode) ByProbe() bool { return m == HTTP || m == Exec }

// Sign is an observation that may make a worker ready.
type Sign string

// The signs.
const (
	Said     Sign = "said"     // it sent its ready message
	Accepted Sign = "accepted" // it accepted an isolated connection on every listener
	Passed   Sign = "passed"   // a probe of it passed
	Elapsed  Sign = "elapsed"  // the delay is over and it still runs
)

// Readiness is the rule for one worker.
type Readiness struct {
	Mode Mode
	// Expected says that a message is sure to come: the worker's protocol
	// always sends one, or the generation that serves has sent one. Then Auto
	// waits for it, because a program that says when it is ready may well
	// accept before it is.
	Expected bool
}

// By says whether the sign makes the worker ready.
func (r Readiness) By(s Sign) bool {
	switch {
	case r.Mode.ByMessage():
		return s == Said
	case r.Mode.ByProbe():
		return s == Passed
	case r.Mode == Accept:
		return s == Accepted
	case r.Mode == Delay:
		return s == Elapsed
	default:
		return s == Said || s == Accepted && !r.Expected
	}
}

// WantsProof says whether a proof of acceptance would make the worker ready, so
// that it is worth seeking.
func (r Readiness) WantsProof() bool { return r.By(Accepted) }

// WantsProbe says whether a probe that passes would make the worker ready.
func (r Readiness) WantsProbe() bool { return r.By(Passed) }

// Package health answers whether a worker is up. It holds the rule by which a
// worker counts as ready; it decides, and never waits or connects by itself.
//
// The invariant: readiness is never only a timer, unless the user asked for a
// timer.
package health

import (
	"fmt"
	"slices"
)

// Mode names what makes a worker ready.
type Mode string

// The modes.
const (
	Auto   Mode = "auto"   // the message where one is sure to come, else the proof of acceptance
	Notify Mode = "notify" // the worker's message, and nothing else
	Accept Mode = "accept" // the proof that it accepts connections
	Delay  Mode = "delay"  // a time for which it has run
)

// Modes are all modes, in the order of documentation.
var Modes = []Mode{Auto, Notify, Accept, Delay}

// ParseMode returns the mode of that name.
func ParseMode(s string) (Mode, error) {
	if m := Mode(s); slices.Contains(Modes, m) {
		return m, nil
	}
	return "", fmt.Errorf("ready %q: not one of %q", s, Modes)
}

// Sign is an observation that may make a worker ready.
type Sign string

// The signs.
const (
	Said     Sign = "said"     // it sent its ready message
	Accepted Sign = "accepted" // it accepted an isolated connection on every listener
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
	switch r.Mode {
	case Notify:
		return s == Said
	case Accept:
		return s == Accepted
	case Delay:
		return s == Elapsed
	default:
		return s == Said || s == Accepted && !r.Expected
	}
}

// WantsProof says whether a proof of acceptance would make the worker ready, so
// that it is worth seeking.
func (r Readiness) WantsProof() bool { return r.By(Accepted) }
